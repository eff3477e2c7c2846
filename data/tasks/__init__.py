"""Tasks as instructions: instances, templates, demonstrations."""
