"""TypiClust: the most typical item of each cluster that nobody has spoken for."""

import numpy as np

from active.pool.clusters import k_means
from active.strategies.base import Pick, Situation, check_batch, pick_per_cluster

MOST_CLUSTERS = 500


def pick_typiclust(situation: Situation, batch: int, *, most_clusters: int = MOST_CLUSTERS) -> Pick:
    """Clusters by how few taken items they hold, then by size; in each the item most similar to its neighbours there.

    Args:
        situation: of N items.
        batch: items wanted.
        most_clusters: there are as many clusters as taken and wanted items together, but no more than this.

    Source: Hacohen, Dekel, Weinshall (2022), Active Learning on a Budget: Opposite Strategies Suit High and Low
    Budgets, section 3.
    """
    check_batch(batch)
    pool, graph = situation.pool, situation.graph
    wanted = min(len(pool.taken) + batch, most_clusters)
    clusters, _ = k_means(graph.vectors, wanted, situation.generator)
    count = int(clusters.max(initial=-1)) + 1
    taken = np.bincount(clusters[pool.taken], minlength=count)
    sizes = np.bincount(clusters, minlength=count)
    return pick_per_cluster(situation, batch, clusters, np.lexsort((-sizes, taken)), graph.typicality(clusters))
