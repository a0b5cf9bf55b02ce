"""The gold step of the end model: what weak labels taught, moved by people's labels and pooled with these alone.

Gold labels move the model that weak labels taught (`EndModel.fit_gold`). Held to bad weak labels, though, they are
worth less than alone. So the end model is the logarithmic pool of both, the weighted mean of their logits, and each
weighs as well as it foretold gold labels that it had not seen. Measured in docs/decisions/0166. The model of gold
labels alone is held as firmly as such labels say, too: docs/decisions/0168.

Source: Yao et al. 2018, Using stacking to average Bayesian predictive distributions (there "pseudo-BMA"),
https://arxiv.org/abs/1704.02030
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from scipy.sparse import issparse
from threadpoolctl import threadpool_limits

from weak_labels import arguments
from weak_labels.calibration import LEAST_GOLD, folds
from weak_labels.classifier import ALONE, Bools, EndModel, Features, Floats, Ints
from weak_labels.hidden_layer import HiddenLayer

BELIEF = 4.0
"""Logarithm of the odds for the model from weak labels before any label: selected labels say less against it than they
seem to."""
FEWEST_PER_CLASS = 2
"""Gold labels of each class that weak labels taught, below which nothing is said against them: labels that lack a class
are foretold best by a model that never says it."""
RIDGES = (ALONE.ridge, 0.3, 1.0)
"""How firmly a model of gold labels alone may be held; the first without evidence for another."""
MOST_JUDGED = 300
"""Gold labels that judge; more would decide no better and take longer."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What gold labels say of how to learn from them.

    Attributes:
        share: of the model from weak labels in the pool, 0 to 1; 1 where the labels are too few to tell.
        ridge: of the model from gold labels alone.
    """

    share: float = 1.0
    ridge: float = ALONE.ridge


def learn(
    weak: EndModel | None,
    vectors: Features,
    class_ids: Ints,
    classes: int,
    hidden: HiddenLayer | None = None,
    *,
    balanced: bool = False,
    judged: Judged | None = None,
) -> EndModel:
    """Learn from gold labels on top of a model from weak labels.

    Args:
        weak: the result of `EndModel.fit_weak`.
        vectors: what a model sees of the gold items [N, D]; N may be 0.
        class_ids: their labels [N], 0 to C - 1; leave out items that nobody labelled.
        classes: number of classes C.
        hidden: what it looks through as well where there is no weak model, which brings its own.
        balanced: each class weighs the same.
        judged: how; None asks `judge`.

    Raises:
        SettingsError: a label is no class.
    """
    hidden = weak.hidden if weak else hidden
    moved = EndModel.fit_gold(weak, vectors, class_ids, classes, hidden, balanced=balanced)
    judged = judged or judge(weak, vectors, class_ids, classes, hidden, balanced=balanced)
    if judged.share == 1.0 and (weak or judged.ridge == ALONE.ridge):
        return moved
    alone = EndModel.fit_gold(None, vectors, class_ids, classes, hidden, balanced=balanced, ridge=judged.ridge)
    return moved.pooled(alone, judged.share) if weak else alone


def judge(
    weak: EndModel | None,
    vectors: Features,
    class_ids: Ints,
    classes: int,
    hidden: HiddenLayer | None = None,
    *,
    balanced: bool = False,
) -> Judged:
    """How far weak labels are believed beside gold labels alone, and how firmly a model of these is held.

    Models learn from four fifths of the gold labels and foretell the others. Between weak labels and gold ones every
    class counts the same, since people label what was selected for them: shares of classes among gold labels say
    nothing about those among all items.

    Args:
        weak: the result of `EndModel.fit_weak`.
        vectors: what a model sees of the gold items [N, D].
        class_ids: their labels [N].
        classes: number of classes C.
        hidden: what it looks through as well where there is no weak model, which brings its own.
        balanced: each class weighs the same in what is learned.
    """
    hidden = weak.hidden if weak else hidden
    vectors = vectors if issparse(vectors) else np.asarray(vectors)
    class_ids = arguments.whole_numbers(class_ids, "Gold labels")
    enough_C = np.bincount(class_ids, minlength=classes) >= FEWEST_PER_CLASS
    # Few weak labels may have taught no class at all; two classes are the fewest to tell apart.
    if enough_C.sum() < 2 or (weak and not enough_C[weak.taught_C].all()):
        return Judged()
    rows = np.random.default_rng(0).permutation(len(class_ids))[:MOST_JUDGED]
    weak, seen = _in_their_space(weak, hidden.beside(vectors[rows]) if hidden else vectors[rows])
    labels = class_ids[rows]

    def by_weak(learn: Bools) -> EndModel:
        return EndModel.fit_gold(weak, seen[learn], labels[learn], classes, balanced=balanced)

    def alone(ridge: float, learn: Bools) -> EndModel:
        return EndModel.fit_gold(None, seen[learn], labels[learn], classes, balanced=balanced, ridge=ridge)

    def evidence(ridge: float) -> float:
        """Logarithm of how probable labels and ridge are, which is log-normal about the first before any label."""
        return float(_foretold(partial(alone, ridge), seen, labels).sum() - 0.5 * np.log(ridge / RIDGES[0]) ** 2)

    ridge = max(RIDGES, key=evidence) if len(labels) >= LEAST_GOLD else RIDGES[0]
    if weak is None:
        return Judged(ridge=ridge)
    lead_N = _foretold(by_weak, seen, labels) - _foretold(partial(alone, ridge), seen, labels)
    weight_N = 1.0 / np.bincount(labels)[labels]
    labels_that_count = weight_N.sum() ** 2 / (weight_N**2).sum()
    odds = BELIEF + float((weight_N * lead_N).sum() / weight_N.sum() * labels_that_count)
    return Judged(float(1.0 / (1.0 + np.exp(-np.clip(odds, -50.0, 50.0)))), ridge)


def _in_their_space(weak: EndModel | None, seen: Features) -> tuple[EndModel | None, Floats]:
    """A model, and what it sees of N items [N, D], in the at most N dimensions that the items span.

    A ridge keeps weights in that space, so models that learn there say the same, and sooner where words are seen.
    """
    seen = seen.astype(np.float64)
    with threadpool_limits(1):
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
