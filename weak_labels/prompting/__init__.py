"""Labeling functions that ask a language model: the function, its client, kept answers, limits of time and cost.

May import `weak_labels.functions` and the warehouse.
"""
