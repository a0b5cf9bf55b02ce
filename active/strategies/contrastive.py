"""CAL, contrastive active learning: items that the model judges otherwise than their nearest labelled ones."""

import numpy as np

from active.strategies.base import Pick, Situation, pick_best, pick_drawn

SMALLEST = 1e-9


def pick_contrastive(situation: Situation, batch: int, *, neighbors: int = 10) -> Pick:
    """Items by the divergence of the predictions of their nearest labelled items from their own.

    The value of a pick is 1 - exp(-divergence). Without labelled items they are drawn.

    Args:
        situation: of N items.
        batch: items wanted.
        neighbors: labelled items compared with.

    Source: Margatina et al. (2021), Active Learning by Acquiring Contrastive Examples, algorithm 1.
    """
    pool, graph = situation.pool, situation.graph
    labelled = pool.labelled
    if not len(labelled):
        return pick_drawn(situation, batch)
    logs = np.log(np.maximum(pool.predicted, SMALLEST))
    entropy = (pool.predicted[labelled] * logs[labelled]).sum(axis=1)
    near = graph.nearest_of(labelled, neighbors)
    scores = np.zeros(len(pool))
    for place in near.T:  # the k-th nearest labelled item of every item
        scores += (entropy[place] - (pool.predicted[labelled[place]] * logs).sum(axis=1)) / near.shape[1]
    return pick_best(situation, batch, -np.expm1(-np.maximum(scores, 0.0)))
