"""Vectors grouped by equal ones: what is searched, compared and kept is each of them once.

Shape letters: N items, U distinct vectors.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from features.neighbors import search
from features.neighbors.neighbor_file import Keys
from features.neighbors.search import Rows
from features.neighbors.vector_file import DIGEST_BYTES, Digests


@dataclass(frozen=True, slots=True)
class Distinct:
    """Rows grouped by equal vectors: rows[starts[u] : starts[u] + sizes[u]] share vector u; first[u] is the lowest.

    Row n has vector group[n]; keys[u] is a digest of vector u.
    """

    rows: Rows
    starts: Rows
    sizes: Rows
    first: Rows
    group: Rows
    keys: Keys

    @property
    def are_many(self) -> bool:
        """So many vectors that neighbours come from inverted lists."""
        return len(self.first) > search.EXACT_UP_TO


def grouped(digests: Digests) -> Distinct:
    """Rows by the digests of their vectors [N], which are the same for equal vectors."""
    kind = pa.binary(DIGEST_BYTES)
    data = pa.py_buffer(np.ascontiguousarray(digests))
    found = pa.Array.from_buffers(kind, len(digests), [None, data]).dictionary_encode()  # in the order they come
    group = found.indices.to_numpy().astype(np.int64)
    rows = np.argsort(group, kind="stable")
    sizes = np.bincount(group, minlength=len(found.dictionary)).astype(np.int64)
    starts = np.cumsum(sizes) - sizes
    first = rows[starts] if len(rows) else np.empty(0, np.int64)
    keys = np.ascontiguousarray(digests[first]).view(np.uint64)[::2]
    return Distinct(rows, starts, sizes, first, group, keys)
