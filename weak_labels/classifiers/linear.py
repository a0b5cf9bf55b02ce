"""The classifier of the end model: arrays in, probabilities out; weak labels first, gold labels after.

It knows no warehouse. What it learns from is read by `training_data.py`; `end_model.py` is the stage.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
from scipy.sparse import issparse

from warehouse import SettingsError
from warehouse.numeric import one_core, side_by_side
from weak_labels.classifiers.mlp import HiddenLayer
from weak_labels.functions import arguments
from weak_labels.losses import cross_entropy, softmax

T = TypeVar("T")
Floats = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.floating[Any]]
Features = Any
"""What a classifier sees of N items: `Vectors` [N, D], or these and their words in one sparse matrix (untyped)."""
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

VERSION = 13
"""Raised with every change of this file, or of what it is given to learn from, that could change a prediction; 2: few
weak labels hold gold labels less firmly; 3: weak labels of one class alone teach nothing; 4: gold labels scale what
weak ones taught, and move it more; 5: people's labels that are all alike teach nothing either; 6: people's labels alone
are pooled with what weak ones taught; 7: they say how firmly they are held where they stand alone, and of several
classes one that nobody votes for learns from them alone; 8: they say how many items have each of several classes, and
without weak labels vectors are seen through `weak_labels.classifiers.feature_map`; 9: with them too, by a second model;
10: a tie is a weak label of no one class; 11: of several classes one that nobody votes for sees vectors through the
map; 12: many items are summed up part by part; 13: classes with few of people's labels, or none, do not keep the others
from telling how far weak labels are believed."""
KINDS = ("linear", "mlp", "auto")
WEAK_RIDGE = 1.0
ENOUGH_WEAK = 150
"""Weak labels per class from which gold labels are held to them by the whole of `TAUGHT`."""
RAREST = 0.01
"""Share of the items below which `class_weights` takes no class to be: one label would outweigh all others."""
MAX_STEPS = 200
CHUNK = 65_536
"""Items predicted at a time."""
PART = 2_048
"""Items summed up at a time, of more than `FEW`: in double precision they stay in the processor's cache."""
FEW = 8_192
"""Items that are learned from at once."""
SUMS_TO_1 = 0.01
"""How far the sum of an item's weak labels may be from 1: they may be rounded to 16 bits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EndModelConfig:
    """What the end model predicts, and from which vectors.

    Attributes:
        classes: class names; the place of a name is its class id.
        encoder_id: encoder whose vectors it reads.
        kind: one of `KINDS`. mlp sees the vectors through a small hidden layer as well; auto picks by gold labels where
            there are enough, else linear; see `weak_labels.classifiers.heads`.
        seed: of the hidden layer's start. Part of the model's id only where kind is linear: that has one optimum and
            draws no random numbers.
        self_training: learn from labels that two views of the texts agree on instead of the weak labels themselves; see
            `weak_labels.classifiers.self_training`.
        calibrate: make the probabilities as sure as the answers are right, by the gold labels where there are enough;
            see `weak_labels.calibration`.
        multi_label: an item may have several classes or none; see `weak_labels.classifiers.one_vs_rest`.
        balanced: every class weighs the same in what is learned from, however rare it is; see `class_weights`.
        kept: folder for what weak labels taught, which is learned once while they are the same; None keeps nothing. It
            decides nothing.

    Raises:
        SettingsError: a value is out of range.
    """

    classes: tuple[str, ...]
    encoder_id: str
    kind: str = "linear"
    seed: int = 0
    self_training: bool = False
    calibrate: bool = False
    multi_label: bool = False
    balanced: bool = False
    kept: Path | None = None

    def __post_init__(self) -> None:
        arguments.check_classes(self.classes)
        for name in ("self_training", "balanced"):
            if self.multi_label and getattr(self, name):
                raise SettingsError(f"[end_model] {name} does not go with multi_label; set it to false.")
        if not self.encoder_id:
            raise SettingsError("encoder_id of the end model is empty; give the id that `vectors` was written with.")
        if self.kind not in KINDS:
            raise SettingsError(f"kind of the end model is '{self.kind}'; use one of {', '.join(KINDS)}.")
        arguments.whole(self.seed, "seed of the end model")
        if self.seed < 0:
            raise SettingsError(f"seed of the end model is {self.seed}; use 0 or more.")

    def params(self) -> dict[str, Any]:
        """All that decides a prediction besides the data, as JSON values."""
        params: dict[str, Any] = {"classes": list(self.classes), "encoder": self.encoder_id, "seed": self.seed}
        # A setting that is off is left out, so that adding it made no model stale.
        chosen = {
            name: True for name in ("self_training", "calibrate", "multi_label", "balanced") if getattr(self, name)
        }
        return {**params, **chosen, **({} if self.kind == "linear" else {"kind": self.kind})}


@dataclass(frozen=True, slots=True)
class Hold:
    """How firmly gold labels are held to the model that they move, see `EndModel.fit_gold`.

    Attributes:
        ridge: on the step of its weights.
        first: besides, divided by the number of gold labels: the first ones were selected as the hardest.
        scale: standard deviation of the logarithm by which its logits may be scaled as a whole, before any label.
        intercepts: of the one by which its intercepts may be scaled besides.
    """

    ridge: float
    first: float = 0.0
    scale: float = 0.0
    intercepts: float = 0.0


ALONE = Hold(0.1)
TAUGHT = Hold(0.3, first=10.0, scale=0.3, intercepts=0.2)
"""Measured in docs/decisions/gold-labels-weigh-weak-labels.md."""


@dataclass(frozen=True, slots=True)
class EndModel:
    """Multinomial logistic regression: weights [D, C] and intercepts [C]; `taught_C` are classes with weak labels.

    With a `hidden` layer it sees its units beside the features, D then counts both. Its logits are divided by
    `temperature`, which no fit looks at. `hold` says how firmly gold labels will be held to it.

    Weak then clean:

    1. `fit_weak`: logistic regression on the soft labels of covered train items, ridge 1.
    2. `fit_gold`: logistic regression on the gold items that starts from that model. It may scale the model's logits as
       a whole, which says how far it is to be believed: weak labels may be good or bad, and nobody knows before people
       answer. It may scale the intercepts besides: functions for some classes hit more than those for others. And it
       may move the weights, held by a ridge of 0.3, of 0.9 with 16 labels. Intercepts of taught classes are only
       scaled: people label what was selected for them, so the class shares among gold labels say nothing about those
       among all items. A few gold labels move the model a little, many as far as they like, so there is no weight to
       tune.
    3. `gold_step.learn` pools such models of several views of the items with one from gold labels alone, by how well
       each foretells labels.

    Without weak labels step 2 is plain logistic regression with all intercepts free, and a ridge of 0.1, or of what
    `gold_step.judge` found. Up to 150 weak labels per class the ridge of step 2 lies between the two, by their share of
    these: a model from ten weak labels knows next to nothing. (`one_vs_rest` holds to it by a ridge of 1 and scales
    nothing: there votes stand beside the model.)
    """

    weights_DC: Floats
    intercept_C: Floats
    taught_C: Bools
    hold: Hold = ALONE
    temperature: float = 1.0
    hidden: HiddenLayer | None = None

    @property
    def kind(self) -> str:
        """What `models` calls it."""
        return "mlp" if self.hidden else "logistic_regression"

    @classmethod
    def fit_weak(
        cls, vectors: Features, probs: Floats, weights: Floats, hidden: HiddenLayer | None = None
    ) -> Self | None:
        """Learn from weak labels alone.

        Args:
            vectors: [N, D] unit rows, with the words beside them where it sees both.
            probs: weak labels [N, C], rows that count sum to 1.
            weights: [N] how much each one counts, 0 or more; 0 leaves it out.
            hidden: what it looks through as well.

        Returns:
            The model, or None when every weight is 0.

        Raises:
            SettingsError: these are no finite numbers, do not fit together, or are out of range.
        """
        vectors, weights = _features(vectors, "Vectors"), arguments.finite(weights, "Weights", 1)
        probs = arguments.as_array(probs, "Weak labels")
        if probs.ndim != 2 or not vectors.shape[0] == len(probs) == len(weights):
            raise SettingsError(
                f"Vectors have shape {vectors.shape}, weak labels {probs.shape} and weights {weights.shape}; give a "
                "row of numbers, a probability for each class, and one weight for each item."
            )
        if (weights < 0).any():
            raise SettingsError(f"The least of the weights is {weights.min():g}; give 0 or more.")
        rows_N = weights > 0
        if not rows_N.any():
            return None
        probs_NC = arguments.finite(probs[rows_N], "Weak labels", 2)
        if (probs_NC < 0).any() or (np.abs(probs_NC.sum(axis=1) - 1.0) > SUMS_TO_1).any():
            raise SettingsError("Weak labels are no probabilities: those of an item must be 0 or more and sum to 1.")
        untrained = cls.untrained(vectors.shape[1], probs.shape[1], hidden)
        fitted = untrained._moved(vectors[rows_N], probs_NC, weights[rows_N], Hold(WEAK_RIDGE))
        enough = min(1.0, float(weights.sum()) / (ENOUGH_WEAK * probs.shape[1]))
        ridge = ALONE.ridge + (TAUGHT.ridge - ALONE.ridge) * enough
        hold = replace(TAUGHT, ridge=ridge, first=TAUGHT.first * enough)
        return replace(fitted, taught_C=weights[rows_N] @ probs_NC >= 1.0, hold=hold)

    @classmethod
    def fit_gold(
        cls,
        weak: "EndModel | None",
        vectors: Features,
        class_ids: Ints,
        classes: int,
        hidden: HiddenLayer | None = None,
        *,
        balanced: bool = False,
        ridge: float = ALONE.ridge,
    ) -> "EndModel":
        """Learn from gold labels on top of a model from weak labels.

        Args:
            weak: the result of `fit_weak`.
            vectors: vectors of the gold items [N, D]; N may be 0.
            class_ids: their labels [N], 0 to C - 1; leave out items that nobody labelled.
            classes: number of classes C.
            hidden: what it looks through as well where there is no weak model, which brings its own.
            balanced: each class weighs the same.
            ridge: on the weights where there is no weak model, which knows its own.

        Raises:
            SettingsError: a label is no class, vectors are no finite numbers, or do not fit labels or `weak`.
        """
        arguments.whole(classes, "The number of classes")
        class_ids = arguments.whole_numbers(class_ids, "Gold labels")
        vectors = _features(vectors, "Vectors", weak)
        if class_ids.shape != (vectors.shape[0],):
            raise SettingsError(
                f"Gold labels have shape {class_ids.shape}; give one for each of the {vectors.shape[0]} vectors."
            )
        if weak and len(weak.intercept_C) != classes:
            raise SettingsError(
                f"The model from weak labels has {len(weak.intercept_C)} classes, the gold labels {classes}."
            )
        if len(class_ids) and not (np.min(class_ids) >= 0 and np.max(class_ids) < classes):
            raise SettingsError(
                f"Gold labels range from {np.min(class_ids)} to {np.max(class_ids)}; {classes} classes have the "
                f"numbers 0 to {classes - 1}. Leave out items that nobody labelled, vectors too."
            )
        start = weak or cls.untrained(vectors.shape[1], classes, hidden)
        if len(class_ids) == 0:
            return start
        probs_NC, weights_N = np.eye(classes)[class_ids], np.ones(len(class_ids))
        hold = weak.hold if weak else Hold(ridge)
        return start._moved(vectors, probs_NC, class_weights(probs_NC, weights_N) if balanced else weights_N, hold)

    @classmethod
    def untrained(cls, dimensions: int, classes: int, hidden: HiddenLayer | None = None) -> Self:
        """The model that knows nothing: every class is equally probable."""
        seen = dimensions + (len(hidden.offset_H) if hidden else 0)
        return cls(np.zeros((seen, classes)), np.zeros(classes), np.zeros(classes, np.bool_), hidden=hidden)

    @classmethod
    def pooled(
        cls, models: Sequence["EndModel"], shares: Sequence[float], views: Sequence[slice], width: int
    ) -> "EndModel":
        """The logarithmic pool of models, which is one that says the weighed mean of their logits.

        Args:
            models: M models; only the first may have a hidden layer.
            shares: how much each one weighs [M]; they sum to 1.
            views: the columns that each one sees [M].
            width: columns of the features that the pool sees, D.
        """
        first = models[0]
        units = len(first.hidden.offset_H) if first.hidden else 0
        weights_DC = np.zeros((width + units, len(first.intercept_C)))
        intercept_C = np.zeros(len(first.intercept_C))
        for model, share, view in zip(models, shares, views, strict=True):
            seen = len(range(width)[view])
            weights_DC[:width][view] += share * model.weights_DC[:seen]
            weights_DC[width : width + len(model.weights_DC) - seen] += share * model.weights_DC[seen:]
            intercept_C += share * model.intercept_C
        return replace(first, weights_DC=weights_DC, intercept_C=intercept_C)

    def predict_proba(self, vectors: Features) -> Floats:
        """Class probabilities [N, C] of vectors [N, D]; rows sum to 1.

        Raises:
            SettingsError: vectors are no finite numbers, or as long as none that it learned from.
        """
        vectors = _features(vectors, "Vectors", self)
        logits_NC = np.empty((vectors.shape[0], len(self.intercept_C)))
        with one_core():
            for start in range(0, len(logits_NC), CHUNK):
                some = slice(start, start + CHUNK)  # in double precision all of them might not fit into memory
                logits_NC[some] = self._seen(vectors[some]) @ self.weights_DC + self.intercept_C
        return softmax(logits_NC / self.temperature)

    def _seen(self, vectors: Features) -> Features:
        features = self.hidden.beside(vectors) if self.hidden else vectors
        return features.astype(np.float64)

    def _moved(self, vectors: Features, probs_NC: Floats, weights_N: Floats, hold: Hold) -> Self:
        """This model scaled and moved to the least cross-entropy, both held to it.

        The minimum, over a scale exp(scale * u) of its logits, one exp(intercepts * v) of its intercepts and a step of
        its weights, of weighted cross-entropy + ridge/2 * squared step + (u**2 + v**2) / 2: the most probable model
        where these were normally distributed before.
        """
        from scipy.optimize import minimize  # takes a third of a second to import

        count, (d, c) = len(weights_N), self.weights_DC.shape
        target_NC = probs_NC * weights_N[:, None]
        ridge = hold.ridge + hold.first / count
        few, sparse = count <= FEW, issparse(vectors)
        features = self._seen(vectors) if few or sparse or self.hidden else vectors

        def by_part(work: Callable[[Features, slice], T]) -> list[T]:
            """What some work gives for each part of the items, in order: equal bits on any number of cores."""
            if few or sparse:
                return [work(features, slice(0, count))]
            return list(
                side_by_side(lambda part: work(features[part].astype(np.float64, copy=False), part), count, PART)
            )

        with one_core():
            start_NC = np.concatenate(by_part(lambda x_ND, _: x_ND @ self.weights_DC))

        def scales(step: Floats) -> tuple[float, float]:
            scale = float(np.exp(hold.scale * step[-2]))
            return scale, scale * float(np.exp(hold.intercepts * step[-1]))

        def loss_and_gradient(step: Floats) -> tuple[float, Floats]:
            step_DC, step_C = step[: d * c].reshape(d, c), step[d * c : -2]
            of_weights, of_intercepts = scales(step)
            always_C = of_intercepts * self.intercept_C

            def of_part(x_ND: Features, part: slice) -> tuple[float, Floats, Floats, float]:
                seen_NC = of_weights * start_NC[part]
                logits_NC = seen_NC + always_C + x_ND @ step_DC + step_C
                loss, error_NC = cross_entropy(logits_NC, target_NC[part], weights_N[part])
                return loss, x_ND.T @ error_NC, error_NC.sum(axis=0), float((error_NC * seen_NC).sum())

            losses, gradients, errors, by_weights = zip(*by_part(of_part), strict=True)
            loss, error_C = sum(losses), np.sum(errors, axis=0)
            gradient_DC = np.sum(gradients, axis=0) + ridge * step_DC
            by_intercepts = float(error_C @ always_C)
            by_both = sum(by_weights) + by_intercepts
            gradient_uv = np.array([hold.scale * by_both, hold.intercepts * by_intercepts]) + step[-2:]
            loss += 0.5 * ridge * float((step_DC**2).sum()) + 0.5 * float((step[-2:] ** 2).sum())
            return loss, np.concatenate([gradient_DC.reshape(-1), np.where(self.taught_C, 0.0, error_C), gradient_uv])

        with one_core():
            found = minimize(
                loss_and_gradient,
                np.zeros(d * c + c + 2),
                jac=True,
                method="L-BFGS-B",
                options={"maxiter": MAX_STEPS, "gtol": 1e-3, "ftol": 1e-8},
            )
        step = np.asarray(found.x, np.float64)
        of_weights, of_intercepts = scales(step)
        return replace(
            self,
            weights_DC=of_weights * self.weights_DC + step[: d * c].reshape(d, c),
            intercept_C=of_intercepts * self.intercept_C + step[d * c : -2],
        )


def _features(given: Features, what: str, model: EndModel | None = None) -> Features:
    """What a model sees as an array or a sparse matrix of finite numbers, as wide as what it learned from."""
    seen = given if issparse(given) else arguments.finite(given, what, 2)
    if model:
        width = len(model.weights_DC) - (len(model.hidden.offset_H) if model.hidden else 0)
        if seen.shape[1] != width:
            raise SettingsError(f"{what} have {seen.shape[1]} numbers each, the model learned from {width}.")
    return seen


def class_weights(probs: Floats, weights: Floats) -> Floats:
    """Weights [N] of items under which each class weighs the same, and all of them what they did.

    Args:
        probs: what the items are labelled with [N, C]; rows sum to 1.
        weights: how much each one counts [N]; 0 leaves it out. Not all are 0.

    Returns:
        the weights [N].
    """
    shares_C = np.maximum(probs[weights > 0].mean(axis=0), RAREST)
    balanced_N = weights * (probs @ (1 / shares_C))
    return balanced_N * (weights.sum() / balanced_N.sum())
