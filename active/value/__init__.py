"""What a label of an item is worth: the value stage and its parts.

May import `active.pool`, `features.neighbors` and the warehouse.
"""
