"""ProbCover: the items whose neighbourhoods cover most of what no taken item covers."""

import numpy as np

from active.pool.clusters import k_means
from active.strategies.base import Pick, Picking, Situation


def pick_probcover(situation: Situation, batch: int, *, purity: float = 0.95) -> Pick:
    """Greedy maximum coverage by neighbours within a radius; the value of a pick is the share of the pool it adds.

    The radius is the widest at which a share `purity` of the neighbourhoods lies within one of as many clusters as
    there are classes. Neighbours are those of the graph.

    Args:
        situation: of N items.
        batch: items wanted.
        purity: 0 to 1; a larger one makes smaller neighbourhoods.

    Source: Yehuda et al. (2022), Active Learning Through a Covering Lens, algorithm 1 and section 3.3.
    """
    pool, graph = situation.pool, situation.graph
    clusters, _ = k_means(graph.vectors, max(2, len(pool.class_names)), situation.generator)
    stranger = graph.closest_stranger(clusters)
    radius = float(np.quantile(stranger, purity)) if len(stranger) else 0.0
    inside = graph.weights > radius
    inside |= graph.rows == graph.owners
    uncovered = np.ones(len(pool), np.bool_)
    pick = Picking(situation)
    for row in pool.taken:
        uncovered[graph.around(int(row), inside)] = False
    while pick.wants(batch):
        row = pick.take(graph.total(inside & uncovered[graph.rows]) / len(pool))
        uncovered[graph.around(row, inside)] = False
    return pick.done()
