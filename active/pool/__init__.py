"""The pool of train items: what is known of them, their neighbour graph and clusters.

May import `features.neighbors` and the warehouse.
"""
