"""The value where functions have taught the end model: what is typical and doubtful at once, and not yet spoken for.

Weak labels make the model sure in regions where they are wrong together, so the doubt that it admits is not all there
is, and the rule of `active.value.information_gain` falls behind this one. It is a geometric mean whose share of
representativeness falls as gold grows (docs/decisions/value-where-weak-labels-exist.md).

Shape letters: N items of the pool, C classes.
"""

from dataclasses import dataclass

import numpy as np

from active.pool.graph import Floats, PoolGraph, Rows
from active.pool.pool import Pool

COVERAGE_WORTH = 3.0
"""Gold labels per class that weak labels on the whole pool count for in `representative_share`."""
CONTRADICTION = 0.3
"""Share of the doubt that a full contradiction adds to an item the end model is sure about."""
RARE = 0.02
SMALLEST = 1e-12
REDUNDANCY_POWER = 4


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
    def of(cls, pool: Pool, graph: PoolGraph, uncertainty: Floats, disagreement: Floats) -> "Estimate":
        """Estimate for a pool of one item or more.

        Args:
            pool: the items.
            graph: theirs.
            uncertainty: [N] of `active.value.stage.uncertainty`.
            disagreement: [N] of `active.value.stage.disagreement`.
        """
        weight = class_weight(pool.predicted, multi_label=pool.multi_label)
        return cls(
            graph=graph,
            uncertainty=uncertainty,
            disagreement=disagreement,
            class_weight=weight,
            largest_gain=float(graph.gain(np.zeros(len(graph)), weight).max()),
            share=representative_share(pool),
        )

    def representativeness(self, cover: Floats, of: Rows | None = None) -> Floats:
        """Share of the largest possible gain that each item still has, 0 to 1; arguments as in `PoolGraph.gain`."""
        return self.graph.gain(cover, self.class_weight, of) / self.largest_gain

    def worth(self, typical: Floats, redundancy: Floats) -> Floats:
        """The value of each item, 0 to 1.

            r^s * (u + 0.3 d (1 - u))^(1 - s) * (1 - x^4)

        with representativeness r and its share s, uncertainty u, disagreement d and redundancy x. A geometric mean,
        because an item that is no doubt at all, or that speaks for nobody, is worth nothing however good the other
        part. 1 is an item nobody has spoken for, in the middle of everything and as doubtful as can be; an exact copy
        of a labelled or queued item is worth 0. The value never rises as more is taken.

        Args:
            typical: [N] of `representativeness`.
            redundancy: [N] of `PoolGraph.nearest`.

        Source: the product of doubt and representativeness is the information density of Settles, Craven (2008), An
        Analysis of Active Learning Strategies for Sequence Labeling Tasks, section 3.4.
        """
        doubt = self.uncertainty + CONTRADICTION * self.disagreement * (1.0 - self.uncertainty)
        mixed = typical**self.share * doubt ** (1.0 - self.share)
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


def class_weight(predicted: Floats, *, multi_label: bool = False) -> Floats:
    """How much each item counts in representativeness, so that every class counts the same in all.

    The expectation of 1 / (C * share of the class) under the end model. Without it the largest class is all that there
    is to speak for. Shares below 0.02 / C count as that, so that a class of one or two items does not outweigh all.

    Args:
        predicted: class probabilities [N, C]; rows that do not sum to 1, as in a multi-label project, count in parts.

    Returns:
        [N], 1 where every class is equally frequent.

    Source: inverse class frequency, as in King, Zeng (2001), Logistic Regression in Rare Events Data, section 4.
    """
    parts = predicted / np.maximum(predicted.sum(axis=1, keepdims=True), SMALLEST) if multi_label else predicted
    share = parts.mean(axis=0) * parts.shape[1]
    return parts @ (1.0 / np.maximum(share, RARE))
