"""The vote stage: every function on every item, once per content and version, in worker processes.

May import `weak_labels.functions` and the warehouse.
"""
