"""Readers of raw files: sources, records, JSON lines, CSV, Parquet, and files of labels.

May import the warehouse only.
"""
