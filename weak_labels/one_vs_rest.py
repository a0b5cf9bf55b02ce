"""The end model of a multi-label project: for each class the end model of two classes, "has it not" and "has it".

So weak labels, gold labels and ridges work as they do for one class per item, and a class learns nothing from what is
said about the others. `fit_gold` is the one place that knows both kinds of end model.

Shape letters: N items, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from weak_labels.calibration import Calibration
from weak_labels.calibration import Floats as Probs
from weak_labels.classifier import KIND, Bools, EndModel, EndModelConfig, Features, Floats, Ints

Label = int | tuple[int, ...]
"""A class id; in a multi-label project all class ids of an item, maybe none."""


@dataclass(frozen=True, slots=True)
class OneVsRest:
    """C end models of two classes each."""

    models: tuple[EndModel, ...]

    @classmethod
    def fit_weak(cls, vectors: Features, probs: Floats, weights: Floats) -> Self | None:
        """Learn from weak labels alone: as `EndModel.fit_weak`, with probabilities [N, C] that need not sum to 1."""
        found = [EndModel.fit_weak(vectors, np.stack([1 - of, of], axis=1), weights) for of in probs.T]
        models = tuple(model for model in found if model is not None)
        return cls(models) if models else None

    @classmethod
    def fit_gold(cls, weak: "OneVsRest | None", vectors: Features, sets: Bools) -> "OneVsRest":
        """Learn from gold labels on top of a model from weak labels.

        Args:
            weak: the result of `fit_weak`.
            vectors: vectors of the gold items [N, D]; N may be 0.
            sets: the classes of each [N, C].
        """
        return cls(
            tuple(
                EndModel.fit_gold(weak.models[c] if weak else None, vectors, sets[:, c].astype(np.int64), 2)
                for c in range(sets.shape[1])
            )
        )

    def predict_proba(self, vectors: Features) -> Floats:
        """The probability of each class [N, C]; rows do not sum to 1."""
        return np.stack([model.predict_proba(vectors)[:, 1] for model in self.models], axis=1)


def as_sets(labels: Sequence[tuple[int, ...]], classes: int) -> Bools:
    """Sets of classes as a matrix [N, C]."""
    sets = np.zeros((len(labels), classes), np.bool_)
    for row, class_ids in enumerate(labels):
        sets[row, list(class_ids)] = True
    return sets


def truth(labels: Sequence[Label], classes: int, *, multi_label: bool) -> Ints | Bools:
    """Labels as arrays: class ids [N], in a multi-label project sets [N, C]."""
    if multi_label:
        return as_sets([label for label in labels if isinstance(label, tuple)], classes)
    return np.array(labels, np.int64)


def fit_gold(
    weak: EndModel | OneVsRest | None, vectors: Features, labels: Sequence[Label], config: EndModelConfig
) -> tuple[EndModel | OneVsRest, Calibration]:
    """The end model of a project after its gold labels.

    Args:
        weak: the model from weak labels, of the same kind; None without any.
        vectors: of the gold items [N, D].
        labels: their labels [N].
        config: says which kind of model.
    """
    known = truth(labels, len(config.classes), multi_label=config.multi_label)
    if config.multi_label:
        assert not isinstance(weak, EndModel)
        return OneVsRest.fit_gold(weak, vectors, known.astype(np.bool_)), Calibration()
    assert not isinstance(weak, OneVsRest)
    return EndModel.learned(weak, vectors, known.astype(np.int64), config)


def kind_of(config: EndModelConfig) -> str:
    """Name of the kind of model, as `models.kind` has it."""
    return f"one_vs_rest_{KIND}" if config.multi_label else KIND


def confidence(probs: Probs, *, multi_label: bool) -> Probs:
    """How sure each prediction is [N]: of its class, or of the class whose yes or no it is least sure of."""
    return np.maximum(probs, 1 - probs).min(axis=1) if multi_label else probs.max(axis=1)
