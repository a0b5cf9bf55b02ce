"""Nearest neighbours: a FAISS index over the warehouse's vectors, kept in a file that is only a cache.

The vectors in the warehouse are the truth. A cached file is read only when its sidecar says that it was made from
exactly these vectors and its sha256 is right; in every other case it is built again. Of more than
`approximate.EXACT_UP_TO` distinct vectors a flat index is as large as they are and nobody searches all of it: then the
neighbour lists are what is kept, see `features.neighbors.neighbor_file`, and the vectors, see
`features.neighbors.vector_file`.

Shape letters: N items, U distinct vectors, D embedding, M queries, K neighbours, P candidates.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from features.neighbors import search
from features.neighbors.index_files import Content, IndexFiles, flat
from features.neighbors.neighbor_file import Keys, kept_exact, kept_lists
from features.neighbors.unique import Distinct, grouped
from features.neighbors.vector_file import Digests, digests_of, kept_vectors
from warehouse import DataError, Lake, Progress, Reader, SettingsError, StageResult, silent

VERSION = 1
SLACK = 8
"""Candidates beyond K, so that rounding inside FAISS cannot decide which items are found."""
CHUNK_BYTES = 32 << 20
ASKED = 2048
"""Queries that FAISS is given at once. It brings all vectors to the processor for each call: of 28,000 x 384 a query
takes 0.4 ms of it so, 1.0 to 1.3 ms with 373 to 512 at once. A call takes seconds, after which a signal is heard."""

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexConfig:
    """Where index files are kept.

    Attributes:
        folder: made when missing; everything in it may be deleted at any time.
    """

    folder: Path


class VectorIndex:
    """Exact search by inner product among unit vectors, so by cosine.

    Equal vectors are searched once and given back as all their items. Neighbours stand by falling similarity, equal
    ones by row, so an answer depends neither on the batch nor on the number of threads. Only where more than `SLACK`
    different vectors are as near as the last one found, which of them are found is FAISS's choice.

    Attributes:
        item_ids: N ids, ascending; a row number is a place in this list.
        vectors: [N, D] float32, not to be written to.
        sha256: of the index file; empty where there is none.
    """

    def __init__(
        self,
        item_ids: list[str],
        vectors: Floats,
        distinct: Distinct,
        index: Any = None,
        cache: IndexFiles | None = None,
        sha256: str = "",
    ) -> None:
        self.item_ids = item_ids
        self.vectors = vectors
        self.sha256 = sha256
        self._distinct = distinct
        self._index = index
        self._cache = cache
        self._neighbors: dict[int, tuple[Floats, Rows]] = {}

    def __len__(self) -> int:
        return len(self.item_ids)

    @property
    def distinct(self) -> int:
        """U."""
        return len(self._distinct.first)

    @property
    def keys(self) -> Keys:
        """A digest of each item's vector [N], 64 bits, the same for equal vectors."""
        return self._distinct.keys[self._distinct.group]

    def beside(self, name: str) -> Path | None:
        """Where figures about many vectors may be kept, a file that is only a cache; None where they are few."""
        return self._cache.beside(f"{name}.npz") if self._cache and self._distinct.are_many else None

    def search(self, queries: npt.ArrayLike, k: int) -> tuple[Floats, Rows]:
        """The nearest items of each query.

        Args:
            queries: [M, D], finite.
            k: neighbours wanted, 1 or more.

        Returns:
            similarity [M, K] float32 and rows [M, K] int64, where K is the smaller of `k` and N. Rows are valid.

        Raises:
            SettingsError: `k` is below 1.
            DataError: queries of another dimension, or not finite.
        """
        checked = self._check(queries, k)
        width = min(k, len(self))
        similarity = np.empty((len(checked), width), np.float32)
        rows = np.empty((len(checked), width), np.int64)
        if width:
            row_bytes = 8 * (width + SLACK) * self.vectors.shape[1]
            step = max(1, CHUNK_BYTES // row_bytes)
            for first in range(0, len(checked), ASKED):
                found = self._candidates(checked[first : first + ASKED], width)
                for start in range(0, len(found), step):
                    near = found[start : start + step]
                    part = slice(first + start, first + start + len(near))
                    similarity[part], rows[part] = self._ranked(checked[part], near, width)
        return similarity, rows

    def neighbors(self, k: int, progress: Progress = silent) -> tuple[Floats, Rows]:
        """The nearest other items of every item.

        Args:
            k: neighbours wanted, 1 or more.
            progress: see `approximate.neighbor_lists`.

        Returns:
            similarity [N, K] float32 and rows [N, K] int64, where K is the smaller of `k` and N - 1. An item is never
            its own neighbour. The graph of a k is searched once and then kept. With more than `EXACT_UP_TO`
            distinct vectors it is approximate (`features.neighbors.search`, recall at least 0.95); a row of -1 is no
            neighbour then. An index that has files keeps it in one, for runs to come.

        Raises:
            SettingsError: `k` is below 1, or the file cannot be written.
        """
        if k in self._neighbors:
            return self._neighbors[k]
        count = len(self)
        width = min(k, max(0, count - 1))
        if k >= 1 and self._distinct.are_many:
            return self._keep(k, *self._listed(width, progress))

        def searched() -> tuple[Floats, Rows]:
            return _without(np.arange(count), *self.search(self.vectors, k if k < 1 else width + 1))

        if k < 1 or self._cache is None:
            return self._keep(k, *searched())
        return self._keep(k, *kept_exact(self._cache.beside(f"neighbors-{width}.npz"), self.keys, width, searched))

    def _listed(self, width: int, progress: Progress) -> tuple[Floats, Rows]:
        """Neighbours from the lists of the distinct vectors, given back as all their items."""
        distinct, own = self._distinct, self._distinct.first
        vectors = self.vectors if len(own) == len(self) else self.vectors[own]
        if self._cache is None:
            lists = search.neighbor_lists(vectors, width, progress=progress)
        else:
            path = self._cache.beside(f"neighbors-{width}.npz")
            lists = kept_lists(path, distinct.keys, vectors, width, progress)
        if len(own) == len(self):
            return lists.similarity, lists.rows
        similarity = lists.similarity[distinct.group]
        rows = np.where(lists.rows < 0, -1, own[lists.rows])[distinct.group]
        several = distinct.sizes > 1
        mixed = several | (several[lists.rows] & (lists.rows >= 0)).any(axis=1)
        for part in _steps(np.flatnonzero(mixed[distinct.group])):
            group = distinct.group[part]
            near = np.hstack([group[:, None], lists.rows[group]])
            close = np.hstack([np.ones((len(part), 1), np.float32), lists.similarity[group]])
            similarity[part], rows[part] = _without(part, *self._items_of(near, close, width + 1))
        return similarity, rows

    def _keep(self, k: int, similarity: Floats, rows: Rows) -> tuple[Floats, Rows]:
        for array in (similarity, rows):
            array.flags.writeable = False  # shared by all callers
        self._neighbors[k] = similarity, rows
        return similarity, rows

    def _check(self, queries: npt.ArrayLike, k: int) -> Floats:
        if k < 1:
            raise SettingsError(f"{k} neighbours were asked for; ask for 1 or more.")
        checked = np.ascontiguousarray(queries, np.float32)
        dimension = self.vectors.shape[1]
        if checked.ndim != 2 or (len(self) and checked.shape[1] != dimension):
            raise DataError(f"The queries have shape {checked.shape}, the index needs [M, {dimension}].")
        bad = np.flatnonzero(~np.isfinite(checked).all(axis=1))
        if bad.size:
            raise DataError(f"{bad.size} of {len(checked)} queries are not finite, the first is query {bad[0]}.")
        return checked

    def _candidates(self, queries_MD: Floats, width: int) -> Rows:
        first = self._distinct.first
        if self._index is None:
            self._index = flat(self.vectors[first])
        return self._index.search(queries_MD, min(width + SLACK, len(first)))[1]

    def _ranked(self, queries_MD: Floats, found_MP: Rows, width: int) -> tuple[Floats, Rows]:
        distinct = self._distinct
        # FAISS rounds by batch; the sums here always run in the same order.
        candidates_MPD = self.vectors[distinct.first[found_MP]].astype(np.float64)
        similarity_MP = (candidates_MPD * queries_MD[:, None, :]).sum(axis=2).astype(np.float32)
        return self._items_of(found_MP, similarity_MP, width)

    def _items_of(self, found_MP: Rows, similarity_MP: Floats, width: int) -> tuple[Floats, Rows]:
        """The nearest items of the vectors that were found; -1 is none, and the first of a row is always there."""
        distinct = self._distinct
        sizes_MP = np.where(found_MP < 0, 0, np.minimum(distinct.sizes[found_MP], width))
        sizes = sizes_MP.ravel()
        group = np.repeat(found_MP.ravel(), sizes)
        within = np.arange(len(group)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        rows = distinct.rows[distinct.starts[group] + within]
        similarity = np.repeat(similarity_MP.ravel(), sizes)
        per_query = sizes_MP.sum(axis=1)
        order = np.lexsort((rows, -similarity, np.repeat(np.arange(len(found_MP)), per_query)))
        place = np.arange(width)
        last = np.minimum(place, per_query[:, None] - 1)
        best = order[(np.cumsum(per_query) - per_query)[:, None] + last]
        there = place < per_query[:, None]
        return np.where(there, similarity[best], -np.inf), np.where(there, rows[best], -1)


def build_index(
    lake: Lake, config: IndexConfig, encoder_id: str, opened: Callable[[], VectorIndex] | None = None
) -> StageResult:
    """Build the index file of an encoder's vectors, when the vectors changed or the file is missing or damaged.

    Args:
        lake: the warehouse.
        config: where the file goes.
        encoder_id: which vectors.
        opened: gives the index of `open_index` to a caller that needs it again, so that vectors are read once.

    Returns:
        The result; its `detail` has count, distinct vectors and dimension, and the sha256 of the file where there is
        one. A file that was built again for the same vectors adds no row to `runs`.

    Raises:
        DataError: vectors in the warehouse are not finite; names the items.
        SettingsError: the file cannot be written.
    """
    with lake.stage("index", version=VERSION, inputs=("items", "vectors"), params={"encoder": encoder_id}) as stage:
        if stage.done and int(stage.result().detail.get("distinct", 0)) > search.EXACT_UP_TO:
            return stage.result()  # then there is no file to check
        index = opened() if opened else open_index(lake, config, encoder_id)
        if not len(index):
            return stage.nothing(count=0)
        if stage.done:
            return stage.result()
        detail = {
            **({"sha256": index.sha256} if index.sha256 else {}),
            "count": len(index),
            "distinct": index.distinct,
            "dimension": index.vectors.shape[1],
            "encoder_id": encoder_id,
        }
        return stage.commit(rows_read=len(index), detail=detail)


def open_index(lake: Lake, config: IndexConfig, encoder_id: str) -> VectorIndex:
    """The index over an encoder's vectors in the newest snapshot, from the cache when it fits, else built and cached.

    Args:
        lake: the warehouse.
        config: where the file is.
        encoder_id: which vectors.

    Returns:
        The index; without vectors an empty one.

    Raises:
        DataError: vectors in the warehouse are not finite; names the items.
        SettingsError: the file cannot be written.
    """
    cache = IndexFiles(config.folder, encoder_id)
    with lake.read() as reader:
        item_ids, vectors, digests = _read(reader, encoder_id, cache)
    distinct = grouped(digests)
    if not item_ids:
        return VectorIndex(item_ids, vectors, distinct)
    if distinct.are_many:
        return VectorIndex(item_ids, vectors, distinct, cache=cache)
    content = Content(item_ids, vectors, distinct)
    index, sha256 = cache.load(content) or cache.build(content)
    return VectorIndex(item_ids, vectors, distinct, index, cache, sha256)


def _read(reader: Reader, encoder_id: str, cache: IndexFiles) -> tuple[list[str], Floats, Digests]:
    """Train items by ascending id, their vectors and a digest of each."""
    source = """
        FROM vectors v JOIN items i ON i.item_id = v.item_id AND i.content_hash = v.content_hash
        WHERE v.encoder_id = ? AND i.split = 'train'
    """
    found = reader.arrow(f"SELECT v.item_id, v.rowid, v.snapshot_id {source} ORDER BY v.item_id", [encoder_id])

    def fetch(places: Rows) -> Floats:
        wanted = found.take(places)
        # DuckDB reads no vector of a file, or of 2,048 rows, of which no number is wanted.
        of_rows = "SELECT item_id, vector FROM vectors WHERE rowid IN (SELECT unnest(?))"
        vectors = reader.matrix_of(wanted["item_id"], of_rows, [wanted["rowid"].to_numpy()])
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if bad.size:
            raise DataError(
                f"{bad.size} vectors of encoder {encoder_id} are not finite, items "
                f"{', '.join(wanted['item_id'][row].as_py() for row in bad[:5])}. Delete these rows of `vectors` and "
                "run again."
            )
        return vectors

    if len(found) > search.EXACT_UP_TO:
        vectors, digests = kept_vectors(cache.beside("vectors"), reader, found, fetch)
    else:
        vectors = fetch(np.arange(len(found)))
        digests = digests_of(vectors)
    return found["item_id"].to_pylist(), vectors, digests


def _without(own: Rows, similarity: Floats, rows: Rows) -> tuple[Floats, Rows]:
    """Lists [M, K + 1] of some items [M] without the item itself [M, K]."""
    drop = rows == own[:, None]
    # An item with more equals than places may not stand in its own list: then the last place is dropped.
    drop[~drop.any(axis=1), -1:] = True
    kept = (len(own), max(0, rows.shape[1] - 1))
    return similarity[~drop].reshape(kept), rows[~drop].reshape(kept)


def _steps(rows: Rows) -> Iterator[Rows]:
    for start in range(0, len(rows), search.STEP):
        yield rows[start : start + search.STEP]
