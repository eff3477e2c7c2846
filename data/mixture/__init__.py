"""Many sources as one stream: rates, caps, and the order of draws."""
