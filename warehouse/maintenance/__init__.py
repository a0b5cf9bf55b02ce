"""Upkeep beside readers and writers: compaction, expiry, and rows of superseded models.

May import `warehouse.commits` and what stands below it.
"""
