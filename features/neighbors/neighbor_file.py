"""The file in which neighbour lists are kept, so that they are looked for once, and many vectors need only be joined.

Like the index file it is a cache: it is believed only as far as its vectors are those of the warehouse, and all is
worked out anew where it is missing or damaged. It takes the place of the one before when it is whole.

Shape letters: U distinct vectors, K neighbours.
"""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from features.neighbors.search import SAMPLED, Floats, NeighborLists, Rows, joined, neighbor_lists
from warehouse import Progress, SettingsError, silent
from warehouse.files.array_cache import read_arrays, write_arrays

FORMAT = 1
Keys = npt.NDArray[np.uint64]


def kept_lists(path: Path, keys: Keys, vectors: Floats, k: int, progress: Progress = silent) -> NeighborLists:
    """The neighbour lists of some vectors: from the file, or joined to those of the file, or worked out anew.

    Args:
        path: the file, which is written where its lists are not these; its folder exists.
        keys: [U] a digest of each vector, all different.
        vectors: [U, D] unit rows, finite, more than `features.neighbors.search.EXACT_UP_TO`.
        k: neighbours.
        progress: see `neighbor_lists`.

    Raises:
        SettingsError: the file cannot be written.
    """
    stored = _read(path, k)
    lists = None
    if stored is not None:
        earlier_keys, lists = stored
        if not np.array_equal(earlier_keys, keys):
            lists = joined(lists, vectors, places(earlier_keys, keys))
    if stored is None or lists is None or lists is not stored[1]:
        begun = path.with_suffix(".begun.npz")
        lists = lists or neighbor_lists(vectors, k, progress=progress, begun=begun)
        content = {field.name: getattr(lists, field.name) for field in fields(lists)}
        write_arrays(path, {"format": FORMAT, "keys": keys, "k": k, **content})
        with contextlib.suppress(OSError):
            begun.unlink(missing_ok=True)
    return lists


def kept_exact(path: Path, keys: Keys, k: int, search: Callable[[], tuple[Floats, Rows]]) -> tuple[Floats, Rows]:
    """The exact neighbour lists of items: from the file where all its vectors are these, else searched and kept.

    Args:
        path: the file; its folder exists. Where it cannot be written, the next run searches again.
        keys: [N] a digest of each item's vector, the same for equal vectors.
        k: neighbours.
        search: gives similarity [N, k] float32 and rows [N, k] int64.
    """
    content = read_arrays(path)
    if content.get("format") == FORMAT and np.array_equal(content.get("items", ()), keys):
        similarity: Any = content.get("similarity")
        rows: Any = content.get("rows")
        if _lists(similarity, rows, len(keys), k, least=0):
            return similarity, rows
    similarity, rows = search()
    with contextlib.suppress(SettingsError):
        write_arrays(path, {"format": FORMAT, "items": keys, "similarity": similarity, "rows": rows})
    return similarity, rows


def places(earlier: Keys, keys: Keys) -> Rows:
    """Place of each key in the earlier ones [U], -1 for one that is not there."""
    if not len(earlier):
        return np.full(len(keys), -1)
    order, asking = np.argsort(earlier), np.argsort(keys)
    place = np.empty(len(keys), np.int64)
    # Both sorted: looking up a million keys as they come misses the processor's cache each time.
    place[asking] = order[np.minimum(np.searchsorted(earlier[order], keys[asking]), len(earlier) - 1)]
    return np.where(earlier[place] == keys, place, -1)


def _read(path: Path, k: int) -> tuple[Keys, NeighborLists] | None:
    """What the file holds; None when it is missing, damaged, of another format or of another number of neighbours."""
    content = read_arrays(path)
    return _checked(content) if content.get("format") == FORMAT and content.get("k") == k else None


def _checked(content: Mapping[str, Any]) -> tuple[Keys, NeighborLists] | None:
    try:
        keys, rows, similarity = content["keys"], content["rows"], content["similarity"]
        centres, home = content["centres"], content["home"]
        looked, made_for, recall = int(content["looked"]), int(content["made_for"]), float(content["recall"])
    except (KeyError, TypeError, ValueError):
        return None
    count, lists = len(keys), len(centres)
    sampled = {name: content[name] for name in ("sample", "near", "close") if name in content}  # older files have none
    found = NeighborLists(similarity, rows, recall, centres, home, looked, made_for, **sampled)
    fits = (
        _lists(similarity, rows, count, int(content["k"]), least=-1)
        and [keys.dtype, centres.dtype, home.dtype] == [np.uint64, np.float32, np.int64]
        and home.shape == (count,)
        and centres.ndim == 2
        and 0 < looked <= lists
        and home.min(initial=0) >= 0
        and home.max(initial=0) < lists
        and _sample_fits(found)
    )
    return (keys, found) if fits else None


def _lists(similarity: Any, rows: Any, count: int, k: int, *, least: int) -> bool:
    return (
        isinstance(similarity, np.ndarray)
        and isinstance(rows, np.ndarray)
        and (similarity.dtype, rows.dtype) == (np.float32, np.int64)
        and rows.shape == similarity.shape == (count, k)
        and int(rows.min(initial=0)) >= least
        and int(rows.max(initial=0)) < count
    )


def _sample_fits(lists: NeighborLists) -> bool:
    sample, near, close = lists.sample, lists.near, lists.close
    count, width = lists.rows.shape
    return (
        [array.dtype for array in (sample, near, close)] == [np.int64, np.int64, np.float32]
        and len(sample) <= SAMPLED // 2
        and sample.shape == (len(sample),)
        and near.shape == close.shape == ((len(sample), width) if len(sample) else (0, 0))
        and all(array.min(initial=0) >= 0 and array.max(initial=0) < count for array in (sample, near))
    )
