"""Records, files, chat rendering and batches. Knows no model."""
