"""Gold labels that the selection asks for, on top of weak labels: what one who follows `siftline` gets for few answers.

The selection is the product's: strategy `value` on the vectors, the votes, the weak labels and the predictions of the
end model, which learns from the answers of each batch before the next one is picked.

Shape letters: N items, C classes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from active.strategies import STRATEGIES, Situation
from benchmarks.harness import Figures, mean_and_sd
from benchmarks.selection.loop import pool_of
from benchmarks.selection.strategies import graph_of, make_pool
from weak_labels.classifiers.gold_update import learn
from weak_labels.classifiers.linear import EndModel, Features, Floats, Ints
from weak_labels.label_models import VoteMatrix

SIZES = (10, 30, 60, 120, 240)
SEEDS = 10
COLUMNS = ("weak_then_gold", "gold_only", "gold_only_random")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Begun:
    """What is there before the first answer.

    Attributes:
        votes: of the functions on the train rows.
        weak: class probabilities of the label model [N, C].
        vectors: of the train rows [N, D].
        features: what the end model sees of them, of as many rows.
        features_alone: what one without weak labels sees of them.
        truth: their classes [N].
        weak_only: the end model on weak labels alone.
        learn: the end model with the labels of some rows [M] besides, given the rows and these labels.
    """

    votes: VoteMatrix
    weak: Floats
    vectors: Floats
    features: Features
    features_alone: Features
    truth: Ints
    weak_only: EndModel
    learn: Callable[[Ints, Ints], EndModel]


def selected(begun: Begun, score: Callable[..., float]) -> Figures:
    """Mean figures by number of labels; each seed draws four fifths of the train rows anew to pick from.

    `score` is the figure of an end model on the test split, with `alone` of one without weak labels.
    """
    classes = begun.votes.classes
    figures: dict[int, dict[str, list[float]]] = {size: {name: [] for name in COLUMNS} for size in SIZES}
    with threadpool_limits(1):
        for seed in range(SEEDS):
            drawn = np.random.default_rng(seed).permutation(pool_of(len(begun.truth), seed))
            for size, (asked, model) in _asked(begun, seed).items():
                figures[size]["weak_then_gold"].append(score(model))
                for name, rows in (("gold_only", asked), ("gold_only_random", drawn[:size])):
                    alone = learn((), begun.features_alone[rows], begun.truth[rows], classes)
                    figures[size][name].append(score(alone, alone=True))
    sizes = {str(size): {name: mean_and_sd(of) for name, of in found.items()} for size, found in figures.items()}
    return {"weak_only": round(score(begun.weak_only), 4), "sizes": sizes}


def _asked(begun: Begun, seed: int) -> dict[int, tuple[Ints, EndModel]]:
    """Train rows that were asked about so far and the end model that learned from them, by their number."""
    rows_N = pool_of(len(begun.truth), seed)
    votes, features, truth_N = begun.votes.take(rows_N), begun.features[rows_N], begun.truth[rows_N]
    weak = np.where(votes.covered_N[:, None], begun.weak[rows_N], 0.0)
    graph, generator = graph_of(begun.vectors[rows_N].astype(np.float32)), np.random.default_rng(seed)
    labelled, model = np.empty(0, np.int64), begun.weak_only
    found: dict[int, tuple[Ints, EndModel]] = {}
    for size in SIZES:
        predicted = model.predict_proba(features)
        pool = make_pool(predicted, labelled, truth_N[labelled], known=True, votes=votes.counts(), weak=weak)
        situation = Situation(pool=pool, graph=graph, generator=generator)
        labelled = np.concatenate([labelled, STRATEGIES["value"](situation, size - len(labelled)).rows])
        if len(labelled) != size:
            raise ValueError(f"{size} labels were asked for in all, {len(labelled)} came back.")
        model = begun.learn(rows_N[labelled], truth_N[labelled])
        found[size] = rows_N[labelled], model
    return found
