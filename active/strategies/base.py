"""What a selection strategy gets and gives: one signature for all of them.

Shape letters: N items of the pool, C classes, B picked items.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from active.graph import Bools, Floats, PoolGraph, Rows
from active.pool import Pool

NEAR_DUPLICATE = 0.95
"""Cosine from which two texts count as copies: a label of one is a label of the other."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    """What a strategy may look at.

    Attributes:
        pool: items with votes, weak labels and predictions.
        graph: their neighbour graph.
        generator: the only source of random numbers.
    """

    pool: Pool
    graph: PoolGraph
    generator: np.random.Generator

    def allowed(self) -> Bools:
        """[N] items that may be picked: neither taken nor a near-duplicate of one that is taken."""
        allowed = self.graph.nearest(self.pool.taken) < NEAR_DUPLICATE
        allowed[self.pool.taken] = False
        return allowed


@dataclass(frozen=True, slots=True)
class Pick:
    """A strategy's choice, best first.

    Attributes:
        rows: [B] places in the pool.
        values: [B] the strategy's value of each when it was picked, 0 to 1, never rising.
    """

    rows: Rows
    values: Floats


Strategy = Callable[[Situation, int], Pick]
"""(situation, batch) -> at most `batch` items; fewer when no more may be picked."""


def pick_by(situation: Situation, batch: int, scores: Callable[[Rows], Floats]) -> Pick:
    """Pick greedily the best allowed item, again and again, never two near-duplicates.

    Args:
        situation: what there is to pick from.
        batch: items wanted.
        scores: given the rows picked so far, the score [N] of every item; scores may fall as more is picked.
    """
    allowed = situation.allowed()
    vectors = situation.graph.vectors
    rows: list[int] = []
    values: list[float] = []
    while len(rows) < batch and allowed.any():
        score = np.where(allowed, scores(np.array(rows, np.int64)), -np.inf)
        best = int(score.argmax())
        rows.append(best)
        values.append(float(score[best]))
        allowed &= vectors @ vectors[best] < NEAR_DUPLICATE
        allowed[best] = False
    return Pick(np.array(rows, np.int64), np.array(values))
