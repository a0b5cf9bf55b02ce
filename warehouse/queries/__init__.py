"""Every way to read: one snapshot at a time, sandboxed for SQL that people type, and the saved questions.

May import `warehouse.schema` and what stands below it.
"""
