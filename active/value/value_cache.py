"""Which values are written: those that are new, and those that are no longer what stands in the warehouse.

Where 1% of a pool is new, the values of most others hardly move. Their rows stay as they are, so a
commit is as large as what changed, and each stored figure is always within `KEPT_WITHIN` of a whole computation.

Shape letters: N items of the pool.
"""

import numpy as np
import pyarrow as pa

from active.pool.graph import Bools, Floats
from warehouse import Reader
from warehouse.numeric import pc, side_by_side

KEPT_WITHIN = 0.02
"""How far a stored figure may be from what it would be now; of one above 1, such as seconds, this share."""
SHARE_KEPT_WITHIN = 0.05
"""How far the share that a reason tells may be from what it would be now, as a part of it."""
SHARE = r" (?P<share>[0-9.]+)% of the model's doubt"
LAST_DIGIT = 0.01
COMPARED = 50_000
"""Reasons that a thread compares at a time."""
KEYS, REASON = ("item_id", "cycle"), "reason"


def stored_values(reader: Reader, cycle: int) -> pa.Table:
    """What stands in the warehouse for a cycle, without the cycle and who wrote it."""
    return reader.arrow('SELECT * EXCLUDE (cycle, run_id, committed_at) FROM "values" WHERE cycle = ?', [cycle])


def changed(stored: pa.Table, values: pa.Table, *, off: float = 0.0) -> pa.Table:
    """The rows that have to be written.

    A row stays out where the same reason stands in the warehouse for the same cycle, with each figure within
    `KEPT_WITHIN`, and the share in the reason within `SHARE_KEPT_WITHIN`, less what `values` may be off.

    Args:
        stored: of `stored_values`.
        values: [N] rows of `values`, all of that cycle.
        off: how far the figures of `values` may be from a whole computation, as a part of each.
    """
    if not stored.num_rows:
        return values
    stored = stored.combine_chunks()  # rows are taken from one piece much faster
    place = pc.index_in(values["item_id"], value_set=stored["item_id"].combine_chunks())
    before, same = stored.take(place), np.asarray(place.is_valid()).copy()
    for name in values.column_names:
        if name not in (*KEYS, REASON):
            same &= _alike(values[name], before[name], off)
    differ = np.asarray(pc.fill_null(pc.not_equal(values[REASON], before[REASON]), True))
    asked = np.flatnonzero(same & differ)  # words take the longest, so they are compared last and where that decides

    def told(part: slice) -> Bools:
        return _tell_alike(values[REASON].take(asked[part]), before[REASON].take(asked[part]), off)

    same[asked] = np.concatenate([*side_by_side(told, len(asked), COMPARED), np.empty(0, np.bool_)])
    return values.filter(pa.array(~same))


def _alike(now: pa.ChunkedArray, before: pa.ChunkedArray, off: float) -> Bools:
    a, b = _numbers(now), _numbers(before)
    return (np.abs(a - b) <= (KEPT_WITHIN - off) * np.maximum(1.0, np.abs(b))) | (np.isnan(a) & np.isnan(b))


def _tell_alike(now: pa.ChunkedArray, before: pa.ChunkedArray, off: float) -> Bools:
    words = [pc.replace_substring_regex(column, SHARE, "") for column in (now, before)]
    a, b = _share(now), _share(before)
    near = np.abs(a - b) <= (SHARE_KEPT_WITHIN - off) * b + LAST_DIGIT
    return np.asarray(pc.fill_null(pc.equal(*words), False)) & near


def _numbers(column: pa.ChunkedArray) -> Floats:
    return np.asarray(column.cast(pa.float64()).fill_null(np.nan))


def _share(reasons: pa.ChunkedArray) -> Floats:
    """The share that each reason tells, in percent; 0 where it tells none."""
    found = pc.struct_field(pc.extract_regex(reasons, SHARE), "share")
    return _numbers(pc.fill_null(found, "0"))
