"""Tables and views as data, what is derived from them, and migrations from each released schema.

May import `warehouse.storage` and what stands below it.
"""
