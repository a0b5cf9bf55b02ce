"""The select stage: which items go to annotators next, exploration, and when to stop.

May import `active.strategies`, `active.value` and what stands below them.
"""
