"""Strategies of small-text and scikit-activeml; detectors of wrong labels: cleanlab, KNN-Shapley, Data-OOB.

    python -m benchmarks.peers.selection curve SET.npz "small-text breaking-ties" 0,1,2
    python -m benchmarks.peers.selection noise SET.npz cleanlab

Prints one JSON object per line. It imports nothing of Siftline but the loop, which needs numpy and scipy only. Every
strategy is used as its library documents it, with its defaults; where it wants a classifier it gets the end model of
the loop, and where it wants one that it can fit, scikit-learn's logistic regression with the same ridge (C = 10).
"""

import json
import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.selection.loop import RIDGE, Choose, Rows, State, run


def main() -> None:
    """Do the task of the command line."""
    task, file, *arguments = sys.argv[1:]
    warnings.simplefilter("ignore")
    with np.load(file, allow_pickle=False) as stored:
        data = dict(stored.items())
    classes = int(data["classes"])
    sides = [data[name] for name in ("vectors", "labels", "test_vectors", "test_labels")]
    if task == "curve":
        for seed in map(int, arguments[1].split(",")):
            scores = run(*sides, classes=classes, choose=_choose(arguments[0]), seed=seed)
            print(json.dumps({"seed": seed, "scores": scores}), flush=True)
    else:
        for name, detect in DETECTORS[arguments[0]].items():
            suspicion = detect(data["vectors"], data["labels"], classes)
            print(json.dumps({"detector": name, "suspicion": [float(s) for s in suspicion]}), flush=True)


def _choose(strategy: str) -> Choose:
    library, name = strategy.split(" ")
    if library == "small-text":
        return _small_text(name)
    return _skactiveml(name)


class _Classifier:
    """The loop's model as small-text asks for it; a data set is the matrix of vectors."""

    def __init__(self, state: State) -> None:
        self._state = state

    def predict_proba(self, dataset: Any) -> Any:
        return self._state.model.predict_proba(np.asarray(dataset))

    def embed(self, dataset: Any, *, return_proba: bool = False, **_: Any) -> Any:
        vectors = np.asarray(dataset)
        return (vectors, self.predict_proba(vectors)) if return_proba else vectors


def _small_text(name: str) -> Choose:
    import small_text

    made = {
        "breaking-ties": small_text.BreakingTies,
        "least-confidence": small_text.LeastConfidence,
        "greedy-coreset": small_text.GreedyCoreset,
        "lightweight-coreset": small_text.LightweightCoreset,
        "contrastive": small_text.ContrastiveActiveLearning,
        "k-means": small_text.EmbeddingKMeans,
    }[name]
    needs_labels = name in ("breaking-ties", "least-confidence", "contrastive", "greedy-coreset")

    def choose(state: State, batch: int) -> Rows:
        unlabelled = np.setdiff1d(np.arange(len(state.vectors)), state.labelled)
        # small-text asks for initial labels by random_initialization; it says to query only with a fitted classifier.
        if needs_labels and not len(state.labelled):
            return state.generator.choice(unlabelled, batch, replace=False)
        np.random.seed(int(state.generator.integers(2**31)))  # noqa: NPY002 (its strategies draw from the global one)
        picked = made().query(_Classifier(state), state.vectors, unlabelled, state.labelled, state.gold, n=batch)
        return np.asarray(picked, np.int64)

    return choose


def _skactiveml(name: str) -> Choose:
    from skactiveml import pool
    from skactiveml.classifier import SklearnClassifier
    from sklearn.linear_model import LogisticRegression

    made: dict[str, Callable[[int], Any]] = {
        "margin": lambda seed: pool.UncertaintySampling(method="margin_sampling", random_state=seed),
        "badge": lambda seed: pool.Badge(random_state=seed),
        "typiclust": lambda seed: pool.TypiClust(random_state=seed),
        "probcover": lambda seed: pool.ProbCover(random_state=seed),
        "falcun": lambda seed: pool.Falcun(random_state=seed),
    }
    needs_classifier = name in ("margin", "badge", "falcun")
    kept: dict[str, Any] = {}  # ProbCover finds its radius when first asked and keeps it, so one object serves a run

    def choose(state: State, batch: int) -> Rows:
        labels = np.full(len(state.vectors), np.nan)
        labels[state.labelled] = state.gold
        strategy = kept.get(name) or made[name](int(state.generator.integers(2**31)))
        if name == "probcover":
            kept[name] = strategy
        given: dict[str, Any] = {"X": state.vectors, "y": labels, "batch_size": batch}
        if needs_classifier:
            model = LogisticRegression(C=1 / RIDGE, max_iter=200)
            given["clf"] = SklearnClassifier(model, classes=list(range(state.classes)))
        return np.asarray(strategy.query(**given), np.int64)

    return choose


def _out_of_fold(vectors: Any, labels: Any) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    model = LogisticRegression(C=1 / RIDGE, max_iter=200)
    return cross_val_predict(model, vectors, labels, cv=folds, method="predict_proba")


def _cleanlab(vectors: Any, labels: Any, classes: int, method: str = "self_confidence") -> Any:
    from cleanlab.rank import get_label_quality_scores

    return -get_label_quality_scores(labels, _out_of_fold(vectors, labels), method=method)


def _pydvl_knn_shapley(vectors: Any, labels: Any, classes: int) -> Any:
    """A third of the items, by a fixed seed, judges the others, three times; each item is valued twice."""
    from pydvl.valuation import Dataset, KNNShapleyValuation
    from sklearn.neighbors import KNeighborsClassifier

    values = np.zeros(len(labels))
    for part in np.array_split(np.random.default_rng(0).permutation(len(labels)), 3):
        rest = np.setdiff1d(np.arange(len(labels)), part)
        judges = Dataset(vectors[part], labels[part])
        valuation = KNNShapleyValuation(KNeighborsClassifier(n_neighbors=5), judges, progress=False)
        found = valuation.fit(Dataset(vectors[rest], labels[rest])).result
        values[rest[found.indices]] += found.values
    return -values


def _pydvl_data_oob(vectors: Any, labels: Any, classes: int) -> Any:
    from pydvl.valuation import DataOOBValuation, Dataset
    from sklearn.ensemble import BaggingClassifier
    from sklearn.linear_model import LogisticRegression

    model = BaggingClassifier(LogisticRegression(C=1 / RIDGE, max_iter=100), n_estimators=30, random_state=0)
    model.fit(vectors, labels)
    found = DataOOBValuation(model).fit(Dataset(vectors, labels)).result
    values = np.zeros(len(labels))
    values[found.indices] = found.values
    return -np.nan_to_num(values)


DETECTORS: dict[str, dict[str, Callable[[Any, Any, int], Any]]] = {
    "cleanlab": {"cleanlab": _cleanlab, "cleanlab, normalized margin": partial(_cleanlab, method="normalized_margin")},
    "pydvl": {"pyDVL KNN-Shapley": _pydvl_knn_shapley, "Data-OOB (pyDVL)": _pydvl_data_oob},
}


if __name__ == "__main__":
    main()
