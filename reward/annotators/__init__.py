"""Annotators: how far they agree, who can be trusted, and when."""
