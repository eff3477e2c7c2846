"""Known exports of human feedback, each read into raw records."""
