"""Neighbour lists of many vectors: exact while that is quick, approximate beyond, with the recall measured each time.

Shape letters: N vectors, D embedding, K neighbours.
"""

from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from warehouse import DataError, SettingsError

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

EXACT_UP_TO = 50_000
FLAT_UP_TO = 4_000_000
"""Beyond it lists hold a byte per dimension instead of four: 10,000,000 x 384 would be 15 GB."""
LISTS_PER_ROOT = 4
TRAINED_PER_LIST = 40
SAMPLED = 200
STEP = 16_384


@dataclass(frozen=True, slots=True)
class NeighborLists:
    """The nearest others of each vector.

    Attributes:
        similarity: [N, K] cosines, falling.
        rows: [N, K] places; -1 where fewer were found.
        kind: "exact", "inverted lists" or "inverted lists, 8 bits".
        recall: share of the true neighbours found, measured on a sample; 1 for "exact".
    """

    similarity: Floats
    rows: Rows
    kind: str
    recall: float


def neighbor_lists(vectors: Floats, k: int, *, least_recall: float = 0.95, seed: int = 0) -> NeighborLists:
    """Find the K nearest others of every vector by inner product.

    An approximate index looks into more and more lists until a sample of 200 vectors, compared with brute force, finds
    its share of neighbours.

    Args:
        vectors: [N, D] unit rows, finite.
        k: neighbours; N - 1 where that is less.
        least_recall: share of the true neighbours that the sample must find, over 0 up to 1.
        seed: draws the sample and what the lists are trained on.

    Raises:
        DataError: vectors are not finite; names their places.
        SettingsError: `k` or `least_recall` is out of range.
    """
    if k < 1 or not 0 < least_recall <= 1:
        raise SettingsError(f"k is {k} and least_recall {least_recall}; k is 1 or more, a recall is over 0 up to 1.")
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if bad.size:
        raise DataError(f"{bad.size} of {len(vectors)} vectors are not finite, the first is at place {bad[0]}.")
    count, width = len(vectors), min(k, max(0, len(vectors) - 1))
    if not width:
        return NeighborLists(np.empty((count, 0), np.float32), np.empty((count, 0), np.int64), "exact", 1.0)
    if count <= EXACT_UP_TO:
        flat: Any = faiss.IndexFlatIP(vectors.shape[1])
        flat.add(np.ascontiguousarray(vectors))
        return NeighborLists(*_search(flat, vectors, np.arange(count), width), "exact", 1.0)
    generator = np.random.default_rng(seed)
    index, kind = _inverted_lists(vectors, generator)
    sample = np.sort(generator.choice(count, min(SAMPLED, count), replace=False))
    truth = _brute_force(vectors, sample, width)
    recall = 0.0
    index.nprobe = 4
    while True:
        found = _search(index, vectors, sample, width)[1]
        recall = float(np.mean([len(np.intersect1d(a, b)) / width for a, b in zip(found, truth, strict=True)]))
        if recall >= least_recall or index.nprobe >= index.nlist:
            break
        index.nprobe = min(2 * index.nprobe, index.nlist)
    return NeighborLists(*_search(index, vectors, np.arange(count), width), kind, recall)


def _inverted_lists(vectors: Floats, generator: np.random.Generator) -> tuple[Any, str]:
    count, dimension = vectors.shape
    lists = max(1, int(LISTS_PER_ROOT * count**0.5))
    coarse: Any = faiss.IndexFlatIP(dimension)
    if count <= FLAT_UP_TO:
        index: Any = faiss.IndexIVFFlat(coarse, dimension, lists, faiss.METRIC_INNER_PRODUCT)
        kind = "inverted lists"
    else:
        bits = faiss.ScalarQuantizer.QT_8bit
        index = faiss.IndexIVFScalarQuantizer(coarse, dimension, lists, bits, faiss.METRIC_INNER_PRODUCT)
        kind = "inverted lists, 8 bits"
    index.cp.seed, index.cp.niter = int(generator.integers(2**31)), 8
    trained = np.sort(generator.choice(count, min(count, TRAINED_PER_LIST * lists), replace=False))
    index.train(vectors[trained])
    for start in range(0, count, STEP):
        index.add(np.ascontiguousarray(vectors[start : start + STEP]))
    return index, kind


def _search(index: Any, vectors: Floats, queries: Rows, width: int) -> tuple[Floats, Rows]:
    """The nearest others of some vectors; an item is never its own neighbour."""
    similarity = np.full((len(queries), width), -np.inf, np.float32)
    rows = np.full((len(queries), width), -1, np.int64)
    for start in range(0, len(queries), STEP):
        own = queries[start : start + STEP]
        close, found = index.search(np.ascontiguousarray(vectors[own]), width + 1)
        drop = found == own[:, None]
        drop[~drop.any(axis=1), -1] = True  # equal vectors may push an item out of its own list
        similarity[start : start + STEP] = close[~drop].reshape(len(own), width)
        rows[start : start + STEP] = found[~drop].reshape(len(own), width)
    return similarity, rows


def _brute_force(vectors: Floats, queries: Rows, width: int) -> Rows:
    found = np.empty((len(queries), width), np.int64)
    for place, row in enumerate(queries):
        similarity = vectors @ vectors[row]
        similarity[row] = -np.inf
        found[place] = np.argpartition(-similarity, width - 1)[:width]
    return found
