"""Labeling functions: their types, builders, the user's file, versions, and one call with its faults.

May import `weak_labels.losses` and the warehouse.
"""
