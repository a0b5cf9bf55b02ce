"""Label models: from the votes of labeling functions to class probabilities. One file per model, one stage."""

from weak_labels.label_models.fit import KINDS, LabelModelConfig, LabelModelFit, fit
from weak_labels.label_models.multi_label import fit_multi_label
from weak_labels.label_models.stage import label_model, read_votes
from weak_labels.label_models.votes import VoteMatrix

__all__ = [
    "KINDS",
    "LabelModelConfig",
    "LabelModelFit",
    "VoteMatrix",
    "fit",
    "fit_multi_label",
    "label_model",
    "read_votes",
]
