"""The gold step of the end model: what weak labels taught, moved by people's labels and pooled with these alone.

Gold labels move the model that weak labels taught (`EndModel.fit_gold`). Held to bad weak labels, though, they are
worth less than alone. So the end model is the logarithmic pool of both, the weighted mean of their logits, and each
weighs as well as it foretold gold labels that it had not seen. Measured in docs/decisions/0166.

Source: Yao et al. 2018, Using stacking to average Bayesian predictive distributions (there "pseudo-BMA"),
https://arxiv.org/abs/1704.02030
"""

import numpy as np
from scipy.sparse import issparse

from weak_labels.calibration import folds
from weak_labels.classifier import EndModel, Features, Floats, Ints
from weak_labels.hidden_layer import HiddenLayer

FEWEST_PER_CLASS = 2
"""Gold labels of each class that weak labels taught, below which nothing is said against them: labels that lack a class
are foretold best by a model that never says it."""
MOST_JUDGED = 300
"""Gold labels that judge; more would decide no better and take longer."""


def learn(
    weak: EndModel | None,
    vectors: Features,
    class_ids: Ints,
    classes: int,
    hidden: HiddenLayer | None = None,
    *,
    balanced: bool = False,
    share: float | None = None,
) -> EndModel:
    """Learn from gold labels on top of a model from weak labels.

    Args:
        weak: the result of `EndModel.fit_weak`.
        vectors: what a model sees of the gold items [N, D]; N may be 0.
        class_ids: their labels [N], 0 to C - 1; leave out items that nobody labelled.
        classes: number of classes C.
        hidden: what it looks through as well where there is no weak model, which brings its own.
        balanced: each class weighs the same.
        share: of the model from weak labels in the pool, 0 to 1; None asks `share_of_weak`.

    Raises:
        SettingsError: a label is no class.
    """
    moved = EndModel.fit_gold(weak, vectors, class_ids, classes, hidden, balanced=balanced)
    if weak is None:
        return moved
    if not issparse(vectors):
        vectors = np.asarray(vectors)
    class_ids = np.asarray(class_ids)
    if share is None:
        share = share_of_weak(weak, vectors, class_ids, classes, balanced=balanced)
    return moved if share == 1.0 else moved.pooled(_alone(weak, vectors, class_ids, classes, balanced), share)


def share_of_weak(weak: EndModel, vectors: Features, class_ids: Ints, classes: int, *, balanced: bool = False) -> float:
    """How far the model from weak labels is believed beside gold labels alone, 0 to 1; 1 where these are too few.

    Both learn from four fifths of the gold labels and foretell the others. Every class counts the same, since people
    label what was selected for them: shares of classes among gold labels say nothing about those among all items.

    Args:
        weak: the result of `EndModel.fit_weak`.
        vectors: what a model sees of the gold items [N, D].
        class_ids: their labels [N].
        classes: number of classes C.
        balanced: each class weighs the same in what is learned.
    """
    enough_C = np.bincount(class_ids, minlength=classes) >= FEWEST_PER_CLASS
    # Few weak labels may have taught no class at all; two classes are the fewest to tell apart.
    if np.isinf(weak.hold.belief) or enough_C.sum() < 2 or not enough_C[weak.taught_C].all():
        return 1.0
    judged = np.random.default_rng(0).permutation(len(class_ids))[:MOST_JUDGED]
    seen, labels = vectors[judged], class_ids[judged]
    fold_N, lead_N = folds(labels), np.zeros(len(labels))
    for fold in np.unique(fold_N):
        learn_N, others = fold_N != fold, np.flatnonzero(fold_N == fold)
        moved = EndModel.fit_gold(weak, seen[learn_N], labels[learn_N], classes, balanced=balanced)
        alone = _alone(weak, seen[learn_N], labels[learn_N], classes, balanced)
        said = [_log_likelihood(model, seen[others], labels[others]) for model in (moved, alone)]
        lead_N[others] = said[0] - said[1]
    weight_N = 1.0 / np.bincount(labels)[labels]
    labels_that_count = weight_N.sum() ** 2 / (weight_N**2).sum()
    lead = float((weight_N * lead_N).sum() / weight_N.sum() * labels_that_count)
    return float(1.0 / (1.0 + np.exp(-np.clip(weak.hold.belief + lead, -50.0, 50.0))))


def _alone(weak: EndModel, vectors: Features, class_ids: Ints, classes: int, balanced: bool) -> EndModel:
    """The model of gold labels alone, which sees what the one from weak labels sees."""
    return EndModel.fit_gold(None, vectors, class_ids, classes, weak.hidden, balanced=balanced)


def _log_likelihood(model: EndModel, vectors: Features, class_ids: Ints) -> Floats:
    """Logarithm of what the model says of the true class [N], of a millionth at least."""
    said_NC = model.predict_proba(vectors)
    return np.log(np.maximum(said_NC[np.arange(len(class_ids)), class_ids], 1e-6))
