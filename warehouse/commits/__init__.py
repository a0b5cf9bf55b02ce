"""The one way to write: a stage's rows land whole or not at all, once; and the history of commits.

May import `warehouse.queries` and what stands below it.
"""
