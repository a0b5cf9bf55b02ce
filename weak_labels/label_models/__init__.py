"""Label models: from the votes of labeling functions to class probabilities. One file per model, one stage."""

from weak_labels.label_models.fit import KINDS, LabelModelConfig, LabelModelFit, fit
from weak_labels.label_models.stage import label_model

__all__ = ["KINDS", "LabelModelConfig", "LabelModelFit", "fit", "label_model"]
