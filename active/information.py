"""How much of what the end model does not know a label would settle: the core of the value.

The end model is linear, so what labels have told it stands in one matrix, V: the ridge plus the Fisher information of
the labelled items. The doubt left about item j is t_j x_j' V^-1 x_j: the variance of its score, times how open its
class is. A label of item i with information h_i takes

    h_i * sum_j t_j (x_i' V^-1 x_j)^2 / (1 + h_i x_i' V^-1 x_i)

of the sum of it over the pool. While nothing is known all classes are equally open, and the items that speak for most
of the pool settle most; where the model has become sure, h and t vanish, and doubt decides. So the mixture moves from
representativeness to uncertainty by itself, as far as predictions allow and not by the count of labels.

Shape letters: N items, D embedding, F items of the front, C classes.
"""

from collections.abc import Iterator

import numpy as np

from active.graph import CHUNK, Bools, Floats, Rows, Vectors

FRONT = 8192
"""Items whose gains are kept up to date while a batch is picked; the rest only when one of them could be the best."""


class Information:
    """The doubt of a linear model over the pool, and what labels would take of it.

    Attributes:
        gains: [N] doubt that a label of each item would settle, in the unit of `doubt`; of the front always up to date,
            of the others an upper bound while gains only fall, which is all that `best` needs.

    Source: Ash et al. (2021), Gone Fishing: Neural Active Learning with Fisher Embeddings (BAIT), equation 2, with the
    trace over classes of the Fisher information in place of the matrix over classes; where all is equally open this is
    the sequential design of Yu, Bi, Tresp (2006), Active Learning via Transductive Experimental Design, section 4.
    """

    gains: Floats

    def __init__(
        self, vectors: Vectors, openness: Floats, target: Floats, labelled: Rows, *, classes: int, ridge: float
    ) -> None:
        """Take in what is known.

        Args:
            vectors: [N, D] unit rows.
            openness: [N] of `openness`, which decides what a label of the item tells.
            target: [N] how much the doubt about each item counts, 0 or more.
            labelled: places of the labelled items.
            classes: C.
            ridge: the information that the end model starts with, see `active.value`.
        """
        self._vectors = vectors
        self._tells = openness * (1.0 - 1.0 / max(2, classes))
        dimension = vectors.shape[1] + 1
        precision = ridge * np.eye(dimension)
        self._target = np.zeros((dimension, dimension))
        for part in self._parts(np.arange(len(vectors))):
            rows = self._with_intercept(part)
            self._target += (rows.T * target[part].astype(np.float32)) @ rows
        for part in self._parts(labelled):
            rows = self._with_intercept(part)
            precision += (rows.T * self._tells[part].astype(np.float32)) @ rows
        self._covariance = np.linalg.inv(precision)
        self._settled = np.zeros(len(vectors))
        self._spread = np.zeros(len(vectors))
        self.gains = np.zeros(len(vectors))
        self._front = np.arange(len(vectors))
        self._beyond = -np.inf
        self._refresh()

    @property
    def doubt(self) -> float:
        """The doubt that is left over the whole pool."""
        return float((self._target * self._covariance).sum())

    def best(self, allowed: Bools, weight: Floats | None = None) -> int:
        """The place of the largest gain among the allowed items [N], of which there must be one; the lower wins a tie.

        Gains of items that are not kept up to date are upper bounds, for doubt only falls as labels come in. All are
        brought up to date when one of them is above the best that is known.

        Args:
            allowed: [N] items to choose from.
            weight: [N] what the gain of each counts, above 0 and always the same; all count the same when left out.
        """
        if (row := self._best_of_front(allowed, weight)) is not None:
            return row
        worth = np.where(allowed, self.gains if weight is None else self.gains * weight, -np.inf)
        kept = self._front[allowed[self._front]]
        row = int(kept[worth[kept].argmax()]) if len(kept) else -1
        if len(self._front) < len(worth):
            bounds = worth.copy()
            bounds[self._front] = -np.inf
            if row < 0 or bounds.max() > worth[row]:
                self._front = np.arange(len(worth))
                self._refresh()
                return self.best(allowed, weight)
        elif len(self._front) > FRONT:
            order = np.argsort(-worth, kind="stable")
            self._front, self._beyond = np.sort(order[:FRONT]), float(worth[order[FRONT:]].max())
        return row

    def _best_of_front(self, allowed: Bools, weight: Floats | None) -> int | None:
        """The best of the front, where none beyond it can be better."""
        front = self._front
        if len(front) == len(self.gains):
            return None
        worth = self.gains[front] if weight is None else self.gains[front] * weight[front]
        worth[~allowed[front]] = -np.inf
        place = int(worth.argmax())
        return int(front[place]) if worth[place] > -np.inf and worth[place] >= self._beyond else None

    def settle(self, row: int) -> None:
        """Count the item as labelled."""
        item = self._with_intercept(np.array([row]))[0].astype(np.float64)
        toward = self._covariance @ item
        pulled = self._target @ toward
        share = float(self._tells[row] / (1.0 + self._tells[row] * (item @ toward)))
        both = np.stack([toward, self._covariance @ pulled], axis=1).astype(np.float32)
        size = float(toward @ pulled)
        for part in self._parts(self._front):
            along, with_target = (self._with_intercept(part) @ both).T.astype(np.float64)
            self._settled[part] += share * along * (share * along * size - 2.0 * with_target)
            self._spread[part] -= share * along**2
        self._covariance -= share * np.outer(toward, toward)
        self._rate(self._front)

    def _refresh(self) -> None:
        covariance = self._covariance.astype(np.float32)
        both = (self._covariance @ self._target @ self._covariance).astype(np.float32)
        for part in self._parts(self._front):
            rows = self._with_intercept(part)
            self._spread[part] = np.einsum("nd,nd->n", rows @ covariance, rows)
            self._settled[part] = np.einsum("nd,nd->n", rows @ both, rows)
        self._rate(self._front)

    def _rate(self, rows: Rows) -> None:
        told = self._tells[rows]
        self.gains[rows] = (
            told * np.maximum(self._settled[rows], 0.0) / (1.0 + told * np.maximum(self._spread[rows], 0.0))
        )

    def _parts(self, rows: Rows) -> Iterator[Rows]:
        for start in range(0, len(rows), CHUNK):
            yield rows[start : start + CHUNK]

    def _with_intercept(self, rows: Rows) -> Vectors:
        return np.hstack([self._vectors[rows], np.ones((len(rows), 1), np.float32)])


def openness(predicted: Floats) -> Floats:
    """How open the class of each item is: the Gini impurity over its largest value.

    Args:
        predicted: class probabilities [N, C].

    Returns:
        [N], 0 (certain) to 1 (all classes equally probable).

    Source: the trace of the Fisher information of a categorical variable.
    """
    classes = max(2, predicted.shape[1])
    return np.clip((1.0 - (predicted**2).sum(axis=1)) / (1.0 - 1.0 / classes), 0.0, 1.0)
