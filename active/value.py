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
from threadpoolctl import threadpool_limits

from active.graph import Floats, PoolGraph
from active.pool import Pool, read_pool
from active.reason import reasons
from features.index import VectorIndex
from warehouse import Lake, Progress, SettingsError, StageResult, Upsert, silent

COVERAGE_WORTH = 3.0
"""Gold labels per class that weak labels on the whole pool count for in `representative_share`."""
CONTRADICTION = 0.3
RARE = 0.02
REDUNDANCY_POWER = 4
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
class Estimate:
    """What decides the value of each item and does not change while a batch is picked.

    Attributes:
        graph: of N items.
        uncertainty: [N] 0 to 1.
        disagreement: [N] 0 to 1.
        class_weight: [N] of `class_weight`.
        largest_gain: gain of the most central item when nothing is taken; representativeness is a share of it.
        share: weight of representativeness, of `representative_share`.
    """

    graph: PoolGraph
    uncertainty: Floats
    disagreement: Floats
    class_weight: Floats
    largest_gain: float
    share: float

    @classmethod
    def of(cls, pool: Pool, graph: PoolGraph) -> "Estimate":
        """Estimate for a pool of one item or more."""
        weight = class_weight(pool.predicted)
        return cls(
            graph=graph,
            uncertainty=uncertainty(graph, pool.predicted),
            disagreement=disagreement(pool.votes, pool.weak, pool.predicted),
            class_weight=weight,
            largest_gain=float(graph.gain(np.zeros(len(graph)), weight).max()),
            share=representative_share(pool),
        )

    def representativeness(self, cover: Floats) -> Floats:
        """Share of the largest possible gain that each item still has [N], 0 to 1; see `PoolGraph.gain`."""
        return self.graph.gain(cover, self.class_weight) / self.largest_gain

    def worth(self, cover: Floats, redundancy: Floats) -> Floats:
        """The value of each item, 0 to 1.

            r^s * (u + 0.3 d (1 - u))^(1 - s) * (1 - x^4)

        with representativeness r and its share s, uncertainty u, disagreement d and redundancy x. A geometric mean,
        because an item that is no doubt at all, or that speaks for nobody, is worth nothing however good the other
        part. 1 is an item nobody has spoken for, in the middle of everything and as doubtful as can be; an exact copy
        of a labelled or queued item is worth 0. The value never rises as more is taken.

        Args:
            cover: [N] of `PoolGraph.cover`.
            redundancy: [N] of `PoolGraph.nearest`.

        Source: the product of doubt and representativeness is the information density of Settles, Craven (2008), An
        Analysis of Active Learning Strategies for Sequence Labeling Tasks, section 3.4.
        """
        doubt = self.uncertainty + CONTRADICTION * self.disagreement * (1.0 - self.uncertainty)
        mixed = self.representativeness(cover) ** self.share * doubt ** (1.0 - self.share)
        return mixed * (1.0 - redundancy**REDUNDANCY_POWER)


def representative_share(pool: Pool) -> float:
    """The one rule of the mixture: 1 / (1 + 3 v + g / C), of g gold labels, C classes and v.

    v is the share of the pool on which a function voted. With neither weak nor gold labels only representativeness
    counts; weak labels on everything count as three gold labels per class; as gold grows doubt takes over.

    Source: the direction is that of Hacohen, Dekel, Weinshall (2022), Active Learning on a Budget: Opposite Strategies
    Suit High and Low Budgets; the rule and its number were measured here.
    """
    voted = float((pool.votes.sum(axis=1) > 0).mean())
    return 1.0 / (1.0 + COVERAGE_WORTH * voted + len(pool.labelled) / max(1, len(pool.class_names)))


def class_weight(predicted: Floats) -> Floats:
    """How much each item counts in representativeness, so that every class counts the same in all.

    The expectation of 1 / (C * share of the class) under the end model. Without it the largest class is all that there
    is to speak for. Shares below 0.02 / C count as that, so that a class of one or two items does not outweigh all.

    Args:
        predicted: class probabilities [N, C].

    Returns:
        [N], 1 where every class is equally frequent.

    Source: inverse class frequency, as in King, Zeng (2001), Logistic Regression in Rare Events Data, section 4.
    """
    share = predicted.mean(axis=0) * predicted.shape[1]
    return predicted @ (1.0 / np.maximum(share, RARE))


def narrowness(predicted: Floats) -> Floats:
    """One minus the margin between the two most probable classes of each item.

    Args:
        predicted: class probabilities [N, C].

    Returns:
        [N], 0 (certain) to 1 (two classes equally probable); 0 where there is only one class.

    Source: Scheffer, Decomain, Wrobel (2001), Active Hidden Markov Models for Information Extraction.
    """
    if predicted.shape[1] < 2:
        return np.zeros(len(predicted))
    best_two = np.partition(predicted, -2, axis=1)[:, -2:]
    return np.clip(1.0 - (best_two[:, 1] - best_two[:, 0]), 0.0, 1.0)


def uncertainty(graph: PoolGraph, predicted: Floats) -> Floats:
    """Half the item's own `narrowness`, half the mean of its neighbourhood.

    The neighbours keep single odd texts from the top, whose label would tell nothing about others.

    Args:
        graph: of N items.
        predicted: class probabilities [N, C].

    Returns:
        [N], 0 to 1.

    Source: smoothing over a neighbour graph as in Zhu, Ghahramani, Lafferty (2003), Semi-Supervised Learning Using
    Gaussian Fields and Harmonic Functions, with one step instead of all.
    """
    own = narrowness(predicted)
    return 0.5 * own + 0.5 * graph.smoothed(own)


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


def estimate_values(lake: Lake, index: VectorIndex, config: ValueConfig, progress: Progress = silent) -> StageResult:
    """Write the value, its components and its reason for every train item that nobody has labelled or queued.

    Args:
        lake: the warehouse.
        index: of the current vectors.
        config: settings.
        progress: called with (steps done, 3).

    Returns:
        The result; `detail` has the cycle, the gold labels and the share of representativeness.
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
        estimate = Estimate.of(pool, graph)
        with threadpool_limits(1):  # as in `select`, so that both see the same bits
            cover, redundancy = graph.cover(pool.taken), graph.nearest(pool.taken)
        representativeness, value = estimate.representativeness(cover), estimate.worth(cover, redundancy)
        table = pa.table(
            {
                "item_id": [pool.item_ids[row] for row in rows],
                "cycle": np.full(len(rows), cycle, np.int32),
                "value": np.round(value[rows], DECIMALS),
                "representativeness": np.round(representativeness[rows], DECIMALS),
                "uncertainty": np.round(estimate.uncertainty[rows], DECIMALS),
                "disagreement": np.round(estimate.disagreement[rows], DECIMALS),
                "redundancy": np.round(redundancy[rows], DECIMALS),
                "reason": reasons(pool, graph.speaks_for(cover), redundancy, rows),
            }
        )
        progress(3, 3)
        detail = {"cycle": cycle, "gold": len(pool.labelled), "representative_share": round(estimate.share, 3)}
        return stage.commit([Upsert("values", table)], rows_read=len(pool), detail=detail)


def _entropy(probs: Floats) -> Floats:
    """Entropy of each row in bits [N]; 0 log 0 is 0."""
    return -(probs * np.log2(probs, out=np.zeros_like(probs), where=probs > 0)).sum(axis=1)
