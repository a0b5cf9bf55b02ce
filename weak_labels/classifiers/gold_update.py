"""The gold step of the end model: what weak labels taught, moved by people's labels and pooled with these alone.

Weak labels teach a model in each view of the items, see `weak_labels.classifiers.inputs`, and gold labels move each of
these (`EndModel.fit_gold`). Held to bad weak labels, though, gold labels are worth less than alone. So the end model is
the logarithmic pool of all these and of a model of gold labels alone, the weighted mean of their logits, and each
weighs as well as it foretold gold labels that it had not seen. The model of gold labels alone
is held as firmly as such labels say. Measured in docs/decisions/gold-labels-weigh-weak-labels.md.

Source: Yao et al. 2018, Using stacking to average Bayesian predictive distributions (there "pseudo-BMA"),
https://arxiv.org/abs/1704.02030
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from scipy.sparse import issparse

from warehouse.numeric import one_core
from weak_labels.calibration import LEAST_GOLD, folds
from weak_labels.classifiers.linear import ALONE, Bools, EndModel, Features, Floats, Ints
from weak_labels.classifiers.mlp import HiddenLayer
from weak_labels.functions import arguments
from weak_labels.losses import softmax

BELIEFS = (6.0, 5.0)
"""Logarithm of the odds for the model from weak labels in each view, against one of gold labels alone, before any
label: selected labels say less against it than they seem to. Good functions lose by the second view."""
FEWEST_PER_CLASS = 2
"""Gold labels of a class below which it judges nothing: one alone is foretold by a model that never saw its class."""
HALF_COUNTED = 5
"""Gold labels with which a class counts half as much as one of many: the first few are foretold from hardly any."""
TELLING = 5
"""Gold labels for each class that weak labels taught, among which one that has none is rare, and the others may judge
without it. Among fewer it may be common: labels that lack it are foretold best by a model that never says it."""
RIDGES = (ALONE.ridge, 0.3, 1.0)
"""How firmly a model of gold labels alone may be held; the first without evidence for another."""
MOST_JUDGED = 300
"""Gold labels that judge; more would decide no better and take longer."""
WHOLE = (slice(None),)
"""The one view of who sees all there is."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What gold labels say of how to learn from them.

    Attributes:
        shares: of the models in the pool: those from weak labels, one per view, then the one of gold labels alone.
        ridge: of the model from gold labels alone.
    """

    shares: tuple[float, ...] = (1.0,)
    ridge: float = ALONE.ridge

    @classmethod
    def before_any(cls, weak: Sequence[EndModel]) -> Self:
        """What is believed of models from weak labels while gold labels are too few to tell."""
        return cls((*_shares(BELIEFS[: len(weak)]), 0.0)) if weak else cls()

    @property
    def of_weak(self) -> float:
        """Share of what weak labels taught, 0 to 1."""
        return 1.0 - self.shares[-1]


def learn(
    weak: Sequence[EndModel],
    features: Features,
    class_ids: Ints,
    classes: int,
    hidden: HiddenLayer | None = None,
    *,
    views: Sequence[slice] = WHOLE,
    balanced: bool = False,
    judged: Judged | None = None,
) -> EndModel:
    """Learn from gold labels on top of models from weak labels.

    Args:
        weak: the results of `EndModel.fit_weak`, one per view, or none.
        features: what there is to see of the gold items [N, D]; N may be 0.
        class_ids: their labels [N], 0 to C - 1; leave out items that nobody labelled.
        classes: number of classes C.
        hidden: what a model of gold labels alone looks through as well.
        views: columns that each model sees; gold labels alone see the last ones.
        balanced: each class weighs the same.
        judged: how; None asks `judge`.

    Raises:
        SettingsError: a label is no class.
    """
    features = features if issparse(features) else np.asarray(features)
    width = features.shape[1]
    moved = [
        EndModel.fit_gold(model, features[:, view], class_ids, classes, balanced=balanced)
        for model, view in zip(weak, views, strict=bool(weak))
    ]
    judged = judged or judge(weak, features, class_ids, classes, views=views, balanced=balanced)
    seen_by = [*views[: len(weak)], views[-1]]
    if judged.shares[-1] == 0.0:
        return EndModel.pooled(moved, judged.shares[:-1], seen_by[:-1], width)
    alone = EndModel.fit_gold(
        None, features[:, views[-1]], class_ids, classes, hidden, balanced=balanced, ridge=judged.ridge
    )
    return EndModel.pooled([*moved, alone], judged.shares, seen_by, width)


def judge(
    weak: Sequence[EndModel],
    features: Features,
    class_ids: Ints,
    classes: int,
    *,
    views: Sequence[slice] = WHOLE,
    balanced: bool = False,
) -> Judged:
    """How far weak labels are believed beside gold labels alone, and how firmly a model of these is held.

    Models learn from four fifths of the gold labels and foretell the others. Between weak labels and gold ones classes
    count the same but for those with a few labels, since people label what was selected for them: shares of classes
    among gold labels say nothing about those among all items. Nothing is said against weak labels before the classes
    that they taught have labels, or two of them where many labels are of no other.

    Args:
        weak: the results of `EndModel.fit_weak`, one per view, or none.
        features: what there is to see of the gold items [N, D].
        class_ids: their labels [N].
        classes: number of classes C.
        views: columns that each model sees; gold labels alone see the last ones.
        balanced: each class weighs the same in what is learned.
    """
    features = features if issparse(features) else np.asarray(features)
    class_ids = arguments.whole_numbers(class_ids, "Gold labels")
    rows = np.random.default_rng(0).permutation(len(class_ids))[:MOST_JUDGED]
    labels = class_ids[rows]
    number_C = np.bincount(labels, minlength=classes)
    enough_C = number_C >= FEWEST_PER_CLASS
    # Few weak labels may have taught one class or none; two classes are the fewest to tell apart.
    if enough_C.sum() < 2 or any(enough_C[of.taught_C].sum() < _needed(of, len(labels)) for of in weak):
        return Judged.before_any(weak)

    def foretold(model: EndModel | None, seen: Floats, ridge: float = ALONE.ridge) -> Floats:
        def from_some(learn: Bools) -> EndModel:
            return EndModel.fit_gold(model, seen[learn], labels[learn], classes, balanced=balanced, ridge=ridge)

        return _foretold(from_some, seen, labels)

    _, seen = _in_their_space(None, features[rows][:, views[-1]])
    by_ridge = {ridge: foretold(None, seen, ridge) for ridge in (RIDGES if len(labels) >= LEAST_GOLD else RIDGES[:1])}
    # The logarithm of how probable labels and ridge are, which is log-normal about the first before any label.
    ridge = max(by_ridge, key=lambda ridge: float(by_ridge[ridge].sum() - 0.5 * np.log(ridge / RIDGES[0]) ** 2))
    if not weak:
        return Judged(ridge=ridge)
    weight_N = (enough_C / (number_C + HALF_COUNTED))[labels]
    labels_that_count = weight_N.sum() ** 2 / (weight_N**2).sum()
    odds = list[float]()
    for belief, model, view in zip(BELIEFS, weak, views, strict=False):
        seen = features[rows][:, view]
        seen = model.hidden.beside(seen) if model.hidden else seen
        lead_N = foretold(*_in_their_space(model, seen)) - by_ridge[ridge]
        odds.append(belief + float((weight_N * lead_N).sum() / weight_N.sum() * labels_that_count))
    return Judged(_shares([*odds, 0.0]), ridge)


def _needed(weak: EndModel, labels: int) -> int:
    """Of how many classes that weak labels taught there have to be gold labels, so that these judge."""
    taught = int(weak.taught_C.sum())
    return min(2, taught) if labels >= TELLING * taught else taught


def _shares(odds: Sequence[float]) -> tuple[float, ...]:
    """Shares that sum to 1, from the logarithms of odds."""
    return tuple(softmax(np.clip([odds], -50.0, 50.0))[0].tolist())


def _in_their_space(weak: EndModel | None, seen: Features) -> tuple[EndModel | None, Floats]:
    """A model, and what it sees of N items [N, D], in the at most N dimensions that the items span.

    A ridge keeps weights in that space, so models that learn there say the same, and sooner where words are seen.
    """
    seen = seen.astype(np.float64)
    with one_core():
        products = seen @ seen.T
        squares_R, basis_NR = np.linalg.eigh(products.toarray() if issparse(products) else products)
        spanned_R = squares_R > 1e-9 * squares_R.max()
        lengths_R, basis_NR = np.sqrt(squares_R[spanned_R]), basis_NR[:, spanned_R]
        if weak:
            weights_RC = (basis_NR / lengths_R).T @ (seen @ weak.weights_DC)
            weak = replace(weak, weights_DC=weights_RC, hidden=None)
    return weak, basis_NR * lengths_R


def _foretold(learn: Callable[[Bools], EndModel], vectors: Features, class_ids: Ints) -> Floats:
    """Logarithm of what a model that did not see a label says of it [N], of a millionth at least.

    Args:
        learn: learns from some of the labels [N].
        vectors: what a model sees of the items [N, D].
        class_ids: the labels [N].
    """
    fold_N, said_N = folds(class_ids), np.zeros(len(class_ids))
    for fold in np.unique(fold_N):
        others = np.flatnonzero(fold_N == fold)
        said_MC = learn(fold_N != fold).predict_proba(vectors[others])
        said_N[others] = np.log(np.maximum(said_MC[np.arange(len(others)), class_ids[others]], 1e-6))
    return said_N
