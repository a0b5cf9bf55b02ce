"""What a label of an item would be worth: the value stage that writes `values`, and the components beside the value.

The value is the doubt of the end model over the whole pool that a label would settle (`active.value.information_gain`),
as a share of the largest there is: 1 is the most useful label of this cycle, 0.5 one that is worth half of it, and 0
that of a near-duplicate of a labelled or queued item, which is never asked about. With weak labels it is that of
`active.value.with_weak_labels`; while many labels are all the same it is `unlikeness`.
Four components, each between 0 and 1, are kept beside it, so that a person can see where a value comes from:

- representativeness: the same gain as if the class of every item were equally open,
- uncertainty: how unsure the end model is about the item and its neighbours,
- disagreement: how much functions, label model and end model contradict each other,
- redundancy: how close the nearest labelled or queued item is.

So are the seconds that an answer is expected to take (`active.value.labeling_cost`), once enough answers tell. They are
no part of the value, which is that of a label; `[select] cost = "seconds"` ranks by the value of a second.

Shape letters: N items of the pool, C classes.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from active.pool.graph import NEAR_DUPLICATE, Floats, PoolGraph, Rows
from active.pool.pool import Pool, read_pool
from active.value.gain_cache import kept_gains
from active.value.information_gain import Information, openness
from active.value.labeling_cost import expected_seconds
from active.value.reasons import reasons
from active.value.value_cache import changed, stored_values
from active.value.with_weak_labels import CONTRADICTION, Estimate
from features.neighbors.faiss_index import VectorIndex
from warehouse import Lake, Progress, SettingsError, StageResult, Upsert, silent
from warehouse.numeric import one_core

SHARPNESS = 2.0
"""Power of the predicted probabilities: a model held back by its ridge is surer than it says."""
TAUGHT_RIDGE, ALONE_RIDGE = 1.0, 0.02
"""What the end model knows to begin with: with weak labels its ridge, see `weak_labels.classifiers.linear`; without a
smaller one than its own, which makes the first picks differ more from each other."""
DECIMALS = 6
"""Stored figures are rounded, so that the last bits of a matrix product do not decide an order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ValueConfig:
    """Settings of the estimator.

    Attributes:
        neighbors: nearest items that each item is joined with in the graph.

    Raises:
        SettingsError: `neighbors` is below 1.
    """

    neighbors: int = 20

    def __post_init__(self) -> None:
        if self.neighbors < 1:
            raise SettingsError(f"neighbors is {self.neighbors}; the value estimate needs 1 or more, such as 20.")


def information(pool: Pool, graph: PoolGraph) -> Information:
    """The doubt of the end model over a pool of one item or more, and what labels would take of it.

    Functions and models that contradict each other count as doubt too. Queued items count as labelled.
    """
    opened, classes = _openness(pool, conflict(pool)), pool.question.shape[1]
    return Information(graph.vectors, opened, opened, pool.taken, classes=classes, ridge=_ridge(pool))


def _openness(pool: Pool, contradiction: Floats) -> Floats:
    """How open each item is [N], 0 to 1: the end model's doubt, and contradictions [N] of `conflict`."""
    sharp = pool.question**SHARPNESS
    doubt = openness(sharp / sharp.sum(axis=1, keepdims=True))
    return doubt + CONTRADICTION * contradiction * (1.0 - doubt)


def taught(pool: Pool, graph: PoolGraph) -> Estimate | None:
    """The estimate of `with_weak_labels` where weak labels taught, else None: then `information_gain` decides."""
    if not pool.weakly_taught:
        return None
    return Estimate.of(pool, graph, uncertainty(graph, pool.question), conflict(pool))


def unlikeness(nearest: Floats) -> Floats:
    """The value [N] while many labels are all the same (`Pool.all_alike`): one minus the cosine of the nearest of them.

    What is typical has been asked about by then, and was of one class. Another one, if there is any, is rarer, and what
    the labels tell least about is where it is found with the fewest more.

    Args:
        nearest: cosine of the nearest taken item [N].

    Source: Sener, Savarese (2018), Active Learning for Convolutional Neural Networks: A Core-Set Approach, algorithm 1.
    """
    return 1.0 - nearest


def shares(gains: Floats, rows: Rows) -> Floats:
    """Gains [N] over the largest one of some rows, at most 1; all 0 where there is none above 0."""
    most = float(gains[rows].max(initial=0.0))
    return np.minimum(gains / most, 1.0) if most > 0 else np.zeros(len(gains))


def _ridge(pool: Pool) -> float:
    return TAUGHT_RIDGE if pool.weakly_taught else ALONE_RIDGE


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


def conflict(pool: Pool) -> Floats:
    """The `disagreement` about each item of a pool [N]; in a multi-label project that about its most disputed class.

    There votes for two classes are no conflict: each says that the item has its class, and nothing of the others. Where
    the end model has said nothing, the label model contradicts nobody.
    """
    known = pool.weak.any(axis=1) & pool.has_prediction
    if not pool.multi_label:
        found, told = np.zeros(len(pool)), np.flatnonzero(pool.votes.any(axis=1) | known)
        weak = np.where(known[told, None], pool.weak[told], 0.0)
        found[told] = disagreement(pool.votes[told], weak, pool.predicted[told])
        return found
    most, silent = np.zeros(len(pool)), np.zeros((len(pool), 2))
    for weak, predicted in zip(pool.weak.T, pool.predicted.T, strict=True):
        said = np.where(known[:, None], np.stack([1.0 - weak, weak], axis=1), 0.0)
        most = np.maximum(most, disagreement(silent, said, np.stack([1.0 - predicted, predicted], axis=1)))
    return most


def estimate_values(lake: Lake, index: VectorIndex, config: ValueConfig, progress: Progress = silent) -> StageResult:
    """Write the value, its components and its reason for every train item that nobody has labelled or queued.

    Where the cycle has values already, those that are as before are left alone; see `active.value.value_cache`.

    Args:
        lake: the warehouse.
        index: of the current vectors.
        config: settings.
        progress: called with (steps done, 3); while neighbours of many are looked for, with (lists done, lists).

    Returns:
        The result; `detail` has the cycle, the gold labels, the share of the doubt that the best label settles, the
        items whose gain was worked out (of the others it stood, see `active.value.gain_cache`), and the median of the
        expected seconds where they are known.
    """
    params = {"neighbors": config.neighbors}
    inputs = ("items", "vectors", "weak_labels", "predictions", "annotations", "annotator_skills")
    with lake.stage("value", version=10, inputs=inputs, params=params) as stage:
        if stage.done:
            return stage.result()
        if not len(index):
            return stage.nothing(reason="every train item is labelled or queued")
        progress(0, 3)
        index.neighbors(config.neighbors, progress)  # the first time that takes minutes; here a signal can stop it
        with ThreadPoolExecutor(1) as beside:
            graphed = beside.submit(PoolGraph.from_index, index, index.item_ids, config.neighbors)
            pool = read_pool(stage, index.item_ids)
            cycle = 1 + int(stage.scalar("SELECT max(cycle) FROM queue") or 0)
            stored = stored_values(stage, cycle)
            progress(1, 3)
            graph = graphed.result()
        rows = pool.open
        if not len(rows):
            return stage.nothing(reason="every train item is labelled or queued")
        if pool.item_ids != index.item_ids:
            graph = PoolGraph.from_index(index, pool.item_ids, config.neighbors)
        progress(2, 3)
        with one_core():  # as in `select`, so that both see the same bits
            cover, estimate, contradiction = graph.cover(pool.taken), taught(pool, graph), conflict(pool)
            questions = {"doubt": _openness(pool, contradiction)}
            if estimate is None:
                questions["typical"] = np.ones(len(pool))  # as if all classes were equally open
            gained, redundancy = kept_gains(
                index.beside("gains"),
                graph,
                pool.taken,
                questions,
                classes=pool.question.shape[1],
                ridge=_ridge(pool),
            )
            known = gained["doubt"]
            typical = estimate.representativeness(cover) if estimate else shares(gained["typical"].gains, rows)
        gains = np.where(redundancy < NEAR_DUPLICATE, known.gains, 0.0)
        value = shares(gains, rows)
        if estimate is not None:
            value = np.where(redundancy < NEAR_DUPLICATE, estimate.worth(typical, redundancy), 0.0)
        elif pool.all_alike:
            value = np.where(redundancy < NEAR_DUPLICATE, unlikeness(redundancy), 0.0)
        settled = gains / known.doubt if known.doubt > 0 else gains
        seconds = expected_seconds(stage, [pool.item_ids[row] for row in rows])
        table = pa.table(
            {
                "item_id": [pool.item_ids[row] for row in rows],
                "cycle": np.full(len(rows), cycle, np.int32),
                "value": np.round(value[rows], DECIMALS),
                "representativeness": np.round(typical[rows], DECIMALS),
                "uncertainty": np.round(uncertainty(graph, pool.question)[rows], DECIMALS),
                "disagreement": np.round(contradiction[rows], DECIMALS),
                "redundancy": np.round(redundancy[rows], DECIMALS),
                "expected_seconds": pa.nulls(len(rows), pa.float64()) if seconds is None else np.round(seconds, 2),
                "reason": reasons(pool, graph.speaks_for(cover), redundancy, settled, rows),
            }
        )
        progress(3, 3)
        best = float(settled[rows].max(initial=0.0))
        detail = {
            "cycle": cycle,
            "gold": len(pool.labelled),
            "share_of_doubt_best_label_removes": round(best, DECIMALS),
        }
        detail["worked_out"] = max(some.anew for some in gained.values())
        if seconds is not None:
            detail["expected_seconds"] = round(float(np.median(seconds)), 2)
        written = changed(stored, table, off=max(some.off for some in gained.values()))
        return stage.commit([Upsert("values", written)], rows_read=len(pool), detail=detail)


def _entropy(probs: Floats) -> Floats:
    """Entropy of each row in bits [N]; 0 log 0 is 0."""
    return -(probs * np.log2(probs, out=np.zeros_like(probs), where=probs > 0)).sum(axis=1)
