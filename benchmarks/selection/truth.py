"""Value against truth: what a label was said to be worth beside what it was worth, by fitting with and without it."""

import numpy as np
from scipy.stats import spearmanr
from threadpoolctl import threadpool_limits

from active.strategies import Situation
from active.strategies.value import pick_value
from active.value.information_gain import Information
from active.value.stage import ALONE_RIDGE, disagreement, information, shares, uncertainty
from benchmarks.data.sets import TextSet
from benchmarks.harness import Figures
from benchmarks.selection.loop import LinearModel, State, pool_of
from benchmarks.selection.strategies import graph_of, pool_at

STARTS = (32, 128)
SAMPLED = 150
SEEDS = 3


def truth(data: TextSet, seeds: int) -> Figures:
    """Spearman between each figure and the measured fall of the test loss, mean over seeds, by labels at the start.

    The start is picked half at random and half by `value`; 150 open items are drawn evenly, each is labelled with its
    gold class alone, and the end model is fitted again.
    """
    found: Figures = {}
    for start in STARTS:
        with threadpool_limits(1):
            rows = [_correlations(data, start, seed) for seed in range(min(seeds, SEEDS))]
        found[str(start)] = {name: round(float(np.mean([row[name] for row in rows])), 3) for name in rows[0]}
    return found


def _correlations(data: TextSet, start: int, seed: int) -> dict[str, float]:
    generator = np.random.default_rng([13, seed])
    rows = pool_of(len(data.vectors), seed)
    vectors, labels, classes = data.vectors[rows], data.labels[rows], len(data.classes)
    graph = graph_of(vectors)

    def state(labelled: np.ndarray) -> State:
        model = LinearModel(vectors.shape[1], classes).fit(vectors[labelled], labels[labelled])
        predicted = model.predict_proba(vectors)
        return State(vectors, labelled, labels[labelled], classes, predicted, model, generator)

    half = generator.choice(len(vectors), start // 2, replace=False)
    picked = pick_value(Situation(pool=pool_at(state(half)), graph=graph, generator=generator), start // 2).rows
    now = state(np.concatenate([half, picked]))
    pool = pool_at(now)
    known, even = information(pool, graph), np.ones(len(pool))
    typical = Information(graph.vectors, even, even, pool.taken, classes=classes, ridge=ALONE_RIDGE)
    figures = {
        "value": shares(known.gains, pool.open),
        "representativeness": shares(typical.gains, pool.open),
        "uncertainty": uncertainty(graph, pool.predicted),
        "disagreement": disagreement(pool.votes, pool.weak, pool.predicted),
        "novelty": 1.0 - graph.nearest(pool.taken),
    }
    asked = generator.choice(pool.open, min(SAMPLED, len(pool.open)), replace=False)
    before, gains = _loss(now.model, data), list[float]()
    for row in asked:
        model = LinearModel(vectors.shape[1], classes)
        model.weights, model.intercept = now.model.weights, now.model.intercept
        labelled = np.append(now.labelled, row)
        gains.append(before - _loss(model.fit(vectors[labelled], labels[labelled]), data))
    return {
        name: float(spearmanr(figure[asked], gains).statistic) if np.ptp(figure[asked]) > 0 else 0.0
        for name, figure in figures.items()
    }


def _loss(model: LinearModel, data: TextSet) -> float:
    """Mean cross-entropy on the test part."""
    probs = model.predict_proba(data.test_vectors)[np.arange(len(data.test_labels)), data.test_labels]
    return float(-np.log(np.maximum(probs, 1e-9)).mean())
