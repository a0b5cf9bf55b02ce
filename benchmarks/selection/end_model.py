"""Curves of the product's own end model, which learns from functions first, where there are some, then from people."""

import numpy as np
from threadpoolctl import threadpool_limits

from active.strategies import STRATEGIES, Situation
from benchmarks.data.sets import TextSet
from benchmarks.selection.loop import BATCH, SMALL_BATCH, SMALL_UNTIL, pool_of
from benchmarks.selection.strategies import graph_of, make_pool
from weak_labels.classifiers.feature_map import FeatureMap
from weak_labels.classifiers.gold_update import learn
from weak_labels.classifiers.inputs import Sight
from weak_labels.classifiers.linear import EndModel

MOST = 256


def end_model_curve(data: TextSet, strategy: str, seed: int, *, weak: bool, mapped: bool) -> dict[int, float]:
    """Accuracy by labels, up to 256.

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
