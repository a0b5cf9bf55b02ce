"""The file in which neighbour lists of many vectors are kept, so that vectors that come later only have to join them.

Like the index file it is a cache: it is believed only as far as its vectors are those of the warehouse, and all is
worked out anew where it is missing or damaged. It takes the place of the one before when it is whole.

Shape letters: U distinct vectors, K neighbours.
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from features.approximate import SAMPLED, Floats, NeighborLists, Rows, joined, neighbor_lists
from warehouse.array_file import read_arrays, write_arrays

FORMAT = 1
Keys = npt.NDArray[np.uint64]


def kept_lists(path: Path, keys: Keys, vectors: Floats, k: int) -> NeighborLists:
    """The neighbour lists of some vectors: from the file, or joined to those of the file, or worked out anew.

    Args:
        path: the file, which is written where its lists are not these; its folder exists.
        keys: [U] a digest of each vector, all different.
        vectors: [U, D] unit rows, finite, more than `features.approximate.EXACT_UP_TO`.
        k: neighbours.

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
        lists = lists or neighbor_lists(vectors, k)
        content = {field.name: getattr(lists, field.name) for field in fields(lists)}
        write_arrays(path, {"format": FORMAT, "keys": keys, "k": k, **content})
    return lists


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
    types = [array.dtype for array in (keys, rows, similarity, centres, home)]
    fits = (
        types == [np.uint64, np.int64, np.float32, np.float32, np.int64]
        and rows.shape == similarity.shape == (count, int(content["k"]))
        and home.shape == (count,)
        and centres.ndim == 2
        and 0 < looked <= lists
        and rows.min(initial=0) >= -1
        and rows.max(initial=0) < count
        and home.min(initial=0) >= 0
        and home.max(initial=0) < lists
        and _sample_fits(found)
    )
    return (keys, found) if fits else None


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
