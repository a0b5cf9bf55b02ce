"""KNN-Shapley: what each labelled item adds to a nearest-neighbour classifier, exactly and without training.

Used as a strategy and to find labels that are probably wrong: a wrong label pulls its neighbours the wrong way, so its
value is low.

Shape letters: T labelled items, V items they are judged on, C classes.
"""

from typing import Literal

import numpy as np

from active.pool.graph import Bools, Floats, Rows
from warehouse import SettingsError

CHUNK = 512
Variant = Literal["hard", "soft", "threshold"]


def knn_shapley(
    similarity: Floats,
    labels: Rows,
    targets: Floats,
    *,
    neighbors: int = 5,
    variant: Variant = "soft",
    near: float = 0.5,
) -> Floats:
    """The Shapley value of each labelled item, the mean over the items it is judged on.

    The game is the share of votes for the right class. With fewer than K items "hard" counts the missing votes as
    wrong, "soft" lets those that are there vote alone. With "threshold" all items within `near` vote.

    Args:
        similarity: [V, T] how close each labelled item is to each judged one; -inf leaves a pair out.
        labels: [T] class ids.
        targets: [V, C] class probabilities of the judged items; one-hot where their label is known.
        neighbors: K of the classifier, for "hard" and "soft".
        variant: the game.
        near: similarity from which an item votes, for "threshold".

    Returns:
        [T], -1 to 1. Their sum is the mean vote for the right class with all items less that without any, which is 0
        for "hard" and 1 / C for the others.

    Raises:
        SettingsError: `neighbors` is below 1, or the variant is unknown.

    Source: Jia et al. (2019), Efficient Task-Specific Data Valuation for Nearest Neighbor Algorithms, theorem 1 (hard);
    Wang, Jia (2023), A Note on "Efficient Task-Specific Data Valuation for Nearest Neighbor Algorithms" (soft);
    Wang et al. (2023), Threshold KNN-Shapley (threshold). The last two are derived here from the axioms.
    """
    if neighbors < 1:
        raise SettingsError(f"neighbors of KNN-Shapley is {neighbors}; it must be 1 or more.")
    if variant not in ("hard", "soft", "threshold"):
        raise SettingsError(f"There is no KNN-Shapley '{variant}'; known are hard, soft and threshold.")
    total = np.zeros(len(labels))
    if not len(labels) or not len(targets):
        return total
    empty = 0.0 if variant == "hard" else 1.0 / targets.shape[1]
    for start in range(0, len(targets), CHUNK):
        close = similarity[start : start + CHUNK]
        hits = targets[start : start + CHUNK][:, labels]
        if variant == "threshold":
            total += _threshold(close >= near, hits, empty)
        else:
            total += _nearest(close, hits, neighbors, empty, soft=variant == "soft")
    return total / len(targets)


def _nearest(similarity: Floats, hits: Floats, neighbors: int, empty: float, *, soft: bool) -> Floats:
    """Values from the differences between items of adjacent rank, and from their sum."""
    order = np.argsort(-similarity, axis=1, kind="stable")
    usable = np.isfinite(np.take_along_axis(similarity, order, axis=1))
    hits = np.where(usable, np.take_along_axis(hits, order, axis=1), 0.0)
    sizes, rank = usable.sum(axis=1, keepdims=True), np.arange(1, similarity.shape[1] + 1)
    voters = np.minimum(neighbors, sizes)
    # Of two items of adjacent rank the nearer one is worth more by the difference of their hits times this weight: the
    # chance, over all coalitions of the others, that it is among the K nearest, over the number of votes then.
    weight = np.broadcast_to(np.minimum(rank, neighbors) / rank / neighbors, hits.shape)
    if soft:
        fewer = np.minimum(neighbors, np.maximum(sizes - 1, 1))
        harmonic = np.cumsum(1.0 / np.arange(1, neighbors + 1))[fewer - 1]
        weight = weight + (harmonic - fewer / neighbors) / np.maximum(sizes - 1, 1)
    step = np.zeros_like(hits)
    step[:, :-1] = np.where(usable[:, 1:], (hits[:, :-1] - hits[:, 1:]) * weight[:, :-1], 0.0)
    whole = np.where(rank <= voters, hits, 0.0).sum(axis=1, keepdims=True) / (
        np.maximum(voters, 1) if soft else neighbors
    )
    last = (whole - empty - (step * rank).sum(axis=1, keepdims=True)) / np.maximum(sizes, 1)
    ordered = np.where(usable, np.cumsum(step[:, ::-1], axis=1)[:, ::-1] + last, 0.0)
    values = np.zeros_like(hits)
    np.put_along_axis(values, order, ordered, axis=1)
    return values.sum(axis=0)


def _threshold(votes: Bools, hits: Floats, empty: float) -> Floats:
    """Values in the game "mean hit of those who vote": a closed form, no order is needed."""
    voters = np.where(votes, 1.0, 0.0)
    count = voters.sum(axis=1, keepdims=True)
    others = ((voters * hits).sum(axis=1, keepdims=True) - hits) / np.maximum(count - 1, 1)
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, votes.shape[1] + 1))])[count.astype(np.int64)]
    values = (hits - empty + np.where(count > 1, hits - others, 0.0) * (harmonic - 1)) / np.maximum(count, 1)
    return (voters * values).sum(axis=0)
