"""Where a warehouse is and how DuckDB attaches to it: addresses, locks, object store, connections.

May import `warehouse.session`, `warehouse.files`, `warehouse.text` and `warehouse.errors`.
"""
