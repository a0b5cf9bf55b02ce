"""The end model of a multi-label project: for each class the end model of two classes, "has it not" and "has it".

So heads, weak labels, gold labels and calibration work as they do for one class per item, and a class learns nothing
from what is said about the others.

Shape letters: N items, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from weak_labels.calibration import Floats as Probs
from weak_labels.classifier import Bools, EndModel, EndModelConfig, Features, Floats, Ints, Vectors
from weak_labels.heads import Heads

Label = int | tuple[int, ...]
"""A class id; in a multi-label project all class ids of an item, maybe none."""
Truth = npt.NDArray[Any]
"""Labels of N items: class ids [N], in a multi-label project sets [N, C] of booleans."""


@dataclass(frozen=True, slots=True)
class OneVsRest:
    """C end models of two classes each."""

    models: tuple[EndModel, ...]

    @property
    def kind(self) -> str:
        """What `models` calls it."""
        return "_".join(("one_vs_rest", *sorted({model.kind for model in self.models})))

    def predict_proba(self, vectors: Features) -> Floats:
        """The probability of each class [N, C]; rows do not sum to 1."""
        return np.stack([model.predict_proba(vectors)[:, 1] for model in self.models], axis=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnedSets:
    """An end model, and how it came about as JSON values."""

    model: OneVsRest
    detail: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class OneVsRestHeads:
    """The end model before people's labels, as `weak_labels.heads.Heads` for each class by its name."""

    features: Vectors
    by_class: dict[str, Heads]

    @classmethod
    def fit(
        cls, config: EndModelConfig, vectors: Vectors, rows: Ints, probs: Floats, weights: Floats
    ) -> "OneVsRestHeads":
        """Learn from weak labels.

        Args:
            config: the end model.
            vectors: of all items [N, D].
            rows: items to learn from [M].
            probs: their weak labels [M, C], which need not sum to 1.
            weights: [M] how much each one counts.
        """
        yes_no = replace(config, classes=("no", "yes"), multi_label=False)
        heads = [Heads.fit(yes_no, vectors, vectors, rows, np.stack([1 - of, of], axis=1), weights) for of in probs.T]
        return cls(features=vectors, by_class=dict(zip(config.classes, heads, strict=True)))

    def learned(self, rows: Ints, sets: Bools, *, from_weak: bool = True) -> LearnedSets:
        """Go on from people's labels.

        Args:
            rows: items with a gold label [M].
            sets: their classes [M, C].
            from_weak: begin at what weak labels taught.
        """
        found = {
            name: heads.learned(rows, of.astype(np.int64), from_weak=from_weak)
            for (name, heads), of in zip(self.by_class.items(), sets.T, strict=True)
        }
        details = {name: learned.detail for name, learned in found.items() if learned.detail}
        return LearnedSets(
            model=OneVsRest(tuple(learned.model for learned in found.values())),
            detail={"by_class": details} if details else {},
        )


def truth(labels: Sequence[Label], classes: int, *, multi_label: bool) -> Truth:
    """Labels as an array."""
    if not multi_label:
        return np.array(labels, np.int64)
    sets = np.zeros((len(labels), classes), np.bool_)
    for row, class_ids in enumerate(labels):
        sets[row, list(class_ids if isinstance(class_ids, tuple) else (class_ids,))] = True
    return sets


def confidence(probs: Probs, *, multi_label: bool) -> Probs:
    """How sure each prediction is [N]: of its class, or of the class whose yes or no it is least sure of."""
    return np.maximum(probs, 1 - probs).min(axis=1) if multi_label else probs.max(axis=1)
