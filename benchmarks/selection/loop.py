"""One run of active learning, the same for every strategy and every library: pick, ask, fit, score.

The end model is multinomial logistic regression on frozen vectors with a ridge of 0.1 (C = 10), fitted from scratch
optimum to optimum. Batches are 16 until 64 labels are there and 32 after. This file needs numpy and scipy only, so that
the environment of the peers can run it too.

Shape letters: N pool items, M test items, D embedding, C classes, T labelled items.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

RIDGE = 0.1
BUDGETS = (16, 32, 64, 128, 256, 512)
SMALL_BATCH, SMALL_UNTIL, BATCH = 16, 64, 32
POOL_SHARE = 0.8
"""Every seed draws this share of the pool anew, so that strategies without random numbers have a deviation too."""


@dataclass(frozen=True, slots=True)
class State:
    """What a strategy may look at.

    Attributes:
        vectors: [N, D].
        labelled: [T] places, in the order they were asked.
        gold: [T] their labels.
        classes: C.
        predicted: [N, C] of the end model, even before there is one.
        model: the end model, untrained before there are labels.
        generator: random numbers of this run.
    """

    vectors: Floats
    labelled: Rows
    gold: Rows
    classes: int
    predicted: Floats
    model: "LinearModel"
    generator: np.random.Generator


Choose = Callable[[State, int], Rows]


class LinearModel:
    """Ridge-penalised multinomial logistic regression; the intercepts are free."""

    def __init__(self, dimensions: int, classes: int, ridge: float = RIDGE) -> None:
        self._ridge = ridge
        self.weights = np.zeros((dimensions, classes), np.float32)
        self.intercept = np.zeros(classes, np.float32)

    def fit(self, vectors: Floats, labels: Rows) -> "LinearModel":
        """Move to the optimum, starting from where the model is."""
        d, c = self.weights.shape
        onehot = np.eye(c, dtype=np.float32)[labels]

        def loss(step: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
            weights, intercept = step[: d * c].reshape(d, c).astype(np.float32), step[d * c :].astype(np.float32)
            logits = vectors @ weights + intercept
            logits -= logits.max(axis=1, keepdims=True)
            exp = np.exp(logits)
            total = exp.sum(axis=1, keepdims=True)
            value = float((np.log(total)[:, 0] - (onehot * logits).sum(axis=1)).sum())
            error = exp / total - onehot
            gradient = np.concatenate([(vectors.T @ error + self._ridge * weights).ravel(), error.sum(axis=0)])
            return value + 0.5 * self._ridge * float((weights**2).sum()), gradient.astype(np.float64)

        start = np.concatenate([self.weights.ravel(), self.intercept]).astype(np.float64)
        options = {"maxiter": 100, "gtol": 1e-2, "ftol": 1e-7}
        found = minimize(loss, start, jac=True, method="L-BFGS-B", options=options).x
        self.weights, self.intercept = (
            found[: d * c].reshape(d, c).astype(np.float32),
            found[d * c :].astype(np.float32),
        )
        return self

    def predict_proba(self, vectors: Floats) -> Floats:
        """Class probabilities [N, C]."""
        logits = vectors @ self.weights + self.intercept
        exp = np.exp(logits - logits.max(axis=1, keepdims=True))
        return exp / exp.sum(axis=1, keepdims=True)


def pool_of(count: int, seed: int) -> Rows:
    """Places of the pool that a seed draws, ascending."""
    return np.sort(np.random.default_rng([7, seed]).permutation(count)[: int(POOL_SHARE * count)])


def run(
    vectors: Floats,
    labels: Rows,
    test_vectors: Floats,
    test_labels: Rows,
    *,
    classes: int,
    choose: Choose,
    seed: int,
    most: int = BUDGETS[-1],
) -> dict[int, float]:
    """Accuracy on the test part after each batch.

    Raises:
        ValueError: the strategy picked an item twice, a labelled one, or not as many as asked.
    """
    rows = pool_of(len(vectors), seed)
    vectors, labels = vectors[rows], labels[rows]
    generator = np.random.default_rng(seed)
    model = LinearModel(vectors.shape[1], classes)
    labelled = np.empty(0, np.int64)
    scores: dict[int, float] = {}
    while len(labelled) < min(most, len(vectors)):
        batch = min(SMALL_BATCH if len(labelled) < SMALL_UNTIL else BATCH, len(vectors) - len(labelled))
        predicted = model.predict_proba(vectors)
        state = State(vectors, labelled, labels[labelled], classes, predicted, model, generator)
        picked = np.asarray(choose(state, batch), np.int64)
        if len(set(picked.tolist()) - set(labelled.tolist())) != batch:
            raise ValueError(f"{batch} new items were asked for, {picked.tolist()} came back.")
        labelled = np.concatenate([labelled, picked])
        model.fit(vectors[labelled], labels[labelled])
        scores[len(labelled)] = float((model.predict_proba(test_vectors).argmax(axis=1) == test_labels).mean())
    return scores
