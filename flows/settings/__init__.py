"""The settings of a project: what may stand in `siftline.toml`, read and checked.

May import the warehouse only.
"""
