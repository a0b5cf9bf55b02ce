"""K-means sampling: one item from the middle of each of as many clusters as the batch has items."""

import numpy as np

from active.pool.clusters import k_means
from active.strategies.base import Pick, Situation, check_batch, pick_per_cluster


def pick_k_means(situation: Situation, batch: int) -> Pick:
    """The open item nearest to each centre, large clusters first; values fall evenly with the order.

    Source: Xu et al. (2003), Representative Sampling for Text Classification Using Support Vector Machines, section 3.
    """
    check_batch(batch)
    rows = situation.pool.open
    clusters, scores = np.full(len(situation.pool), -1, np.int64), np.zeros(len(situation.pool))
    clusters[rows], distance = k_means(situation.graph.vectors[rows], batch, situation.generator)
    scores[rows] = -distance
    sizes = np.bincount(clusters[rows])
    return pick_per_cluster(situation, batch, clusters, np.argsort(-sizes, kind="stable"), scores)
