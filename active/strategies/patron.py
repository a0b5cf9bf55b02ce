"""PATRON-like selection: uncertainty shared with the neighbourhood, then one item from each part of the pool."""

import numpy as np

from active.pool.clusters import k_means
from active.strategies.base import Pick, Situation, check_batch, entropy, pick_per_cluster


def pick_patron(situation: Situation, batch: int, *, steps: int = 1, distance: float = 0.6) -> Pick:
    """The item with the most propagated uncertainty in each cluster, less a part of its distance to the centre.

    The published method takes its first uncertainty from prompts; here it is the end model's, and where there is none
    it is even, so that distance alone decides. Values fall evenly with the order.

    Args:
        situation: of N items.
        batch: items wanted, and clusters.
        steps: rounds of propagation over the graph.
        distance: weight of the squared distance to the cluster's centre.

    Source: Yu et al. (2023), Cold-Start Data Selection for Better Few-shot Language Model Fine-tuning: A Prompt-based
    Uncertainty Propagation Approach, sections 4.2 and 4.3.
    """
    check_batch(batch)
    pool, graph = situation.pool, situation.graph
    doubt = entropy(pool.predicted)
    for _ in range(steps):
        doubt = graph.smoothed(doubt)
    rows = pool.open
    clusters, scores = np.full(len(pool), -1, np.int64), doubt
    clusters[rows], apart = k_means(graph.vectors[rows], batch, situation.generator)
    scores[rows] -= distance * apart**2
    sizes = np.bincount(clusters[rows])
    return pick_per_cluster(situation, batch, clusters, np.argsort(-sizes, kind="stable"), scores)
