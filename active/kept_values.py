"""Which values are written: those that are new, and those that are no longer what stands in the warehouse.

Where 1% of a pool is new, the values of most others hardly move. Their rows stay as they are, so a
commit is as large as what changed, and each stored figure is always within `KEPT_WITHIN` of a whole computation.

Shape letters: N items of the pool.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from active.graph import Bools, Floats
from warehouse import Reader

# Its kernels are made at import time, which type checkers do not see.
pc: Any = pyarrow.compute

KEPT_WITHIN = 0.02
"""How far a stored figure may be from what it would be now; of one above 1, such as seconds, this share."""
SHARE_KEPT_WITHIN = 0.05
"""How far the share that a reason tells may be from what it would be now, as a part of it."""
SHARE = r" [0-9.]+% of what the model does not know"
LAST_DIGIT = 0.01
KEYS = ("item_id", "cycle")


def changed(reader: Reader, values: pa.Table, cycle: int, *, off: float = 0.0) -> pa.Table:
    """The rows that have to be written.

    A row stays out where the same reason stands in the warehouse for the same cycle, with each figure within
    `KEPT_WITHIN`, and the share in the reason within `SHARE_KEPT_WITHIN`, less what `values` may be off.

    Args:
        reader: of the warehouse.
        values: [N] rows of `values`, all of one cycle.
        cycle: which one.
        off: how far the figures of `values` may be from a whole computation, as a part of each.
    """
    names = ", ".join(f'"{name}"' for name in values.column_names if name != "cycle")
    stored = reader.arrow(f'SELECT {names} FROM "values" WHERE cycle = ?', [cycle])
    if not stored.num_rows:
        return values
    stored = stored.combine_chunks()  # rows are taken from one piece much faster
    place = pc.index_in(values["item_id"], value_set=stored["item_id"].combine_chunks())
    before, same = stored.take(place), np.asarray(place.is_valid()).copy()
    for name in values.column_names:
        if name not in KEYS:
            same &= _alike(values[name], before[name], off)
    return values.filter(pa.array(~same))


def _alike(now: pa.ChunkedArray, before: pa.ChunkedArray, off: float) -> Bools:
    if pa.types.is_floating(now.type):
        a, b = _numbers(now), _numbers(before)
        return (np.abs(a - b) <= (KEPT_WITHIN - off) * np.maximum(1.0, np.abs(b))) | (np.isnan(a) & np.isnan(b))
    same = np.asarray(pc.fill_null(pc.equal(now, before), False)).copy()
    others = np.flatnonzero(~same)
    now, before = now.take(others), before.take(others)
    words = [pc.replace_substring_regex(column, SHARE, "") for column in (now, before)]
    a, b = _share(now), _share(before)
    near = np.abs(a - b) <= (SHARE_KEPT_WITHIN - off) * b + LAST_DIGIT
    same[others] = np.asarray(pc.fill_null(pc.equal(*words), False)) & near
    return same


def _numbers(column: pa.ChunkedArray) -> Floats:
    return np.asarray(column.cast(pa.float64()).fill_null(np.nan))


def _share(reasons: pa.ChunkedArray) -> Floats:
    """The share that each reason tells, in percent; 0 where it tells none."""
    found = pc.struct_field(pc.extract_regex(reasons, f"(?P<share>{SHARE})"), "share")
    digits = pc.fill_null(pc.replace_substring_regex(found, "[^0-9.]", ""), "0")
    return _numbers(digits)
