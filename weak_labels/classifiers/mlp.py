"""The hidden layer of a small MLP: what it learns from soft labels, and what it gives a classifier to see.

It is learned with an output layer of its own, which is dropped. The end model's logistic regression then sees the
features and, beside them, the units: an MLP with a way around its hidden layer. So gold labels move one convex layer in
either kind of end model, by one rule.

Letters: N items, E dimensions of the vectors, H hidden units, C classes.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix, hstack, issparse

from warehouse.numeric import one_core
from weak_labels.losses import cross_entropy

Floats = npt.NDArray[np.float64]

UNITS = 32
RIDGE = 1.0
STEPS = 200
MOST_ITEMS = 20_000
"""Items it learns from, evenly spaced where there are more; on one core a step over them takes .2 s."""


@dataclass(frozen=True, slots=True)
class HiddenLayer:
    """tanh units on the vectors: weights [E, H] and offsets [H]. The units of an item have length 1 at most."""

    weights_EH: Floats
    offset_H: Floats

    @classmethod
    def fit(cls, vectors: npt.NDArray[np.floating[Any]], probs: Floats, weights: Floats, seed: int) -> Self:
        """Learn from soft labels, starting from random units.

        The loss is cross-entropy and a ridge on the output layer and on the way that the units move from their start.

        Args:
            vectors: unit rows [N, E].
            probs: soft labels [N, C].
            weights: [N] how much each one counts; 0 leaves it out.
            seed: of the random units.
        """
        from scipy.optimize import minimize  # takes a third of a second to import

        rows = np.flatnonzero(weights > 0)
        rows = rows[:: max(-(-len(rows) // MOST_ITEMS), 1)]
        x_NE = vectors[rows].astype(np.float64)
        weights_N = weights[rows]
        target_NC = probs[rows] * weights_N[:, None]
        e, c = x_NE.shape[1], target_NC.shape[1]
        began_EH = np.random.default_rng(seed).normal(size=(e, UNITS))
        ends = np.cumsum([e * UNITS, UNITS, UNITS * c])

        def loss_and_gradient(flat: Floats) -> tuple[float, Floats]:
            step_EH, offset_H, out_HC = flat[: ends[0]].reshape(e, -1), flat[ends[0] : ends[1]], flat[ends[1] : ends[2]]
            out_HC = out_HC.reshape(-1, c)
            units_NH = _units(x_NE, began_EH + step_EH, offset_H)
            loss, error_NC = cross_entropy(units_NH @ out_HC + flat[ends[2] :], target_NC, weights_N)
            # The slope of a unit tanh(a) / sqrt(H) is (1 - tanh(a)^2) / sqrt(H).
            slope_NH = (error_NC @ out_HC.T) * (UNITS**-0.5 - units_NH**2 * UNITS**0.5)
            parts = (
                x_NE.T @ slope_NH + RIDGE * step_EH,
                slope_NH.sum(axis=0),
                units_NH.T @ error_NC + RIDGE * out_HC,
                error_NC.sum(axis=0),
            )
            loss += 0.5 * RIDGE * (float((step_EH**2).sum()) + float((out_HC**2).sum()))
            return loss, np.concatenate([part.reshape(-1) for part in parts])

        # One thread: equal bits on any number of cores.
        with one_core():
            found = minimize(
                loss_and_gradient,
                np.zeros(ends[2] + c),
                jac=True,
                method="L-BFGS-B",
                options={"maxiter": STEPS, "gtol": 1e-3, "ftol": 1e-8},
            )
        flat = np.asarray(found.x, np.float64)
        return cls(began_EH + flat[: ends[0]].reshape(e, -1), flat[ends[0] : ends[1]])

    def beside(self, features: Any) -> Any:
        """Features whose first E columns are the vectors, and the units beside them [N, D + H]; sparse stays sparse."""
        vectors = features[:, : len(self.weights_EH)]
        dense = vectors.toarray() if issparse(vectors) else vectors
        with one_core():
            units_NH = _units(dense.astype(np.float64), self.weights_EH, self.offset_H)
        if issparse(features):
            return csr_matrix(hstack([features, csr_matrix(units_NH)]))
        return np.concatenate([features.astype(np.float64), units_NH], axis=1)


def _units(vectors_NE: Floats, weights_EH: Floats, offset_H: Floats) -> Floats:
    return np.tanh(vectors_NE @ weights_EH + offset_H) * UNITS**-0.5
