"""Selection by value: always the item whose label settles most of what the end model does not know about the pool.

While many labels are all the same it is the item that is least like these. Where labels have a cost it is what is best
for a second of a person's time.
"""

import numpy as np

from active.strategies.base import Pick, Picking, Situation
from active.value.stage import information, taught, unlikeness


def pick_value(situation: Situation, batch: int) -> Pick:
    """Greedy by the gain of `active.value.information_gain`, which is estimated again after each pick as if it were
    labelled.

    The value of a pick is its gain over that of the first one, and never above that of the one before. With weak labels
    the value of `active.value.with_weak_labels` takes the place of the gain, and while many labels are all the same
    `unlikeness`. Each is divided by the expected seconds where they are given; a second of the item that takes the
    fewest counts 1.

    Source: see `active.value.information_gain`; the greedy pick is that of Nemhauser, Wolsey, Fisher (1978), An
    Analysis of Approximations for Maximizing Submodular Set Functions, with costs that of Leskovec et al. (2007),
    Cost-effective Outbreak Detection in Networks, section 3.2.
    """
    pick = Picking(situation)
    if not pick.wants(batch):
        return pick.done()
    graph, seconds = situation.graph, situation.seconds
    weight = np.ones(len(situation.pool)) if seconds is None else seconds.min() / seconds
    if (estimate := taught(situation.pool, graph)) is not None:
        cover = graph.cover(situation.pool.taken)
        typical = estimate.representativeness(cover)
        while pick.wants(batch):
            row = pick.take(estimate.worth(typical, pick.nearest) * weight)
            touched = graph.cover_more(cover, row)
            typical[touched] = estimate.representativeness(cover, touched)
        return pick.done()
    if situation.pool.all_alike:
        while pick.wants(batch):
            pick.take(unlikeness(pick.nearest) * weight)
        return pick.done()
    known = information(situation.pool, graph)
    first, value = 0.0, 1.0
    while len(pick.rows) < batch:
        row = pick.first(lambda allowed: known.best(allowed, weight))
        if row is None:
            break
        gain = float(known.gains[row] * weight[row])
        first = first or gain
        value = min(value, gain / first if first > 0 else 0.0)
        pick.add(row, value)
        known.settle(row)
    return pick.done()
