"""Rows in files that people take away: the training set with its manifest, CSV, JSON lines and Parquet.

May import `warehouse.commits` and what stands below it.
"""
