"""The embed stage: items become vectors; and vectors for any file of texts.

May import `features.ingest`, `features.readers`, the warehouse, `engine.protocol` and `engine.errors`.
"""
