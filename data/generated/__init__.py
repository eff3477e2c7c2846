"""Instructions written by a language model, from a few that people wrote."""
