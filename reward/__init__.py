"""From human feedback to preference pairs, and from pairs to a scalar reward."""
