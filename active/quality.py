"""Which labels are probably wrong: each is compared with what a model and the neighbours say that never saw it.

Both halves look at the item from the others only: a linear model fitted on the other folds, and the labels of the
nearest labelled items without itself. A wrong label misleads both about its neighbours, so a second round counts each
label by how credible the first one found it.

Shape letters: T labelled items, D embedding, C classes, K neighbours.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from active.graph import CHUNK, Floats, Rows, Vectors
from features.index import VectorIndex
from warehouse import Reader, SettingsError

FOLDS = 5
NEIGHBORS = 20
INVERSE_RIDGE = 10.0
SHARPNESS = 4.0
"""Power of the cosine by which a neighbour's label counts."""
PRIOR = 0.5
"""Votes that every class has before the neighbours vote, and the least probability times C."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Suspect:
    """A gold label that is probably wrong.

    Attributes:
        item_id: the item.
        label: class that people gave it.
        likely: class that model and neighbours prefer, which may be the same.
        suspicion: of `suspicion`, 0 to 1.
    """

    item_id: str
    label: int
    likely: int
    suspicion: float


def suspects(reader: Reader, index: VectorIndex, *, seed: int = 0) -> list[Suspect]:
    """The labels in force of train items, the most suspicious first.

    Args:
        reader: of the warehouse.
        index: of the current vectors; labelled items that are not in it are left out.
        seed: draws the folds.

    Raises:
        SettingsError: items may have several classes.
    """
    if reader.scalar("SELECT bool_or(multi_label) FROM classes"):
        raise SettingsError(
            "Which labels are probably wrong is told for projects in which each item has one class; this one is "
            "multi_label."
        )
    place = {item_id: row for row, item_id in enumerate(index.item_ids)}
    gold = [
        (str(item), int(class_id))
        for item, class_id in reader.rows("SELECT item_id, class_id FROM gold_labels ORDER BY item_id")
        if item in place
    ]
    if not gold:
        return []
    labels = np.array([class_id for _, class_id in gold], np.int64)
    classes = max(int(reader.scalar("SELECT count(*) FROM classes") or 0), int(labels.max()) + 1)
    vectors = index.vectors[np.array([place[item] for item, _ in gold], np.int64)]
    found, likely = _judged(vectors, labels, classes, np.random.default_rng(seed), rounds=2)
    return [
        Suspect(item_id=gold[row][0], label=gold[row][1], likely=int(likely[row]), suspicion=float(found[row]))
        for row in np.argsort(-found, kind="stable")
    ]


def suspicion(
    vectors: Vectors, labels: Rows, classes: int, generator: np.random.Generator, *, rounds: int = 2
) -> Floats:
    """How probably each label is wrong.

    Args:
        vectors: [T, D] unit rows.
        labels: [T] class ids.
        classes: C.
        generator: draws the folds.
        rounds: of counting labels by their credibility.

    Returns:
        [T] 0 to 1: over 0.5 model and neighbours together prefer another class. All 0 where no label can be judged,
        that is with fewer than two classes or four labels.

    Raises:
        SettingsError: `rounds` is below 1.

    Source: confident learning of Northcutt, Jiang, Chuang (2021) for the out-of-fold judgement, and the neighbourhood
    votes of Zhu, Dong, Liu (2022), Detecting Corrupted Labels Without Training a Model to Predict; their mean in
    log-odds and the second round were measured here.
    """
    if rounds < 1:
        raise SettingsError(f"rounds of the label check is {rounds}; it must be 1 or more.")
    return _judged(vectors, labels, classes, generator, rounds=rounds)[0]


def _judged(
    vectors: Vectors, labels: Rows, classes: int, generator: np.random.Generator, *, rounds: int
) -> tuple[Floats, Rows]:
    """Suspicion [T] and the class that model and neighbours prefer [T]."""
    count = len(labels)
    if count < 4 or len(np.unique(labels)) < 2:
        return np.zeros(count), labels
    fold = _folds(labels, generator)
    credible, found, likely = np.ones(count), np.zeros(count), labels
    with threadpool_limits(1):
        near, similarity = _nearest(vectors)
        for _ in range(rounds):
            model = _out_of_fold(vectors, labels, classes, fold, credible)
            graph = _votes(near, similarity, labels, classes, credible)
            odds = (_log_odds(model, labels) + _log_odds(graph, labels)) / 2.0
            found = 1.0 / (1.0 + np.exp(np.clip(odds, -30.0, 30.0)))
            credible = np.maximum(1.0 - found, 0.01)
            likely = (model * graph).argmax(axis=1).astype(np.int64)
    return found, likely


def _folds(labels: Rows, generator: np.random.Generator) -> Rows:
    """A fold for each item; the items of a class are spread evenly."""
    shuffled = generator.permutation(len(labels))
    fold = np.empty(len(labels), np.int64)
    fold[shuffled[np.argsort(labels[shuffled], kind="stable")]] = np.arange(len(labels)) % min(FOLDS, len(labels))
    return fold


def _out_of_fold(vectors: Vectors, labels: Rows, classes: int, fold: Rows, credible: Floats) -> Floats:
    from sklearn.linear_model import LogisticRegression  # takes a second to import

    probs = np.full((len(labels), classes), PRIOR / classes)
    for number in range(int(fold.max()) + 1):
        rest, held = fold != number, fold == number
        if len(np.unique(labels[rest])) < 2:
            probs[held] = np.bincount(labels[rest], minlength=classes) / rest.sum()
            continue
        model: Any = LogisticRegression(C=INVERSE_RIDGE, max_iter=200)
        model.fit(vectors[rest], labels[rest], sample_weight=credible[rest])
        probs[np.ix_(held, model.classes_)] = model.predict_proba(vectors[held])
    return probs


def _nearest(vectors: Vectors) -> tuple[Rows, Floats]:
    """The K nearest others of each item [T, K] and their cosines."""
    count = len(vectors)
    width = min(NEIGHBORS, count - 1)
    near, similarity = np.empty((count, width), np.int64), np.empty((count, width))
    for start in range(0, count, CHUNK):
        part = np.arange(start, min(start + CHUNK, count))
        close = vectors[part] @ vectors.T
        close[np.arange(len(part)), part] = -np.inf
        near[part] = np.argsort(-close, axis=1, kind="stable")[:, :width]
        similarity[part] = np.take_along_axis(close, near[part], axis=1)
    return near, similarity


def _votes(near: Rows, similarity: Floats, labels: Rows, classes: int, credible: Floats) -> Floats:
    weight = np.clip(similarity, 0.0, 1.0) ** SHARPNESS * credible[near]
    votes = np.full((len(labels), classes), PRIOR / classes)
    for place in range(near.shape[1]):
        votes[np.arange(len(labels)), labels[near[:, place]]] += weight[:, place]
    return votes / votes.sum(axis=1, keepdims=True)


def _log_odds(probs: Floats, labels: Rows) -> Floats:
    """Log-odds of the given label against the most probable other one [T]."""
    rows = np.arange(len(labels))
    given = probs[rows, labels]
    others = probs.copy()
    others[rows, labels] = 0.0
    least = PRIOR / probs.shape[1] / 100
    return np.log(np.maximum(given, least)) - np.log(np.maximum(others.max(axis=1), least))
