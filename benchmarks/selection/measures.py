"""Curves of the product's end model, wrong labels found, and value against truth: the measures of one set.

Shape letters: N items, C classes.
"""

from dataclasses import replace

import numpy as np
from scipy.stats import spearmanr
from threadpoolctl import threadpool_limits

from active.quality.label_errors import suspicion
from active.strategies import STRATEGIES, Situation
from active.strategies.value import pick_value
from active.value.information_gain import Information
from active.value.stage import ALONE_RIDGE, disagreement, information, shares, uncertainty
from benchmarks.data.sets import TextSet
from benchmarks.harness import Figures
from benchmarks.selection.loop import BATCH, SMALL_BATCH, SMALL_UNTIL, LinearModel, State, pool_of
from benchmarks.selection.strategies import graph_of, make_pool, peer_lines, pool_at
from weak_labels.classifiers.feature_map import FeatureMap
from weak_labels.classifiers.gold_update import learn
from weak_labels.classifiers.inputs import Sight
from weak_labels.classifiers.linear import EndModel

MOST = 256
"""Labels of a curve of the end model."""
NOISY_LABELS, NOISE_SHARES = 1000, (0.05, 0.1, 0.2)
STARTS, SAMPLED = (32, 128), 150
SEEDS = 3
"""Of noise, for whose Data-OOB 50 models are fitted each time, and of truth."""


def end_model_curve(data: TextSet, strategy: str, seed: int, *, weak: bool, mapped: bool) -> dict[int, float]:
    """Accuracy of the product's own end model by labels, which learns from functions first, then from people.

    Args:
        data: the texts.
        strategy: which picks the labels.
        seed: of the pool and the picks.
        weak: begin at what the shares of the votes teach (the label model majority), else at nothing.
        mapped: see vectors through the map, with weak labels as they are besides, as the product does; else only so.
    """
    rows = pool_of(len(data.vectors), seed)
    vectors, labels, classes = data.vectors[rows], data.labels[rows], len(data.classes)
    feature_map = FeatureMap.fit(vectors) if mapped else FeatureMap.identity(vectors.shape[1])
    sight = Sight(feature_map=feature_map, as_they_are=weak and mapped)
    seen, test_seen = sight.of(vectors, []), sight.of(data.test_vectors, [])
    views, votes = sight.views(seen), np.zeros((len(rows), classes))
    if weak:
        votes = np.stack([(data.votes[rows] == c).sum(axis=1) for c in range(classes)], axis=1).astype(np.float64)
    total = votes.sum(axis=1, keepdims=True)
    weak_labels = np.divide(votes, total, out=np.zeros_like(votes), where=total > 0)
    generator, scores = np.random.default_rng(seed), dict[int, float]()
    labelled = np.empty(0, np.int64)
    with threadpool_limits(1):
        graph, voted = graph_of(vectors), (total[:, 0] > 0).astype(np.float64)
        taught = [model for view in views if (model := EndModel.fit_weak(seen[:, view], weak_labels, voted))]
        while True:
            model = learn(taught, seen[labelled], labels[labelled], classes, views=views)
            if taught or len(labelled):
                predicted = model.predict_proba(test_seen).argmax(axis=1)
                scores[len(labelled)] = float((predicted == data.test_labels).mean())
            if len(labelled) >= MOST:
                return scores
            known, predicted = bool(taught) or len(np.unique(labels[labelled])) > 1, model.predict_proba(seen)
            pool = make_pool(predicted, labelled, labels[labelled], known=known, votes=votes, weak=weak_labels)
            batch = SMALL_BATCH if len(labelled) < SMALL_UNTIL else BATCH
            situation = Situation(pool=pool, graph=graph, generator=generator)
            labelled = np.concatenate([labelled, STRATEGIES[strategy](situation, batch).rows])


def noise(data: TextSet, seeds: int) -> Figures:
    """Average precision of detectors of wrong labels: {share of planted noise: {detector: {mean, sd}}}.

    A share of 1,000 labels is changed to another class, evenly; ours and the peers' see vectors and labels.
    """
    found: Figures = {}
    for share in NOISE_SHARES:
        scores: dict[str, list[float]] = {}
        for seed in range(min(seeds, SEEDS)):
            generator = np.random.default_rng([11, seed])
            rows = generator.permutation(len(data.labels))[:NOISY_LABELS]
            labels, classes = data.labels[rows].copy(), len(data.classes)
            wrong = generator.random(len(labels)) < share
            labels[wrong] = (labels[wrong] + generator.integers(1, classes, wrong.sum())) % classes
            given = replace(data, vectors=data.vectors[rows], labels=labels)
            ours = suspicion(given.vectors, labels, classes, np.random.default_rng(0))
            scores.setdefault("siftline", []).append(_average_precision(wrong, ours))
            for line in (line for family in ("cleanlab", "pydvl") for line in peer_lines("noise", given, family)):
                precision = _average_precision(wrong, np.array(line["suspicion"]))
                scores.setdefault(str(line["detector"]), []).append(precision)
        found[str(share)] = {
            name: {"mean": round(float(np.mean(values)), 4), "sd": round(float(np.std(values)), 4)}
            for name, values in scores.items()
        }
    return found


def _average_precision(wrong: np.ndarray, suspected: np.ndarray) -> float:
    """Mean of the precision at each wrong label, in falling suspicion."""
    hits = wrong[np.argsort(-suspected, kind="stable")]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(precision[hits].mean()) if hits.any() else 0.0


def truth(data: TextSet, seeds: int) -> Figures:
    """Spearman between what a label was said to be worth and the measured fall of the test loss, by labels before.

    The start is picked half at random and half by `value`; 150 open items are drawn evenly, each is labelled with its
    gold class alone, and the end model is fitted again. Mean over seeds.
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
        return State(vectors, labelled, labels[labelled], classes, model.predict_proba(vectors), model, generator)

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
        model, labelled = LinearModel(vectors.shape[1], classes), np.append(now.labelled, row)
        model.weights, model.intercept = now.model.weights, now.model.intercept
        gains.append(before - _loss(model.fit(vectors[labelled], labels[labelled]), data))
    return {
        name: float(spearmanr(figure[asked], gains).statistic) if np.ptp(figure[asked]) > 0 else 0.0
        for name, figure in figures.items()
    }


def _loss(model: LinearModel, data: TextSet) -> float:
    """Mean cross-entropy on the test part."""
    probs = model.predict_proba(data.test_vectors)[np.arange(len(data.test_labels)), data.test_labels]
    return float(-np.log(np.maximum(probs, 1e-9)).mean())
