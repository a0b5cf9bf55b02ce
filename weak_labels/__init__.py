"""Labeling functions, votes, label models and the end model; a user's file of functions imports from here."""

from weak_labels.functions.builders import keywords, nearest, regex, vectorized
from weak_labels.functions.loader import load_functions
from weak_labels.functions.sql import sql
from weak_labels.functions.trained import cluster, model
from weak_labels.functions.types import ABSTAIN, ItemBatch, LabelingFunction
from weak_labels.prompting.function import prompt

__all__ = [
    "ABSTAIN",
    "ItemBatch",
    "LabelingFunction",
    "cluster",
    "keywords",
    "load_functions",
    "model",
    "nearest",
    "prompt",
    "regex",
    "sql",
    "vectorized",
]
