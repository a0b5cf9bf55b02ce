"""Files on this machine: written atomically, private to their owner, scratch and spill folders, room on disk.

May import `warehouse.errors` only.
"""
