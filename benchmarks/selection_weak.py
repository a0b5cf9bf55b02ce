"""Curves with weak labels: the product's own end model, which learns from functions first and from people after."""

import numpy as np
from threadpoolctl import threadpool_limits

from active.graph import PoolGraph
from active.pool import Pool
from active.strategies import STRATEGIES, Situation
from benchmarks.selection_data import TextSet
from benchmarks.selection_loop import BATCH, SMALL_BATCH, SMALL_UNTIL, pool_of
from benchmarks.selection_strategies import graph_of
from weak_labels.classifier import EndModel
from weak_labels.gold_step import learn

MOST = 256


def weak_curve(data: TextSet, strategy: str, seed: int) -> dict[int, float]:
    """Accuracy by labels, from 0 to 256; the label model is the share of the votes (majority)."""
    rows = pool_of(len(data.vectors), seed)
    vectors, labels, classes = data.vectors[rows], data.labels[rows], len(data.classes)
    votes = np.stack([(data.votes[rows] == c).sum(axis=1) for c in range(classes)], axis=1).astype(np.float64)
    total = votes.sum(axis=1, keepdims=True)
    weak = np.divide(votes, total, out=np.zeros_like(votes), where=total > 0)
    generator, scores = np.random.default_rng(seed), dict[int, float]()
    labelled = np.empty(0, np.int64)
    with threadpool_limits(1):
        graph: PoolGraph = graph_of(vectors)
        taught = EndModel.fit_weak(vectors, weak, (total[:, 0] > 0).astype(np.float64))
        while True:
            model = learn(taught, vectors[labelled], labels[labelled], classes)
            predicted = model.predict_proba(data.test_vectors).argmax(axis=1)
            scores[len(labelled)] = float((predicted == data.test_labels).mean())
            if len(labelled) >= MOST:
                return scores
            pool = Pool(
                item_ids=[str(row) for row in range(len(rows))],
                content_hashes=[""] * len(rows),
                class_names=list(data.classes),
                votes=votes,
                weak=weak,
                predicted=model.predict_proba(vectors),
                has_prediction=np.ones(len(rows), np.bool_),
                labelled=np.sort(labelled),
                gold=labels[np.sort(labelled)],
                queued=np.empty(0, np.int64),
            )
            batch = SMALL_BATCH if len(labelled) < SMALL_UNTIL else BATCH
            situation = Situation(pool=pool, graph=graph, generator=generator)
            labelled = np.concatenate([labelled, STRATEGIES[strategy](situation, batch).rows])
