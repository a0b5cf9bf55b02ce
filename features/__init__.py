"""Raw records become items, vectors and an index."""
