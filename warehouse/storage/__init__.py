"""The Parquet files under the tables: how rows lie in them, checksums, and that they are on disk before a commit.

May import `warehouse.catalog` and what stands below it.
"""
