"""What the end model learned from weak labels, and which head goes on from there: linear, or with a hidden layer.

`auto` asks people's labels: the hidden layer is used where it gets more of them right, each label judging a model that
did not see it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from weak_labels.calibration import LEAST_GOLD, calibrate, cross_validated
from weak_labels.classifier import EndModel, EndModelConfig, Features, Floats, Ints, Vectors, class_weights
from weak_labels.gold_step import Judged, judge, learn
from weak_labels.hidden_layer import HiddenLayer
from weak_labels.kept_models import KeptModels
from weak_labels.self_training import Words

STANDARD_ERRORS = 1.5
"""By how many standard errors of the paired difference the hidden layer must be ahead."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Learned:
    """An end model, and how it came about as JSON values."""

    model: EndModel
    detail: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Heads:
    """The end model before people's labels.

    Attributes:
        config: the end model.
        vectors: of all items [N, E].
        features: what a model sees of them; the vectors are their first columns.
        weak: by kind of head, what it learned from weak labels; None without any.
        words: what it sees of the texts beside the vectors; None where it sees vectors alone.
    """

    config: EndModelConfig
    vectors: Vectors
    features: Features
    weak: Mapping[str, EndModel | None]
    words: Words | None = None

    @classmethod
    def fit(
        cls,
        config: EndModelConfig,
        vectors: Vectors,
        features: Features,
        rows: Ints,
        probs: Floats,
        weights: Floats,
        kept: KeptModels | None = None,
    ) -> "Heads":
        """Learn the heads that the settings may use from weak labels.

        Args:
            config: the end model.
            vectors: of all items [N, E].
            features: of all items, the vectors first.
            rows: items to learn from [M].
            probs: their weak labels [M, C].
            weights: [M] how much each one counts.
            kept: where what weak labels teach is kept; None where they are not to be, and where there are none.
        """

        def taught(kind: str) -> EndModel | None:
            seen, hidden = features[rows], None
            counted = _counted(config, probs, weights)
            if kind == "mlp" and weights.any():
                hidden = HiddenLayer.fit(vectors[rows], probs, counted, config.seed)
            return EndModel.fit_weak(seen, probs, counted, hidden)

        weak: dict[str, EndModel | None] = {}
        for kind in ("linear", "mlp") if config.kind == "auto" else (config.kind,):
            weak[kind] = kept.model(kind, partial(taught, kind)) if kept else taught(kind)
        return cls(config=config, vectors=vectors, features=features, weak=weak)

    def learned(self, rows: Ints, class_ids: Ints, *, from_weak: bool = True, judging: bool = True) -> Learned:
        """Go on from people's labels.

        Args:
            rows: items with a gold label [M].
            class_ids: their labels [M].
            from_weak: begin at what weak labels taught.
            judging: ask the labels how to learn from them, see `weak_labels.gold_step`.
        """
        classes, balanced = len(self.config.classes), self.config.balanced
        taught_by = self.weak if from_weak else dict.fromkeys(self.weak)
        # Once, and not in every fold of what is chosen below.
        judged = {
            kind: judge(taught, self.features[rows], class_ids, classes, balanced=balanced)
            for kind, taught in taught_by.items()
            if judging and (taught or kind == "linear")
        }

        def fitted(kind: str, some: Ints) -> EndModel:
            taught = taught_by[kind]
            hidden = None
            if kind == "mlp" and taught is None and len(some):
                labels = np.eye(classes)[class_ids[some]]
                counted = _counted(self.config, labels, np.ones(len(some)))
                hidden = HiddenLayer.fit(self.vectors[rows[some]], labels, counted, self.config.seed)
            how = judged.get(kind, Judged())
            return learn(
                taught, self.features[rows[some]], class_ids[some], classes, hidden, balanced=balanced, judged=how
            )

        def held_out(kind: str, some: Ints, others: Ints) -> Floats:
            return fitted(kind, some).predict_proba(self.features[rows[others]])

        kind, detail = self.config.kind, dict[str, Any]()
        if kind == "auto":
            answers = {kind: cross_validated(class_ids, classes, partial(held_out, kind)) for kind in self.weak}
            kind, detail["auto"] = _chosen(answers, class_ids)
        if self.config.kind != "linear":
            detail["wanted"] = self.config.kind
        model = fitted(kind, np.arange(len(rows)))
        if kind in judged and judged[kind].share < 1.0:
            detail["belief_in_weak_labels"] = round(judged[kind].share, 4)
        if self.config.calibrate:
            found = calibrate(class_ids, classes, partial(held_out, kind))
            model, detail["calibration"] = replace(model, temperature=found.temperature), asdict(found)
        return Learned(model=model, detail=detail)


def _counted(config: EndModelConfig, probs: Floats, weights: Floats) -> Floats:
    """The weights [N] of labels [N, C] by the settings."""
    return class_weights(probs, weights) if config.balanced and weights.any() else weights


def _chosen(answers: Mapping[str, Floats | None], class_ids: Ints) -> tuple[str, dict[str, Any]]:
    """The kind of head to use, and the figures that decided."""
    linear, mlp = answers["linear"], answers["mlp"]
    if linear is None or mlp is None:
        return "linear", {"by": f"fewer than {LEAST_GOLD} gold labels, or of one class", "gold_labels": len(class_ids)}
    right = {
        kind: (probs.argmax(axis=1) == class_ids).astype(np.float64)
        for kind, probs in (("linear", linear), ("mlp", mlp))
    }
    lead_N = right["mlp"] - right["linear"]
    ahead = lead_N.mean() > STANDARD_ERRORS * lead_N.std(ddof=1) / np.sqrt(len(lead_N))
    figures = {
        "by": "gold labels, cross-validated",
        "gold_labels": len(class_ids),
        "accuracy": {kind: round(float(right_N.mean()), 4) for kind, right_N in right.items()},
    }
    return ("mlp" if ahead else "linear"), figures
