"""The neighbour graph of the pool: who is close to whom among the train items, and which of them are spoken for.

Value estimation and the greedy selection both work on it. It holds train items only, so nothing about valid or test
items can reach a decision about whom to ask.

Shape letters: N items of the pool, M rows of the index, D embedding, K neighbours, E edges, T taken items.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from features.neighbors.faiss_index import VectorIndex
from features.neighbors.neighbor_file import Keys
from warehouse import DataError, SettingsError
from warehouse.numeric import side_by_side

Floats = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

CHUNK = 4096
SMALLEST = np.finfo(np.float32).tiny
NEAR_DUPLICATE = 0.95
"""Cosine from which two texts count as copies: a label of one is a label of the other."""
OFF_LENGTH = 0.01
"""How far the length of a unit vector may be from 1: it may be rounded to 16 bits."""


def check_vectors(vectors: Any, item_ids: Sequence[str] | None = None) -> Vectors:
    """Refuse vectors whose products are no cosines.

    Args:
        vectors: [N, D], each of length 1, or of zeros, which has no direction.
        item_ids: of the items [N], for the message; their places when left out.

    Returns:
        The same as an array.

    Raises:
        DataError: they are no such matrix; names the items.
    """
    given = np.asarray(vectors)
    if given.ndim != 2 or given.dtype.kind != "f":
        raise DataError(f"The vectors are {given.dtype} of shape {given.shape}; give a row of floats for each item.")
    squared = np.einsum("nd,nd->n", given, given)
    for bad, what in (
        (~np.isfinite(squared), "are not finite"),
        ((squared > 0) & (np.abs(np.sqrt(squared) - 1.0) > OFF_LENGTH), "are not of length 1"),
    ):
        if bad.any():
            rows = np.flatnonzero(bad)
            named = ", ".join(str(row if item_ids is None else item_ids[row]) for row in rows[:5])
            way = "Divide each by its length" if "length" in what else "Delete these rows and run again"
            raise DataError(f"The vectors of {len(rows)} of {len(given)} items {what}, items {named}. {way}.")
    return given


def check_places(places: Any, count: int, what: str, *, least: int = 0) -> None:
    """Refuse what are no places of items, such as truth values, which would be taken for the places 0 and 1.

    Args:
        places: an array.
        count: of items.
        what: their name, to begin a message with.
        least: the least that they may be.

    Raises:
        SettingsError: they are no whole numbers from `least` to `count` - 1.
    """
    given = np.asarray(places)
    if given.size and (given.dtype.kind not in "iu" or given.min() < least or given.max() >= count):
        shown = f"from {given.min()} to {given.max()}" if given.dtype.kind in "iuf" else f"of shape {given.shape}"
        raise SettingsError(
            f"{what} are {given.dtype} {shown}; give whole numbers from {least} to {count - 1} "
            "(np.flatnonzero makes them of truth values)."
        )


@dataclass(frozen=True, slots=True)
class PoolGraph:
    """Undirected graph of N items: two are joined when one is among the other's K nearest; each is joined to itself.

    Attributes:
        vectors: [N, D] float32 unit rows.
        starts: [N + 1] the edges of item n are `starts[n]` up to `starts[n + 1]`.
        owners: [E] the item an edge starts from.
        rows: [E] the item it leads to.
        weights: [E] cosine of the two, 0 to 1; 1 for an item with itself.
        keys: [N] of `VectorIndex.keys`; empty where the graph is of no index.
    """

    vectors: Vectors
    starts: Rows
    owners: Rows
    rows: Rows
    weights: Floats
    keys: Keys = field(default_factory=lambda: np.empty(0, np.uint64))

    @classmethod
    def build(cls, vectors: Vectors, similarity: Vectors, rows: Rows, keys: Keys | None = None) -> Self:
        """Join items with their neighbours.

        Args:
            vectors: [N, D] unit rows.
            similarity: [N, K] cosines.
            rows: [N, K] the neighbours, each once and never the item itself; a negative row is no neighbour.
            keys: [N] of the vectors, where they are of an index.

        Raises:
            SettingsError: the three do not fit together, or a row is none, is there twice or is the item itself.
        """
        from scipy.sparse import csr_matrix  # takes a fifth of a second to import

        vectors, similarity, rows = np.asarray(vectors), np.asarray(similarity), np.asarray(rows)  # of frames
        count = len(rows)
        if rows.ndim != 2 or rows.shape != similarity.shape or len(vectors) != count:
            raise SettingsError(
                f"Vectors have shape {vectors.shape}, cosines {similarity.shape} and neighbours {rows.shape}; give "
                "[N, D], [N, K] and [N, K]."
            )
        check_places(rows, count, "Neighbours", least=-1)
        # In 32 bits, half of which would be for nothing: each edge goes through memory several times here.
        ends = np.hstack([np.arange(count, dtype=np.int32)[:, None], rows.astype(np.int32)])
        weights = np.hstack([np.ones((count, 1), np.float32), np.clip(similarity.astype(np.float32), 0.0, 1.0)])
        order = np.argsort(ends, axis=1)  # else `maximum` sorts them by turning the matrix twice
        ends, weights = np.take_along_axis(ends, order, axis=1), np.take_along_axis(weights, order, axis=1)
        valid = ends >= 0
        twice = (ends[:, 1:] == ends[:, :-1]) & valid[:, 1:]
        if twice.any():
            owner, place = np.argwhere(twice)[0]
            raise SettingsError(
                f"Item {owner} has {ends[owner, place]} among its neighbours twice, or itself; give each once, and -1 "
                "for none (rows[rows == np.arange(len(rows))[:, None]] = -1)."
            )
        last = np.concatenate([[0], np.cumsum(valid.sum(axis=1))])
        # An edge of weight 0 is an edge, which a sparse matrix would drop.
        one_way: Any = csr_matrix((np.maximum(weights, SMALLEST)[valid], ends[valid], last), shape=(count, count))
        edges = one_way.maximum(one_way.T.tocsr())
        owners = np.repeat(np.arange(count), np.diff(edges.indptr))
        weights = np.where(edges.data > SMALLEST, edges.data, 0.0).astype(np.float64)
        starts, leads = edges.indptr.astype(np.int64), edges.indices.astype(np.int64)
        return cls(vectors, starts, owners, leads, weights, np.empty(0, np.uint64) if keys is None else keys)

    @classmethod
    def from_index(cls, index: VectorIndex, item_ids: Sequence[str], neighbors: int) -> Self:
        """The graph of some items of an index.

        Args:
            index: searched once, over all its items; neighbours outside `item_ids` are left out.
            item_ids: the pool, all of them in the index.
            neighbors: K.
        """
        similarity, rows = index.neighbors(neighbors)
        if list(item_ids) == index.item_ids:
            return cls.build(index.vectors, similarity, rows, index.keys)  # without a copy of all vectors
        place = {item_id: row for row, item_id in enumerate(index.item_ids)}
        members = np.array([place[item_id] for item_id in item_ids], np.int64)
        to_pool = np.full(len(index.item_ids), -1, np.int64)
        to_pool[members] = np.arange(len(members))
        found = rows[members]
        leads = np.where(found < 0, -1, to_pool[found])
        return cls.build(index.vectors[members], similarity[members], leads, index.keys[members])

    def __len__(self) -> int:
        return len(self.vectors)

    def cover(self, taken: Rows) -> Floats:
        """How well each item is spoken for: its largest edge weight to a taken item, else 0. [N]."""
        chosen = np.zeros(len(self), np.bool_)
        chosen[taken] = True
        return self._per_item(np.maximum, np.where(chosen[self.rows], self.weights, 0.0))

    def cover_more(self, cover: Floats, row: int) -> Rows:
        """Take one item more into a `cover` [N], in place; the items whose `gain` that changes, each once."""
        edges = self._edges(np.array([row]))
        closer = self.weights[edges] > cover[self.rows[edges]]
        reached = self.rows[edges][closer]
        cover[reached] = self.weights[edges][closer]
        return np.unique(self.rows[self._edges(reached)])

    def gain(self, cover: Floats, weight: Floats, of: Rows | None = None) -> Floats:
        """What each item would add to the cover of all, itself included.

        The marginal gain of the weighted facility-location function, which is submodular: as the cover grows it only
        shrinks.

        Args:
            cover: [N] of `cover`.
            weight: [N] how much the cover of each item counts.
            of: places of the items that are wanted [M]; all when left out.

        Returns:
            [M], 0 or more, the same bits for any `of`.

        Source: Wei, Iyer, Bilmes (2015), Submodularity in Data Subset Selection and Active Learning, section 4.
        """
        edges = slice(None) if of is None else self._edges(of)
        rows, weights = self.rows[edges], self.weights[edges]
        added = weight[rows] * np.maximum(weights - cover[rows], 0.0)
        if of is None:
            return self._per_item(np.add, added)
        ends = np.cumsum(self.starts[of + 1] - self.starts[of])
        return np.add.reduceat(added, np.concatenate([[0], ends[:-1]])) if len(of) else np.zeros(0)

    def speaks_for(self, cover: Floats) -> Rows:
        """How many other items each one is closer to than any taken item is. [N]."""
        better = (self.weights > cover[self.rows]) & (self.rows != self.owners)
        return self._per_item(np.add, better.astype(np.float64)).astype(np.int64)

    def smoothed(self, values: Floats) -> Floats:
        """The mean of each item's own value and those of its neighbours, weighted by similarity. [N]."""
        return self._per_item(np.add, self.weights * values[self.rows]) / self._per_item(np.add, self.weights)

    def nearest(self, taken: Rows, of: Rows | None = None) -> Floats:
        """Cosine of items with the nearest taken one, over all of them and not only along edges.

        Args:
            taken: places of the taken items.
            of: places of the items that are wanted [M]; all when left out.

        Returns:
            [M] 0 to 1; 0 when nothing is taken.
        """
        vectors = self.vectors if of is None else self.vectors[of]
        if not len(taken):
            return np.zeros(len(vectors))
        chosen = self.vectors[taken].T
        found = side_by_side(lambda part: (vectors[part] @ chosen).max(axis=1), len(vectors), CHUNK)
        return np.clip(np.concatenate([np.empty(0), *found]), 0.0, 1.0)

    def nearest_of(self, taken: Rows, neighbors: int) -> Rows:
        """The nearest taken items of each item, nearest first, over all of them and not only along edges.

        Returns:
            [N, K] places in `taken`, where K is the smaller of `neighbors` and their number. A taken item finds itself.
        """
        width = min(neighbors, len(taken))
        found = np.empty((len(self), width), np.int64)
        for start in range(0, len(self) if width else 0, CHUNK):
            part = slice(start, start + CHUNK)
            similarity = self.vectors[part] @ self.vectors[taken].T
            found[part] = np.argsort(-similarity, axis=1, kind="stable")[:, :width]
        return found

    def typicality(self, clusters: Rows) -> Floats:
        """Mean cosine of each item with those of its neighbours that share its cluster [N], 0 where none does."""
        same = (clusters[self.rows] == clusters[self.owners]) & (self.rows != self.owners)
        return self._per_item(np.add, np.where(same, self.weights, 0.0)) / np.maximum(self.total(same), 1.0)

    def closest_stranger(self, clusters: Rows) -> Floats:
        """Cosine of each item with its nearest neighbour in another cluster [N], 0 where it has none."""
        return self._per_item(np.maximum, np.where(clusters[self.rows] != clusters[self.owners], self.weights, 0.0))

    def total(self, edges: Bools) -> Floats:
        """How many of these edges [E] start from each item. [N]."""
        return self._per_item(np.add, edges.astype(np.float64))

    def around(self, row: int, edges: Bools) -> Rows:
        """The items that these edges [E] lead to from one item."""
        part = slice(int(self.starts[row]), int(self.starts[row + 1]))
        return self.rows[part][edges[part]]

    def _edges(self, rows: Rows) -> Rows:
        """The places of the edges of some items, item by item."""
        starts, counts = self.starts[rows], self.starts[rows + 1] - self.starts[rows]
        return np.arange(counts.sum()) + np.repeat(starts - np.cumsum(counts) + counts, counts)

    def _per_item(self, fold: np.ufunc, values: Floats) -> Floats:
        # Every item has an edge to itself, so no stretch is empty, which reduceat would get wrong.
        return fold.reduceat(values, self.starts[:-1]) if len(self) else np.zeros(0)
