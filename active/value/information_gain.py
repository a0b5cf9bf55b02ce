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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from active.pool.graph import CHUNK, Bools, Floats, Rows, Vectors
from warehouse.numeric import side_by_side

FRONT = 2048
"""Items whose gains are kept up to date while a batch is picked; the rest only when one of them could be the best."""
ANEW_AFTER = 100
"""Labels that are taken from a gain before it is worked out anew: it shrinks, and their rounding adds up."""


@dataclass(frozen=True, slots=True)
class _Told:
    """What a label of x tells: V^-1 x [D + 1], V^-1 T V^-1 x [D + 1], h / (1 + h x' V^-1 x) and x' V^-1 T V^-1 x."""

    toward: Floats
    with_target: Floats
    share: float
    size: float


class Information:
    """The doubt of a linear model over the pool, and what labels would take of it.

    Attributes:
        gains: [N] doubt that a label of each item would settle, in the unit of `doubt`; of the front always up to date,
            of the others as they were, which `best` takes for an upper bound.

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
            ridge: the information that the end model starts with, see `active.value.stage`.
        """
        self._vectors = vectors
        self.gains = np.zeros(len(vectors))
        self._tells = tells(openness, classes)
        self._target = weighted(vectors, np.arange(len(vectors)), target)
        self._covariance = covariance(precision(vectors, labelled, self._tells, ridge))
        self._settled = np.zeros(len(vectors))
        self._spread = np.zeros(len(vectors))
        self._front, self._beyond = np.arange(len(vectors)), -np.inf
        self._waiting: list[_Told] = []
        self._age = np.zeros(len(vectors), np.int64)
        self._anew(self._front)

    @property
    def doubt(self) -> float:
        """The doubt that is left over the whole pool."""
        return float((self._target * self._covariance).sum())

    def best(self, allowed: Bools, weight: Floats | None = None) -> int:
        """The place of the largest gain among the allowed items [N], of which there must be one.

        Gains of items that are not kept up to date are taken for upper bounds: they nearly always fall as labels come
        in. Not always, as the trace is not submodular, so the place may not be that of the largest. All are brought up
        to date when one of them could be above the best that is known.

        Args:
            allowed: [N] items to choose from.
            weight: [N] what the gain of each counts, above 0 and always the same; all count the same when left out.
        """
        if (row := self._best_of_front(allowed, weight)) is not None:
            return row
        self._catch_up()
        worth = np.where(allowed, self.gains if weight is None else self.gains * weight, -np.inf)
        if len(worth) > FRONT:
            order = np.argpartition(-worth, FRONT)
            self._front, self._beyond = np.sort(order[:FRONT]), float(worth[order[FRONT]])
        return int(worth.argmax())

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
        item = np.append(self._vectors[row], np.float32(1.0)).astype(np.float64)
        toward = self._covariance @ item
        pulled = self._target @ toward
        share = float(self._tells[row] / (1.0 + self._tells[row] * (item @ toward)))
        told = _Told(toward, self._covariance @ pulled, share, float(toward @ pulled))
        self._covariance -= share * np.outer(toward, toward)
        self._take(self._front, [told])
        if len(self._front) < len(self.gains):
            self._waiting.append(told)

    def _catch_up(self) -> None:
        """Bring the gains of those beyond the front up to date."""
        if self._waiting:
            beyond = np.ones(len(self.gains), np.bool_)
            beyond[self._front] = False
            self._take(np.flatnonzero(beyond), self._waiting)
            self._waiting = []

    def _take(self, of: Rows, labels: Sequence["_Told"]) -> None:
        """Take from the gains of some items what some labels told, or work them out anew where that was done often."""
        self._age[of] += len(labels)
        old = self._age[of] > ANEW_AFTER
        if old.any():
            old |= len(of) <= FRONT  # of few all, for making the matrices costs as much as the items do
            self._anew(of[old])
            of = of[~old]
        share, size = (np.array([getattr(told, name) for told in labels]) for name in ("share", "size"))
        both = np.stack([told.toward for told in labels] + [told.with_target for told in labels], axis=1)
        for part in parts(self._vectors, of):
            along, with_target = np.split(_times(self._vectors, part, both).astype(np.float64), 2, axis=1)
            self._settled[part] += (share * along * (share * along * size - 2.0 * with_target)).sum(axis=1)
            self._spread[part] -= (share * along**2).sum(axis=1)
        self._rate(of)

    def _anew(self, of: Rows) -> None:
        """Work the gains of some items out from what is known now."""
        matrix = self._covariance @ self._target @ self._covariance
        for part in parts(self._vectors, of):
            self._spread[part] = squared(self._vectors, part, self._covariance)
            self._settled[part] = squared(self._vectors, part, matrix)
        self._age[of] = 0
        self._rate(of)

    def _rate(self, rows: Rows) -> None:
        self.gains[rows] = gained(self._tells[rows], self._settled[rows], self._spread[rows])


def tells(openness: Floats, classes: int) -> Floats:
    """The information h of a label of each item [N], from its `openness`."""
    return openness * (1.0 - 1.0 / max(2, classes))


def precision(vectors: Vectors, labelled: Rows, tells: Floats, ridge: float) -> Floats:
    """V [D + 1, D + 1]; the same bits in whatever order the labelled items are given."""
    return ridge * np.eye(vectors.shape[1] + 1) + weighted(vectors, np.sort(labelled), tells[np.sort(labelled)])


def covariance(precision: Floats) -> Floats:
    """V^-1 [D + 1, D + 1]."""
    return np.linalg.inv(precision).astype(np.float64)


def gained(tells: Floats, settled: Floats, spread: Floats) -> Floats:
    """What a label takes of the doubt, from h, x' V^-1 T V^-1 x and x' V^-1 x of each item [N]."""
    return tells * np.maximum(settled, 0.0) / (1.0 + tells * np.maximum(spread, 0.0))


def weighted(vectors: Vectors, rows: Rows, weight: Floats) -> Floats:
    """The sum of w x x' over some items [M] with their weights [M]: [D + 1, D + 1], with the intercept."""
    dimension = vectors.shape[1] + 1
    total = np.zeros((dimension, dimension))

    def summed(part: slice) -> Vectors:
        own = vectors[part if len(rows) == len(vectors) else rows[part]]
        some: Vectors = np.hstack([own, np.ones((len(own), 1), np.float32)])
        told: Vectors = weight[part].astype(np.float32)
        return np.asarray((some.T * told) @ some, np.float32)

    for some in side_by_side(summed, len(rows), CHUNK):
        total += some
    return total


def squared(vectors: Vectors, rows: Rows | slice, matrix: Floats) -> Vectors:
    """x' M x of the vectors of some items, with the intercept."""
    found = _times(vectors, rows, matrix)
    return np.einsum("nd,nd->n", found[:, :-1], vectors[rows]) + found[:, -1]


def parts(vectors: Vectors, rows: Rows) -> Iterator[Rows | slice]:
    """Some items, ascending where they are all, in steps of `CHUNK`; a slice of all copies no vectors."""
    for start in range(0, len(rows), CHUNK):
        part = slice(start, start + CHUNK)
        yield part if len(rows) == len(vectors) else rows[part]


def _times(vectors: Vectors, rows: Rows | slice, matrix: Floats) -> Vectors:
    """The vectors of some items, with the intercept, times a matrix [D + 1, M]."""
    found = vectors[rows] @ matrix[:-1].astype(np.float32)
    found += matrix[-1].astype(np.float32)
    return found


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
