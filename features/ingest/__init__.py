"""The ingest stage: records become items, each once; and sample data.

May import `features.readers` and the warehouse.
"""
