"""The encoder: texts in, unit vectors out; usable alone."""
