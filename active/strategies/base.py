"""What a selection strategy gets and gives: one signature for all of them.

Shape letters: N items of the pool, C classes, B picked items.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from active.pool.graph import NEAR_DUPLICATE, Bools, Floats, PoolGraph, Rows, check_vectors
from active.pool.pool import Pool
from warehouse import DataError, SettingsError

ROUNDING = 1e-6
"""How far a probability may be above 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Quota:
    """A limit on how many items of one group a batch may hold.

    Attributes:
        groups: [N] group of each item, such as its predicted class; negative for none, which has no limit.
        most: items of one group in a batch.
    """

    groups: Rows
    most: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    """What a strategy may look at.

    Attributes:
        pool: items with votes, weak labels, predictions and gold labels.
        graph: their neighbour graph.
        generator: the only source of random numbers.
        quotas: the most items of each group that may be picked.
        seconds: [N] what a label of each item costs, above 0; None where every label costs the same.

    Raises:
        DataError: vectors are not of length 1, or predictions no probabilities; names the items.
        SettingsError: pool and graph are of different items, or the generator is none.
    """

    pool: Pool
    graph: PoolGraph
    generator: np.random.Generator
    quotas: tuple[Quota, ...] = ()
    seconds: Floats | None = None

    def __post_init__(self) -> None:
        generator: Any = self.generator
        if not isinstance(generator, np.random.Generator):
            raise SettingsError(f"The generator is {generator!r}; give one, such as np.random.default_rng(0).")
        if len(self.graph) != len(self.pool):
            raise SettingsError(
                f"The graph has {len(self.graph)} items, the pool {len(self.pool)}; give both the same."
            )
        check_vectors(self.graph.vectors, self.pool.item_ids)
        bad = np.flatnonzero(~((self.pool.predicted >= 0.0) & (self.pool.predicted <= 1.0 + ROUNDING)).all(axis=1))
        if bad.size:
            raise DataError(
                f"The predictions of {bad.size} of {len(self.pool)} items are no probabilities from 0 to 1, items "
                f"{', '.join(self.pool.item_ids[row] for row in bad[:5])}. Delete these rows and run again."
            )


@dataclass(frozen=True, slots=True)
class Pick:
    """A strategy's choice, best first.

    Attributes:
        rows: [B] places in the pool.
        values: [B] the strategy's value of each when it was picked, 0 to 1, never rising.
    """

    rows: Rows
    values: Floats


class Strategy(Protocol):
    """(situation, batch) -> at most `batch` items; fewer when no more may be picked.

    Further parameters are keyword-only and have defaults. A strategy of your own is registered under the entry point
    group `siftline.strategies`.
    """

    def __call__(self, situation: Situation, batch: int, /) -> Pick:
        """Pick items."""
        ...


def entropy(probs: Floats) -> Floats:
    """Entropy [N] of probabilities [N, C], over that of an even split."""
    logs = np.log(probs, out=np.zeros_like(probs), where=probs > 0)
    return -(probs * logs).sum(axis=1) / np.log(max(2, probs.shape[1]))


def check_batch(batch: object) -> None:
    """Refuse what is no number of items to pick.

    Raises:
        SettingsError: it is no whole number, or below 0.
    """
    if not isinstance(batch, int | np.integer) or isinstance(batch, bool) or batch < 0:
        raise SettingsError(f"The batch is {batch!r}; give how many items to pick, a whole number from 0 on.")


def pick_best(situation: Situation, batch: int, scores: Floats) -> Pick:
    """The allowed items with the largest scores [N], never two near-duplicates; equal scores are drawn."""
    check_batch(batch)
    pick = Picking(situation)
    order = np.lexsort((situation.generator.random(len(scores)), -scores))
    for row in order[pick.allowed[order]]:
        if len(pick.rows) >= batch:
            break
        if pick.allowed[row]:
            pick.add(int(row), float(scores[row]))
    return pick.done()


def pick_drawn(situation: Situation, batch: int) -> Pick:
    """Allowed items drawn evenly, for strategies that need labels where there are none; values fall evenly."""
    pick = Picking(situation)
    even = np.ones(len(situation.pool))
    while pick.wants(batch):
        pick.draw(even, situation.generator)
    return pick.in_order()


def pick_per_cluster(situation: Situation, batch: int, clusters: Rows, order: Rows, scores: Floats) -> Pick:
    """The best allowed item of each cluster, in rounds over the clusters until the batch is full.

    Args:
        situation: of N items.
        batch: items wanted.
        clusters: [N] cluster of each item, negative for none.
        order: clusters in the order they are asked.
        scores: [N] what is best within a cluster.

    Returns:
        The pick; its values fall evenly, for the order is all that is known.
    """
    pick = Picking(situation)
    members = [np.flatnonzero(clusters == cluster) for cluster in order]
    while pick.wants(batch):
        before = len(pick.rows)
        for rows in members:
            allowed = rows[pick.allowed[rows]]
            if len(allowed) and pick.wants(batch):
                pick.add(int(allowed[scores[allowed].argmax()]), 0.0)
        if len(pick.rows) == before:
            break
    return pick.in_order()


class Picking:
    """A pick that grows item by item.

    What is close to the picked items is looked up only when `nearest`, `allowed` or `wants` ask for it.

    Attributes:
        rows: places picked so far.
    """

    def __init__(self, situation: Situation) -> None:
        self._vectors = situation.graph.vectors
        self._quotas = situation.quotas
        self._nearest = situation.graph.nearest(situation.pool.taken)
        self._allowed = self._nearest < NEAR_DUPLICATE
        self._allowed[situation.pool.taken] = False
        self._compared = 0
        self.rows: list[int] = []
        self._values: list[float] = []

    @property
    def nearest(self) -> Floats:
        """Cosine of the nearest taken or picked item [N]."""
        self._compare()
        return self._nearest

    @property
    def allowed(self) -> Bools:
        """Items that may still be picked [N]."""
        self._compare()
        return self._allowed

    def first(self, best: Callable[[Bools], int]) -> int | None:
        """The item that `best` finds among those [N] that may still be picked, which is then picked by `add`.

        Only what it finds is compared with the picked items, so a batch of many from a large pool costs no comparison
        with the whole pool for each. None where nothing may be picked.
        """
        while self._allowed.any():
            row = best(self._allowed)
            picked = self._vectors[self.rows[self._compared :]]
            if not (picked @ self._vectors[row] >= NEAR_DUPLICATE).any():
                return row
            self._allowed[row] = False
        return None

    def _compare(self) -> None:
        for row in self.rows[self._compared :]:
            self._nearest = np.maximum(self._nearest, np.clip(self._vectors @ self._vectors[row], 0.0, 1.0))
            self._allowed &= self._nearest < NEAR_DUPLICATE
        self._compared = len(self.rows)

    def wants(self, batch: int) -> bool:
        """Whether the batch is not full and something may still be picked."""
        check_batch(batch)
        return len(self.rows) < batch and bool(self.allowed.any())

    def take(self, scores: Floats) -> int:
        """Pick the allowed item with the largest score [N] and return its place."""
        best = int(np.where(self.allowed, scores, -np.inf).argmax())
        self.add(best, float(scores[best]))
        return best

    def draw(self, weights: Floats, generator: np.random.Generator) -> int:
        """Pick an allowed item with a chance in proportion to its weight [N], evenly where all weights are 0."""
        chances = np.where(self.allowed, np.maximum(weights, 0.0), 0.0)
        if not chances.sum() > 0:
            chances = self.allowed.astype(np.float64)
        row = int(np.searchsorted(np.cumsum(chances), generator.random() * chances.sum(), side="right"))
        row = min(row, int(np.flatnonzero(chances)[-1]))  # the product above may round up to the whole sum
        self.add(row, 0.0)
        return row

    def add(self, row: int, value: float) -> None:
        """Pick this item."""
        self.rows.append(row)
        self._values.append(value)
        self._allowed[row] = False  # also a vector of zeros, which is not close to itself
        for quota in self._quotas:
            group = quota.groups[row]
            if group >= 0 and np.count_nonzero(quota.groups[self.rows] == group) >= quota.most:
                self._allowed &= quota.groups != group

    def done(self) -> Pick:
        """The pick with the scores as its values."""
        return Pick(np.array(self.rows, np.int64), np.array(self._values))

    def in_order(self) -> Pick:
        """The pick with values that fall evenly from 1, where the order is all that a strategy can say."""
        count = len(self.rows)
        return Pick(np.array(self.rows, np.int64), 1.0 - np.arange(count) / max(1, count))
