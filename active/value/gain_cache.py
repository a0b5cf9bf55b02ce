"""What labels would settle, kept between runs: where 1% of a pool is new, the figures of the others are not made anew.

They are kept by vector, in a file beside the index: cosine of the nearest taken item, and per question (`Known`) what
`active.value.information_gain` is made of, x' V^-1 x and x' V^-1 T V^-1 x. While what is taken stays, so does V, and
with it the first. The second is a sum over the pool: it grows by x' V^-1 dT V^-1 x, where dT is what came. That lies
between the smallest and the largest e of dT y = e T y, times x' V^-1 T V^-1 x; so where these are close to each other
all grow by the same share, nearly, and it is known how nearly. Where they are not, what came is added to each (a
product); where V changed, or much else did, all is worked out anew (three).

The file is only a cache: it is believed as far as vectors, taken items and openness are the same, and a file that is
missing, damaged or of another format makes a run slower.

Shape letters: N items, U distinct vectors, D embedding, T taken vectors.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from active.pool.graph import CHUNK, Floats, PoolGraph, Rows
from active.value.information_gain import covariance, gained, precision, squared, tells, weighted
from features.neighbors.neighbor_file import Keys, places
from warehouse import SettingsError
from warehouse.files.array_cache import read_arrays, write_arrays
from warehouse.numeric import side_by_side

FORMAT = 1
WIDEST = 0.015
"""Largest relative error of one gain over another; `active.value.value_cache` allows 0.02 in all."""
MOST_CHANGED = 0.1
"""Share of the vectors that may be new or of another openness; with more, all is worked out anew."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gains:
    """What labels would settle.

    Attributes:
        gains: [N] as of `active.value.information_gain.Information`.
        doubt: that is left over the whole pool.
        off: how far each gain over another may be from what it is, as a part of it; 0 where they were worked out.
        anew: items whose gain was worked out or corrected, and not only scaled.
    """

    gains: Floats
    doubt: float
    off: float
    anew: int


@dataclass(frozen=True, slots=True)
class _State:
    """What is kept of one question. `settled` is that of `base`, the target when all were last worked out."""

    weight: Floats
    spread: Floats
    settled: Floats
    precision: Floats
    target: Floats
    base: Floats


@dataclass(frozen=True, slots=True)
class _Kept:
    """The file: keys [U] ascending, cosines with the nearest of the taken [U], their keys [T] and the questions."""

    keys: Keys
    nearest: Floats
    taken: Keys
    states: Mapping[str, _State]


class _Vectors:
    """The pool by distinct vectors, and where those stand among the kept ones."""

    def __init__(self, graph: PoolGraph, kept: _Kept | None) -> None:
        self.all = graph.vectors
        self.keys, self.first, self.group = np.unique(graph.keys, return_index=True, return_inverse=True)
        known = places(kept.keys, self.keys) if kept else np.full(len(self.keys), -1)
        self.known = known[self.group]
        self.new = np.flatnonzero(self.known < 0)
        self.some_left = kept is not None and np.count_nonzero(known >= 0) < len(kept.keys)
        self._place = known

    def summed(self, values: Floats) -> Floats:
        """The sum of what the items of each vector have [U], no more precise than it is kept."""
        return np.bincount(self.group, values, len(self.keys)).astype(np.float32).astype(np.float64)

    def before(self, values: Floats) -> Floats:
        """What was kept of each vector [U], 0 for those that are new."""
        return np.where(self._place < 0, 0.0, values[self._place])


def kept_gains(
    path: Path | None, graph: PoolGraph, taken: Rows, questions: Mapping[str, Floats], *, classes: int, ridge: float
) -> tuple[Mapping[str, Gains], Floats]:
    """The gains of each question, and the cosine of each item with the nearest taken one [N].

    Args:
        path: the file, which is written where it can be; None where nothing is kept.
        graph: of an index.
        taken: places of the labelled and queued items.
        questions: the openness of each item [N], 0 to 1, by the name of the question.
        classes: C.
        ridge: as of `active.value.information_gain.Information`.
    """
    kept = _read(path, graph.vectors.shape[1] + 1) if path else None
    vectors = _Vectors(graph, kept)
    nearest = _nearest(graph, taken, kept, vectors)
    states, found = dict[str, _State](), dict[str, Gains]()
    for name, openness in questions.items():
        told = tells(openness, classes)
        known = precision(graph.vectors, taken, told, ridge)
        before = kept.states.get(name) if kept else None
        states[name], found[name] = _grown(vectors, before, known, openness, told) or _anew(
            vectors, known, openness, told
        )
    if path:
        keys = np.unique(graph.keys[taken])
        with contextlib.suppress(SettingsError):  # the next run then works all out
            _write(path, _Kept(vectors.keys, nearest[vectors.first], keys, states))
    return found, nearest


def _nearest(graph: PoolGraph, taken: Rows, kept: _Kept | None, vectors: _Vectors) -> Floats:
    if kept is None or not np.isin(kept.taken, graph.keys[taken]).all():
        return graph.nearest(taken)
    found = np.where(vectors.known < 0, 0.0, kept.nearest[vectors.known].astype(np.float64))
    newly = taken[~np.isin(graph.keys[taken], kept.taken)]
    if len(newly):
        found = np.maximum(found, graph.nearest(newly))
    found[vectors.new] = graph.nearest(taken, vectors.new)
    return found


def _anew(vectors: _Vectors, known: Floats, openness: Floats, told: Floats) -> tuple[_State, Gains]:
    everyone, left = np.arange(len(openness)), covariance(known)
    target = weighted(vectors.all, everyone, openness)
    spread = _of(vectors, everyone, left)
    settled = _of(vectors, everyone, left @ target @ left)
    one = vectors.first
    state = _State(vectors.summed(openness), spread[one], settled[one], known, target, target)
    gains = gained(told, settled, spread)
    return state, Gains(gains=gains, doubt=float((target * left).sum()), off=0.0, anew=len(openness))


def _grown(
    vectors: _Vectors, before: _State | None, known: Floats, openness: Floats, told: Floats
) -> tuple[_State, Gains] | None:
    """From what was kept; None where all is better worked out anew."""
    if before is None or not np.array_equal(before.precision, known):
        return None
    weight = vectors.summed(openness)
    change = weight - vectors.before(before.weight)
    changed = np.flatnonzero(change)
    if len(changed) > MOST_CHANGED * len(change):
        return None
    if vectors.some_left:
        target = weighted(vectors.all, np.arange(len(openness)), openness)
    else:
        order = np.argsort(vectors.first[changed])
        changed = changed[order]
        target = before.target + weighted(vectors.all, vectors.first[changed], change[changed])
    left, base = covariance(known), before.base
    spread, settled = (np.where(vectors.known < 0, 0.0, of[vectors.known]) for of in (before.spread, before.settled))
    spread[vectors.new] = _of(vectors, vectors.new, left)
    settled[vectors.new] = _of(vectors, vectors.new, left @ base @ left)
    low, high = _growth(target - base, base)
    off, growth, anew = (1.0 + high) / (1.0 + low) - 1.0 if low > -1.0 else np.inf, (low + high) / 2, len(vectors.new)
    if not off <= WIDEST:
        settled += _of(vectors, np.arange(len(openness)), left @ (target - base) @ left)
        base, off, growth, anew = target, 0.0, 0.0, len(openness)
    one = vectors.first
    state = _State(weight, spread[one], settled[one], known, target, base)
    gains = gained(told, (1.0 + growth) * settled, spread)
    return state, Gains(gains=gains, doubt=float((target * left).sum()), off=off, anew=anew)


def _growth(change: Floats, base: Floats) -> tuple[float, float]:
    """The smallest and the largest e for which change y = e base y for some y; infinite where base has no full rank."""
    from scipy.linalg import LinAlgError, eigh  # takes a fifth of a second to import

    if not change.any():
        return 0.0, 0.0
    try:
        found: Any = eigh(change, base, eigvals_only=True)
    except LinAlgError:
        return -np.inf, np.inf
    return float(found[0]), float(found[-1])


def _of(vectors: _Vectors, rows: Rows, matrix: Floats) -> Floats:
    """x' M x of some items [M]."""
    whole = len(rows) == len(vectors.all)
    found = side_by_side(lambda part: squared(vectors.all, part if whole else rows[part], matrix), len(rows), CHUNK)
    return np.concatenate([*found, np.empty(0)]).astype(np.float64)


def _write(path: Path, kept: _Kept) -> None:
    arrays: dict[str, Any] = {"format": FORMAT, "keys": kept.keys, "taken": kept.taken}
    arrays["nearest"] = kept.nearest.astype(np.float32)
    for name, state in kept.states.items():
        for field in fields(state):
            value = getattr(state, field.name)
            arrays[f"{name}.{field.name}"] = value.astype(np.float32) if value.ndim == 1 else value
    write_arrays(path, arrays)


def _read(path: Path, dimension: int) -> _Kept | None:
    """What the file holds; None when it is missing, damaged, or of another format or vectors of another length."""
    arrays = dict(read_arrays(path))
    try:
        if int(arrays.pop("format")) != FORMAT:
            return None
        keys, taken, nearest = (arrays.pop(name) for name in ("keys", "taken", "nearest"))
        names = {name.split(".")[0] for name in arrays}
        states = {name: _State(*(arrays[f"{name}.{field.name}"] for field in fields(_State))) for name in names}
    except (KeyError, TypeError, ValueError):
        return None
    rows = [nearest, *(row for state in states.values() for row in (state.weight, state.spread, state.settled))]
    matrices = [each for state in states.values() for each in (state.precision, state.target, state.base)]
    fits = (
        keys.dtype == taken.dtype == np.uint64
        and keys.ndim == taken.ndim == 1
        and len(keys) > 0
        and all(row.shape == keys.shape and row.dtype == np.float32 for row in rows)
        and all(each.shape == (dimension, dimension) and each.dtype == np.float64 for each in matrices)
    )
    return _Kept(keys, nearest, taken, states) if fits else None
