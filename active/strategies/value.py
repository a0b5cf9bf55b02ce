"""Selection by value: a greedy pick whose values fall as the batch speaks for more and more of the pool."""

import numpy as np

from active.strategies.base import Pick, Picking, Situation
from active.value import Estimate


def pick_value(situation: Situation, batch: int) -> Pick:
    """Items with the largest value of `active.value`, which is estimated again after each pick as if it were taken.

    Source: the greedy pick of Nemhauser, Wolsey, Fisher (1978), An Analysis of Approximations for Maximizing
    Submodular Set Functions; on uncertain items as in Wei, Iyer, Bilmes (2015), Submodularity in Data Subset Selection
    and Active Learning.
    """
    if not len(situation.pool):
        return Picking(situation).done()
    graph = situation.graph
    estimate = Estimate.of(situation.pool, graph)
    cover = graph.cover(situation.pool.taken)
    pick = Picking(situation)
    while len(pick.rows) < batch and pick.allowed.any():
        row = pick.take(estimate.worth(cover, pick.nearest))
        cover = np.maximum(cover, graph.cover(np.array([row])))
    return pick.done()
