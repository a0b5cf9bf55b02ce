"""What a label of an item would be worth: the formulas, and the value stage that writes `values`.

A first, honest estimator on the neighbour graph. Four components, each between 0 and 1, are kept beside the value:

- representativeness: how much of the pool the item speaks for that nobody has spoken for yet,
- uncertainty: how unsure the end model is about it and its neighbours,
- disagreement: how much functions, label model and end model contradict each other,
- redundancy: how close the nearest labelled or queued item is.

Shape letters: N items of the pool, C classes.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from active.graph import Floats, PoolGraph, Rows
from active.pool import Pool, read_pool
from active.reason import reasons
from features.index import VectorIndex
from warehouse import Lake, Progress, SettingsError, StageResult, Upsert, silent

GOLD_PER_CLASS = 4.0
DECIMALS = 6
"""Stored figures are rounded, so that the last bits of a matrix product do not decide an order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ValueConfig:
    """Settings of the estimator.

    Attributes:
        neighbors: nearest items that each item is joined with in the graph.
        seed: part of the stage's token; the estimate draws no random numbers.

    Raises:
        SettingsError: `neighbors` is below 1.
    """

    neighbors: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        if self.neighbors < 1:
            raise SettingsError(f"neighbors is {self.neighbors}; the value estimate needs 1 or more, such as 20.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Doubt:
    """What speaks for a wrong prediction, item by item; it does not change while a batch is picked.

    Attributes:
        uncertainty: [N] 0 to 1.
        disagreement: [N] 0 to 1.
        share: how much doubt counts against representativeness, 0 to 1.
    """

    uncertainty: Floats
    disagreement: Floats
    share: float

    @classmethod
    def of(cls, pool: Pool, graph: PoolGraph) -> "Doubt":
        """The doubt about each item of a pool."""
        return cls(
            uncertainty=uncertainty(graph, pool.predicted),
            disagreement=disagreement(pool.votes, pool.weak, pool.predicted),
            share=doubt_share(len(pool.labelled), len(pool.class_names)),
        )


def doubt_share(gold: int, classes: int) -> float:
    """The one rule of the mixture: g / (g + 4 C) of g gold labels and C classes, at least one half.

    Few labels are best spent on what is typical, many on what is unsure; weak labels give the end model a head start,
    so doubt counts for a half from the beginning.

    Source: Hacohen, Dekel, Weinshall (2022), Active Learning on a Budget: Opposite Strategies Suit High and Low
    Budgets.
    """
    return 0.5 + 0.5 * gold / (gold + GOLD_PER_CLASS * max(1, classes))


def uncertainty(graph: PoolGraph, predicted: Floats) -> Floats:
    """One minus the margin of the two most probable classes, half the item's own and half the mean of its neighbours.

    The neighbours keep single odd texts from the top, whose label would tell nothing about others.

    Args:
        graph: of N items.
        predicted: class probabilities [N, C].

    Returns:
        [N], 0 to 1.

    Source: Scheffer, Decomain, Wrobel (2001), Active Hidden Markov Models for Information Extraction (the margin);
    Settles, Craven (2008), An Analysis of Active Learning Strategies for Sequence Labeling Tasks, section 3.4
    (information density).
    """
    if predicted.shape[1] < 2:
        return np.zeros(len(predicted))
    best_two = np.partition(predicted, -2, axis=1)[:, -2:]
    unsure = np.clip(1.0 - (best_two[:, 1] - best_two[:, 0]), 0.0, 1.0)
    return 0.5 * unsure + 0.5 * graph.smoothed(unsure)


def disagreement(votes: Floats, weak: Floats, predicted: Floats) -> Floats:
    """The larger of two conflicts: functions with each other, and the label model with the end model.

    The first is the entropy of the votes over the entropy of an even split between two classes, at most 1; the second
    is the Jensen-Shannon divergence, in bits. Weak labels are wrong in whole regions at once, and there the end model,
    which has seen gold labels, contradicts them.

    Args:
        votes: functions per class [N, C].
        weak: weak labels [N, C]; rows of zeros count as no disagreement.
        predicted: class probabilities of the end model [N, C].

    Returns:
        [N], 0 to 1.

    Source: Dagan, Engelson (1995), Committee-Based Sampling for Training Probabilistic Classifiers (vote entropy);
    Lin (1991), Divergence Measures Based on the Shannon Entropy, equation 4.1.
    """
    totals = votes.sum(axis=1, keepdims=True)
    conflict = np.minimum(1.0, _entropy(np.divide(votes, totals, out=np.zeros_like(votes), where=totals > 0)))
    divergence = _entropy((weak + predicted) / 2) - (_entropy(weak) + _entropy(predicted)) / 2
    divergence[weak.sum(axis=1) == 0] = 0.0
    return np.clip(np.maximum(conflict, divergence), 0.0, 1.0)


def worth(doubt: Doubt, representativeness: Floats, redundancy: Floats) -> Floats:
    """The value: representativeness and doubt in the shares of `doubt_share`, less what a near item already tells.

    Doubt is the chance that at least one of uncertainty and disagreement is right: u + d - u d.

    Returns:
        [N], 0 to 1. 1 is an item nobody speaks for, in the middle of everything and as doubtful as can be; an exact
        copy of a labelled or queued item is worth 0.
    """
    doubtful = doubt.uncertainty + doubt.disagreement - doubt.uncertainty * doubt.disagreement
    mixed = (1.0 - doubt.share) * representativeness + doubt.share * doubtful
    return mixed * (1.0 - redundancy**2)


def estimate_values(lake: Lake, index: VectorIndex, config: ValueConfig, progress: Progress = silent) -> StageResult:
    """Write the value, its components and its reason for every train item that nobody has labelled or queued.

    Args:
        lake: the warehouse.
        index: of the current vectors.
        config: settings.
        progress: called with (steps done, 3).

    Returns:
        The result; `detail` has the cycle, the gold labels and the share of doubt.
    """
    params = {"neighbors": config.neighbors, "seed": config.seed}
    inputs = ("items", "vectors", "weak_labels", "predictions", "annotations")
    with lake.stage("value", version=1, inputs=inputs, params=params) as stage:
        if stage.done:
            return stage.result()
        pool = read_pool(stage, index.item_ids)
        rows = pool.open
        if not len(rows):
            return stage.nothing(reason="every train item is labelled or queued")
        cycle = 1 + int(stage.scalar("SELECT max(cycle) FROM queue") or 0)
        progress(1, 3)
        graph = PoolGraph.from_index(index, pool.item_ids, config.neighbors)
        progress(2, 3)
        doubt = Doubt.of(pool, graph)
        cover = graph.cover(pool.taken)
        representativeness = graph.gain(cover) / scale(graph, pool.taken)
        redundancy = graph.nearest(pool.taken)
        value = worth(doubt, representativeness, redundancy)
        table = pa.table(
            {
                "item_id": [pool.item_ids[row] for row in rows],
                "cycle": np.full(len(rows), cycle, np.int32),
                "value": np.round(value[rows], DECIMALS),
                "representativeness": np.round(representativeness[rows], DECIMALS),
                "uncertainty": np.round(doubt.uncertainty[rows], DECIMALS),
                "disagreement": np.round(doubt.disagreement[rows], DECIMALS),
                "redundancy": np.round(redundancy[rows], DECIMALS),
                "reason": reasons(pool, graph.speaks_for(cover), redundancy, rows),
            }
        )
        progress(3, 3)
        detail = {"cycle": cycle, "gold": len(pool.labelled), "doubt_share": round(doubt.share, 3)}
        return stage.commit([Upsert("values", table)], rows_read=len(pool), detail=detail)


def scale(graph: PoolGraph, taken: Rows) -> float:
    """The largest gain when nothing is taken yet, by which representativeness is divided; fixed for a pool."""
    return float(max(graph.gain(np.zeros(len(graph))).max(), 1.0))


def _entropy(probs: Floats) -> Floats:
    """Entropy of each row in bits [N]; 0 log 0 is 0."""
    return -(probs * np.log2(probs, out=np.zeros_like(probs), where=probs > 0)).sum(axis=1)
