"""The queue: push, collect and reconcile, so that every item is asked once and every answer comes back once.

May import the annotation services, `active.selection` and what stands below them.
"""
