"""Labeling functions, votes, label models and the end model; a user's file of functions imports from here."""

from weak_labels.builders import keywords, nearest, regex, vectorized
from weak_labels.functions import ABSTAIN, ItemBatch, LabelingFunction, load_functions

__all__ = [
    "ABSTAIN",
    "ItemBatch",
    "LabelingFunction",
    "keywords",
    "load_functions",
    "nearest",
    "regex",
    "vectorized",
]
