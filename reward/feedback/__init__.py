"""Feedback kinds: one module each turns its raw records into preference pairs."""
