"""Selection by value: the greedy pick whose values fall as the batch speaks for more and more of the pool."""

import numpy as np

from active.graph import Floats, Rows
from active.strategies.base import Pick, Situation, pick_by
from active.value import Doubt, scale, worth


def pick_value(situation: Situation, batch: int) -> Pick:
    """Items with the largest value of `active.value`, estimated again after each pick as if it were labelled.

    Representativeness is submodular, so the greedy pick is within 1 - 1/e of the best batch for that part.

    Source: Nemhauser, Wolsey, Fisher (1978), An analysis of approximations for maximizing submodular set functions;
    Wei, Iyer, Bilmes (2015), Submodularity in Data Subset Selection and Active Learning (filtered by uncertainty).
    """
    pool, graph = situation.pool, situation.graph
    doubt = Doubt.of(pool, graph)
    unit = scale(graph, pool.taken)

    def scores(picked: Rows) -> Floats:
        taken = np.concatenate([pool.taken, picked])
        return worth(doubt, graph.gain(graph.cover(taken)) / unit, graph.nearest(taken))

    return pick_by(situation, batch, scores)
