"""Ratings from battles: pure numpy, which knows nothing of records. Arrays in, arrays out."""
