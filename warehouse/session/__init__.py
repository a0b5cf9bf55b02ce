"""DuckDB in this process: opened one way, with its extensions, interrupts, and the errors of servers behind it.

May import `warehouse.files`, `warehouse.text` and `warehouse.errors`.
"""
