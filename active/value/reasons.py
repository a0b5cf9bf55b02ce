"""Why an item is worth a label, in words a person reads beside the task.

Shape letters: N items of the pool.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from active.pool.graph import Floats, Rows
from active.pool.pool import Pool
from warehouse.numeric import pc, side_by_side

SURE = 0.5
CLOSE = 0.9
NEARLY_ALL = 0.995
FEW = 3
"""Classes that are named; of more the others are counted: a list of thirty is not read."""
NEAR = "close to one already labelled or queued"
ALIKE = "all labels so far are the same, so what is unlike them is worth most"
WORTH_SAYING = 0.00005
"""Half of the last digit that is written."""
TOGETHER = 100_000
"""Sentences that a thread makes at a time."""


def reasons(pool: Pool, speaks_for: Rows, redundancy: Floats, settled: Floats, rows: Rows) -> pa.Array:
    """One sentence for each of some items. Each wording is made once, however many items it fits.

    Args:
        pool: what is known about the items.
        speaks_for: [N] others that are closer to the item than to any taken one.
        redundancy: [N] cosine of the nearest taken item.
        settled: [N] share of the end model's doubt over the pool that a label of the item would take.
        rows: places of the items that are wanted.
    """

    def worded(part: slice) -> pa.Array:
        return _reasons(pool, speaks_for, redundancy, settled, rows[part])

    return pa.concat_arrays([pa.array([], pa.string()), *side_by_side(worded, len(rows), TOGETHER)])


def _reasons(pool: Pool, speaks_for: Rows, redundancy: Floats, settled: Floats, rows: Rows) -> pa.Array:
    percent = np.where(settled[rows] >= WORTH_SAYING, np.round(100 * settled[rows], 2), -1.0)
    parts = [
        _worded(speaks_for[rows], rows, lambda row: _speaks_for(int(speaks_for[row]))),
        _worded(_alike(pool.votes[rows]), rows, lambda row: _votes(pool, row)),
        _predictions(pool, rows),
        _worded(percent, rows, lambda row: _settles(float(settled[row]))),
        _worded(redundancy[rows] >= CLOSE, rows, lambda row: NEAR if redundancy[row] >= CLOSE else None),
        *([pa.array([ALIKE] * len(rows), pa.string())] if pool.all_alike else []),
    ]
    sentences = pc.binary_join_element_wise(*parts, "; ", null_handling="skip")
    return pc.binary_join_element_wise(sentences, ".", "")


def _predictions(pool: Pool, rows: Rows) -> pa.Array:
    """What the end model says about some items; null where it says nothing."""
    if len(pool.class_names) < 2:
        return pa.nulls(len(rows), pa.string())
    spoken = pool.has_prediction[rows]
    if pool.multi_label:
        told = [_sets(pool, row) if said else None for row, said in zip(rows.tolist(), spoken, strict=True)]
        return pa.array(told, pa.string())  # of nothing but None pyarrow would make an array that joins with no words
    order = np.argsort(-pool.predicted[rows], axis=1, kind="stable")[:, :2]
    best, second = order.T
    probs = np.take_along_axis(pool.predicted[rows], order, axis=1)
    unsure = probs[:, 0] - probs[:, 1] < SURE
    percents = np.where(probs[:, 0] >= NEARLY_ALL, 100, np.minimum(np.rint(100 * probs[:, 0]), 99)).astype(np.int64)
    # Unsure ones are told by their two classes, the others by one class and its percent.
    number = np.where(unsure, second, len(pool.class_names) + percents)
    kind = np.where(spoken, best * (len(pool.class_names) + 101) + number, -1)
    return _worded(kind, rows, lambda row: _prediction(pool, row) if pool.has_prediction[row] else None)


def _worded(kinds: npt.NDArray[Any], rows: Rows, words: Callable[[int], str | None]) -> pa.Array:
    """The words for each of some items, made for the first item of each kind."""
    found = pa.array(kinds).dictionary_encode()  # in the order they come, and without the sort of `np.unique`
    first = np.empty(len(found.dictionary), np.int64)
    first[found.indices.to_numpy()[::-1]] = np.arange(len(kinds))[::-1]  # of several the last stays
    return pa.array([words(row) for row in rows[first].tolist()], pa.string()).take(found.indices)


def _alike(values: Floats) -> Rows:
    """A number for each row [N], the same one for equal rows of some values [N, C]."""
    data = np.ascontiguousarray(values)
    kind = pa.binary(max(1, data.dtype.itemsize * data.shape[1]))
    if not data.any():
        return np.zeros(len(data), np.int64)
    found = pa.Array.from_buffers(kind, len(data), [None, pa.py_buffer(data)]).dictionary_encode()
    return found.indices.to_numpy().astype(np.int64)


def with_seconds(reason: str, seconds: float) -> str:
    """A reason of `reasons` that also says how long an answer is expected to take, where that decided."""
    return f"{reason.removesuffix('.')}; about {max(1, round(seconds))} s to answer."


def _speaks_for(count: int) -> str:
    if count == 0:
        return "Speaks only for itself"
    return f"Speaks for {count} {'record' if count == 1 else 'records'} nobody has labelled"


def _votes(pool: Pool, row: int) -> str:
    voted = np.flatnonzero(pool.votes[row])
    functions = int(pool.votes[row].sum())
    if functions == 0:
        return "no function votes on it"
    if len(voted) > FEW:  # those with the most votes are named
        voted = voted[np.argsort(-pool.votes[row][voted], kind="stable")]
    names = _named(pool, voted)
    if len(voted) > 1 and not pool.multi_label:
        return f"{functions} functions disagree on {names}"
    return f"{functions} {'function votes' if functions == 1 else 'functions vote'} {names}"


def _settles(share: float) -> str | None:
    return f"a label would remove {share:.2%} of the model's doubt about all records" if share >= WORTH_SAYING else None


def _prediction(pool: Pool, row: int) -> str:
    probs = pool.predicted[row]
    best, second = np.argsort(-probs, kind="stable")[:2].tolist()
    if probs[best] - probs[second] < SURE:
        return f"the model is unsure between {_name(pool, best)} and {_name(pool, second)}"
    # In whole percents, so that a row is not written anew for every small move; nearly all is never all of it.
    sure = "over 99%" if probs[best] >= NEARLY_ALL else f"{probs[best]:.0%}"
    return f"the model says {_name(pool, best)} ({sure})"


def _sets(pool: Pool, row: int) -> str:
    """What the model says of sets: the class it is least sure about, else all of them; and what it has not learned."""
    probs = pool.predicted[row]
    least_sure, said = int(np.abs(probs - 0.5).argmin()), np.flatnonzero(probs >= 0.5)
    if abs(2 * probs[least_sure] - 1) < SURE:
        told = f"the model is unsure whether {_name(pool, least_sure)} fits ({probs[least_sure]:.0%})"
    elif len(said):
        told = f"the model says {_named(pool, said)}"
    elif len(pool.untaught):
        told = "no class that the model has learned fits"
    else:
        told = "the model says that no class fits"
    if not len(pool.untaught):
        return told
    few = len(pool.untaught) <= FEW
    what = _named(pool, pool.untaught) if few else f"{len(pool.untaught)} of the {len(pool.class_names)} classes"
    return f"{told}; it has not learned {what} yet"


def _named(pool: Pool, classes: Rows) -> str:
    names, more = [_name(pool, c) for c in classes[:FEW].tolist()], len(classes) - FEW
    if more > 0:
        names.append(f"{more} other {'class' if more == 1 else 'classes'}")
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def _name(pool: Pool, number: int) -> str:
    """The class's name, in quotes where it has several words."""
    name = pool.class_names[number]
    return f"'{name}'" if " " in name else name
