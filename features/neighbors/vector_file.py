"""The file in which many vectors are kept beside their index, so that a run reads only new ones from the warehouse.

The warehouse is the truth. DuckLake gives each row a number, and each version of a row the snapshot that it came with,
which compaction keeps and every change replaces: a vector of the file is taken where both are those of the warehouse
and its bits add up to what was noted. The snapshot at which the file was written must still be the warehouse's, by
number and time, for in a warehouse that was made anew or brought back from a backup the numbers may mean other rows.

The vectors are mapped, not read, and the file before stays on disk for whoever has it mapped.

Shape letters: N items, D embedding, M of the items.
"""

import hashlib
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.neighbors.search import Floats, Rows
from warehouse import Reader
from warehouse.files.atomic_file import replaced_file
from warehouse.numeric import side_by_side

FORMAT = 1
BLOCK = 512
"""Rows that are summed or copied at once: the processor's cache holds them, copying 16,384 takes twice as long."""
BLOCKS = 32
"""Blocks that are summed by one core in one go."""
DIGEST_BYTES = 16

_HEAD = ("format", "count", "dimension", "snapshot", "time_us", "crc32 of the rows")
_ROW = np.dtype(
    [("row", np.int64), ("snapshot", np.int64), ("digest", f"V{DIGEST_BYTES}"), ("total", np.uint64)], align=True
)
_Table = npt.NDArray[Any]
Digests = npt.NDArray[np.void]


def kept_vectors(
    path: Path, reader: Reader, found: pa.Table, fetch: Callable[[Rows], Floats]
) -> tuple[Floats, Digests]:
    """The vectors of some items: from the file as far as it holds them, else from the warehouse, and then in the file.

    Args:
        path: the file, which is written where its vectors are not these; its folder exists.
        reader: sees the snapshot of `found`.
        found: [N] rows of the warehouse's table `vectors`, with `rowid` and `snapshot_id`; 1 or more.
        fetch: reads vectors [M, D], finite, from the warehouse by their places [M] in `found`.

    Returns:
        the vectors [N, D] float32, which cannot be written to, and a digest of each [N].

    Raises:
        DataError: as `fetch`, also where vectors differ in length.
        SettingsError: the file cannot be written.
    """
    count = len(found)
    rows = np.zeros(count, _ROW)
    for name, column in (("row", "rowid"), ("snapshot", "snapshot_id")):
        rows[name] = found.column(column).to_numpy()
    earlier, vectors = _read(path, reader) or (rows[:0], np.empty((0, 0), np.float32))
    place = _places(earlier, vectors, rows)
    if np.array_equal(place, np.arange(len(earlier))):
        return vectors, earlier["digest"]
    new = np.flatnonzero(place < 0)
    fresh = fetch(new)
    dimension = (fresh if len(new) else vectors).shape[1]
    if dimension != vectors.shape[1]:  # nothing of the file is taken
        if len(new) < count:
            place, new = np.full(count, -1), np.arange(count)
            fresh = fetch(new)
        vectors = np.empty((0, dimension), np.float32)
    old = np.flatnonzero(place >= 0)
    for name in ("digest", "total"):
        rows[name][old] = earlier[name][place[old]]
    if len(new):
        rows["digest"][new], rows["total"][new] = digests_of(fresh), _totals(fresh)

    def block(part: slice) -> Floats:
        from_file = place[part]
        found = np.empty((len(from_file), dimension), np.float32)
        found[from_file >= 0] = vectors[from_file[from_file >= 0]]
        if (from_file < 0).any():
            found[from_file < 0] = fresh[slice(*np.searchsorted(new, [part.start, part.stop]))]
        return found

    with replaced_file(path, durable=False) as temporary, temporary.open("w+b") as handle:
        handle.write(np.array([FORMAT, count, dimension, *_moment(reader), zlib.crc32(rows.data)], np.int64).tobytes())
        handle.write(rows.tobytes())
        for some in side_by_side(block, count, BLOCK):
            handle.write(some.data)
        handle.flush()
        return _mapped(handle, count, dimension), rows["digest"]


def digests_of(vectors: Floats) -> Digests:
    """A digest of each vector [N], the same for the same bits."""
    digests = (hashlib.blake2b(row, digest_size=DIGEST_BYTES).digest() for row in np.ascontiguousarray(vectors))
    return np.frombuffer(b"".join(digests), f"V{DIGEST_BYTES}")


def _read(path: Path, reader: Reader) -> tuple[_Table, Floats] | None:
    """What the file knows of its rows, and the vectors; None when it is missing, damaged or of another warehouse."""
    try:
        with path.open("rb") as handle:
            head = np.fromfile(handle, np.int64, len(_HEAD))
            if len(head) < len(_HEAD) or head[0] != FORMAT:
                return None
            _, count, dimension, *moment, crc32 = (int(number) for number in head)
            bytes_there = os.fstat(handle.fileno()).st_size
            if min(count, dimension) < 1 or bytes_there != _start(count) + 4 * count * dimension:
                return None
            rows = np.fromfile(handle, _ROW, count)
            if zlib.crc32(rows.data) != crc32 or _moment(reader, moment[0]) != moment:
                return None
            return rows, _mapped(handle, count, dimension)
    except OSError:
        return None


def _start(count: int) -> int:
    """Where in the file the vectors begin."""
    return 8 * len(_HEAD) + count * _ROW.itemsize


def _mapped(handle: IO[bytes], count: int, dimension: int) -> Floats:
    return np.asarray(np.memmap(handle, np.float32, "r", _start(count), (count, dimension)))


def _moment(reader: Reader, snapshot: int | None = None) -> list[int]:
    """Number and time of a snapshot, the newest when none is named; empty for one that is not kept."""
    wanted = reader.snapshot() if snapshot is None else snapshot
    found = reader.rows(
        "SELECT snapshot_id, epoch_us(snapshot_time) FROM lake.snapshots() WHERE snapshot_id = ?", [wanted]
    )
    return [int(number) for row in found for number in row]


def _places(earlier: _Table, vectors: Floats, rows: _Table) -> Rows:
    """Place in the file of each row [N], -1 for one that is not there as it is now."""
    if not len(earlier):
        return np.full(len(rows), -1)
    numbered = np.full(1 + max(int(known["row"].max()) for known in (earlier, rows)), -1)  # for rows that ever were
    numbered[earlier["row"]] = np.arange(len(earlier))
    place = numbered[rows["row"]]
    same = (earlier["snapshot"][place] == rows["snapshot"]) & (_totals(vectors) == earlier["total"])[place]
    return np.where(same, place, -1)


def _totals(vectors: Floats) -> npt.NDArray[np.uint64]:
    """The sum of each vector's bits, in words of 32 [N]: a tenth of the work of its digest."""
    totals = np.empty(len(vectors), np.uint64)

    def add(blocks: slice) -> None:
        for start in range(blocks.start, blocks.stop, BLOCK):
            part = slice(start, min(start + BLOCK, blocks.stop))
            totals[part] = np.ascontiguousarray(vectors[part]).view(np.uint32).sum(axis=1, dtype=np.uint64)

    for _ in side_by_side(add, len(vectors), BLOCKS * BLOCK):
        pass
    return totals
