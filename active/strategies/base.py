"""What a selection strategy gets and gives: one signature for all of them.

Shape letters: N items of the pool, C classes, B picked items.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from active.graph import Floats, PoolGraph, Rows
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


def pick_best(situation: Situation, batch: int, scores: Floats) -> Pick:
    """The allowed items with the largest scores [N], never two near-duplicates; the lower row wins a tie."""
    pick = Picking(situation)
    while len(pick.rows) < batch and pick.allowed.any():
        pick.take(scores)
    return pick.done()


class Picking:
    """A pick that grows item by item.

    Attributes:
        allowed: [N] items that may still be picked.
        nearest: [N] cosine of the nearest taken or picked item.
        rows: places picked so far.
    """

    def __init__(self, situation: Situation) -> None:
        self._vectors = situation.graph.vectors
        self.nearest = situation.graph.nearest(situation.pool.taken)
        self.allowed = self.nearest < NEAR_DUPLICATE
        self.allowed[situation.pool.taken] = False
        self.rows: list[int] = []
        self._values: list[float] = []

    def take(self, scores: Floats) -> int:
        """Pick the allowed item with the largest score [N] and return its place."""
        best = int(np.where(self.allowed, scores, -np.inf).argmax())
        self.rows.append(best)
        self._values.append(float(scores[best]))
        self.nearest = np.maximum(self.nearest, np.clip(self._vectors @ self._vectors[best], 0.0, 1.0))
        self.allowed &= self.nearest < NEAR_DUPLICATE
        self.allowed[best] = False  # also a vector of zeros, which is not close to itself
        return best

    def done(self) -> Pick:
        """The pick."""
        return Pick(np.array(self.rows, np.int64), np.array(self._values))
