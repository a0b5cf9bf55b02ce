"""Scores and reports: evaluation, gold files, reports of functions, preview and suggested functions.

May import all other rooms of `weak_labels`, `features.readers` and the warehouse.
"""
