"""What the end model learned from weak labels, and which head goes on from there: linear, or with a hidden layer.

`auto` asks people's labels: the hidden layer is used where it gets more of them right, each label judging a model that
did not see it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
from scipy.sparse import issparse

from weak_labels.calibration import LEAST_GOLD, calibrate, cross_validated
from weak_labels.classifiers.checkpoints import KeptModels
from weak_labels.classifiers.gold_update import Judged, judge, learn
from weak_labels.classifiers.inputs import Sight
from weak_labels.classifiers.linear import EndModel, EndModelConfig, Features, Floats, Ints, Vectors, class_weights
from weak_labels.classifiers.mlp import HiddenLayer

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
        sight: what a model sees.
        features: that of all items [N, D].
        weak: by kind of head, what it learned from weak labels in each view; empty without any.
    """

    config: EndModelConfig
    sight: Sight
    features: Features
    weak: Mapping[str, tuple[EndModel, ...]]

    @classmethod
    def fit(
        cls,
        config: EndModelConfig,
        sight: Sight,
        features: Features,
        rows: Ints,
        probs: Floats,
        weights: Floats,
        kept: KeptModels | None = None,
    ) -> "Heads":
        """Learn the heads that the settings may use from weak labels.

        Args:
            config: the end model.
            sight: what a model sees.
            features: that of all items [N, D].
            rows: items to learn from [M].
            probs: their weak labels [M, C].
            weights: [M] how much each one counts.
            kept: where what weak labels teach is kept; None where they are not to be, and where there are none.
        """
        counted = _counted(config, probs, weights)

        @cache
        def weakly_labelled() -> Features:
            return features[rows]

        def taught(kind: str, view: slice) -> EndModel | None:
            seen, hidden = weakly_labelled()[:, view], None
            if kind == "mlp":
                hidden = HiddenLayer.fit(_vectors(seen, sight), probs, counted, config.seed)
            return EndModel.fit_weak(seen, probs, counted, hidden)

        def model(name: str, kind: str, view: slice) -> EndModel | None:
            return kept.model(name, partial(taught, kind, view)) if kept else taught(kind, view)

        kinds = ("linear", "mlp") if config.kind == "auto" else (config.kind,)
        if not weights.any():
            return cls(config=config, sight=sight, features=features, weak=dict.fromkeys(kinds, ()))
        first, *others = sight.views(features)
        # Only the first view is seen through a hidden layer.
        beside = [model(f"view-{place}", "linear", view) for place, view in enumerate(others, start=2)]
        weak = {kind: tuple(of for of in (model(kind, kind, first), *beside) if of) for kind in kinds}
        return cls(config=config, sight=sight, features=features, weak=weak)

    def learned(self, rows: Ints | slice, class_ids: Ints, *, from_weak: bool = True, judging: bool = True) -> Learned:
        """Go on from people's labels.

        Args:
            rows: items with a gold label [M]; of all of them a slice, which copies nothing.
            class_ids: their labels [M].
            from_weak: begin at what weak labels taught.
            judging: ask the labels how to learn from them, see `weak_labels.classifiers.gold_update`.
        """
        classes, balanced = len(self.config.classes), self.config.balanced
        taught_by = self.weak if from_weak else dict.fromkeys(self.weak, ())
        views, labelled = self.sight.views(self.features), self.features[rows]
        # Once, and not in every fold of what is chosen below.
        judged = {
            kind: judge(taught, labelled, class_ids, classes, views=views, balanced=balanced)
            for kind, taught in taught_by.items()
            if judging and (taught or kind == "linear")
        }

        def fitted(kind: str, some: Ints | slice) -> EndModel:
            weak, seen, hidden = taught_by[kind], labelled[some], None
            if kind == "mlp" and not weak and len(class_ids[some]):
                labels = np.eye(classes)[class_ids[some]]
                counted = _counted(self.config, labels, np.ones(len(labels)))
                hidden = HiddenLayer.fit(_vectors(seen[:, views[-1]], self.sight), labels, counted, self.config.seed)
            how = judged.get(kind) or Judged.before_any(weak)
            return learn(weak, seen, class_ids[some], classes, hidden, views=views, balanced=balanced, judged=how)

        def held_out(kind: str, some: Ints, others: Ints) -> Floats:
            return fitted(kind, some).predict_proba(labelled[others])

        kind, detail = self.config.kind, dict[str, Any]()
        if kind == "auto":
            answers = {kind: cross_validated(class_ids, classes, partial(held_out, kind)) for kind in self.weak}
            kind, detail["auto"] = _chosen(answers, class_ids)
        if self.config.kind != "linear":
            detail["wanted"] = self.config.kind
        model = fitted(kind, slice(None))
        if taught_by[kind] and kind in judged and judged[kind].of_weak < 1.0:
            detail["belief_in_weak_labels"] = round(judged[kind].of_weak, 4)
        if self.config.calibrate:
            found = calibrate(class_ids, classes, partial(held_out, kind), _copies(labelled))
            model, detail["calibration"] = replace(model, temperature=found.temperature), asdict(found)
        return Learned(model=model, detail=detail)


def _copies(seen: Features) -> Ints:
    """For each item [N] the place of the first one that is seen as the same."""
    rows = [seen[place] for place in range(seen.shape[0])]
    keys = [row.indices.tobytes() + row.data.tobytes() if issparse(row) else row.tobytes() for row in rows]
    first_of = {key: place for place, key in reversed(list(enumerate(keys)))}
    return np.array([first_of[key] for key in keys], np.int64)


def _vectors(seen: Features, sight: Sight) -> Vectors:
    """The vectors [N, E] that features begin with."""
    vectors = seen[:, : sight.feature_map.dimensions]
    return vectors.toarray() if issparse(vectors) else vectors


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
