"""Core-set: always the item that is farthest from everything taken."""

from active.strategies.base import Pick, Picking, Situation


def pick_core_set(situation: Situation, batch: int) -> Pick:
    """Greedy k-centre by cosine; the value of a pick is one minus the cosine of its nearest taken item.

    The first item of all is drawn evenly, for nothing is taken yet.

    Source: Sener, Savarese (2018), Active Learning for Convolutional Neural Networks: A Core-Set Approach, algorithm 1.
    """
    pick = Picking(situation)
    if pick.wants(batch) and not len(situation.pool.taken):
        pick.add(int(situation.generator.choice(pick.allowed.nonzero()[0])), 1.0)
    while pick.wants(batch):
        pick.take(1.0 - pick.nearest)
    return pick.done()
