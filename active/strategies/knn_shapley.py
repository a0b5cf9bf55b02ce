"""Predicted KNN-Shapley: items near labelled ones that turned out to be worth much."""

import numpy as np

from active.strategies.base import Pick, Situation, pick_best, pick_drawn
from active.value.shapley import Variant, knn_shapley


def pick_knn_shapley(situation: Situation, batch: int, *, neighbors: int = 5, variant: Variant = "soft") -> Pick:
    """Items by the value predicted for them from the KNN-Shapley values of their nearest labelled items.

    A labelled item is judged on the other labelled ones. The value of a pick is where its prediction lies between the
    lowest and the highest; without two labelled items they are drawn.

    Args:
        situation: of N items.
        batch: items wanted.
        neighbors: K of the classifier, and labelled items a prediction is the mean of.
        variant: see `active.value.shapley`.

    Source: Ghorbani, Zou, Esteva (2022), Data Shapley Valuation for Efficient Batch Active Learning, algorithm 1, with
    exact values (Jia et al. 2019) in place of sampled ones.
    """
    pool, graph = situation.pool, situation.graph
    labelled = pool.labelled
    if len(labelled) < 2:
        return pick_drawn(situation, batch)
    vectors = graph.vectors[labelled]
    similarity = (vectors @ vectors.T).astype(np.float64)
    np.fill_diagonal(similarity, -np.inf)
    targets = np.eye(len(pool.class_names))[pool.gold]
    worth = knn_shapley(similarity, pool.gold, targets, neighbors=neighbors, variant=variant)
    scores = worth[graph.nearest_of(labelled, neighbors)].mean(axis=1)
    low, high = scores.min(), scores.max()
    return pick_best(situation, batch, (scores - low) / (high - low) if high > low else np.zeros(len(pool)))
