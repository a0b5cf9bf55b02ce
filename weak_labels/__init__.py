"""Labeling functions, votes, label models and the end model; a user's file of functions imports from here."""

from weak_labels.builders import keywords, nearest, regex, vectorized
from weak_labels.function_file import load_functions
from weak_labels.functions import ABSTAIN, ItemBatch, LabelingFunction
from weak_labels.model_functions import cluster, model
from weak_labels.prompt import prompt
from weak_labels.sql_function import sql

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
