"""Neighbour lists of many vectors: exact while that is quick, approximate beyond, with the recall measured each time.

Beyond `EXACT_UP_TO` each vector is at home in the inverted list of its nearest centre and looks into the nearest few.
The lists are gone through one by one: all vectors that look into one are compared with its members in one matrix
product, so no second copy of the vectors is needed. Vectors that come later join the lists that are there: they look
into few of them and go on from what they find, to the neighbours of their neighbours.

Shape letters: N vectors, D embedding, K neighbours, L inverted lists, P of them that a vector looks into, J joining.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import faiss
import numpy as np
import numpy.typing as npt

from features.neighbors.checkpoint import Begun
from warehouse import DataError, Progress, SettingsError, silent
from warehouse.numeric import one_core

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

EXACT_UP_TO = 50_000
LEAST_RECALL = 0.95
MARGIN = 0.02
"""Recall beyond the least one that the sample must show, for the sample is not all and others join later."""
ROUNDING = 1e-6
"""Cosines that differ by no more are equal: which of many near-copies are the nearest is chance."""
LISTS_PER_ROOT = 4
TRAINED_PER_LIST = 32
TRAINING_STEPS = 6
SAMPLED = 400
SEED = 0
"""Draws the sample and what the centres are made of."""
STEP = 16_384
FEW_COMPARED, MOST_COMPARED = 64, 2048
"""Vectors that a sample is compared with at once, at first and at most: the cache holds their similarities."""
MOST_PAIRS = 2**22
"""Pairs that are compared at once when vectors join; their similarities take 16 MiB."""
FIRST_LOOK = 8
"""P over the lists that those that join look into first."""
ROUNDS = 5
FEW_NEW = 0.01
"""Share of new neighbours in a round after which the next would bring little."""
TOGETHER = 16
"""Vectors that meet the neighbours of all their neighbours in one product; with more, most pairs are far apart."""
MOST_JOINING = 0.1
"""Share of the vectors that may join at once; with more, all is worked out anew."""
MOST_GROWTH = 1.5
"""Vectors over those that the centres were made for, up to which others may join."""


@dataclass(frozen=True, slots=True)
class NeighborLists:
    """The nearest others of each vector, and what is needed for others to join.

    Attributes:
        similarity: [N, K] cosines, falling.
        rows: [N, K] places; -1 where fewer were found.
        recall: share of those found that are as close as the K-th true neighbour, on a sample; 1 where exact.
        centres: [L, D] of the inverted lists; L is 0 where the lists are exact.
        home: [N] the inverted list that each vector is a member of.
        looked: P.
        made_for: vectors that the centres were made for.
        sample: [S] places of some that the recall is measured on; S is 0 before any joined.
        near: [S, K] their true neighbours, in no order.
        close: [S, K] how close these are.
    """

    similarity: Floats
    rows: Rows
    recall: float
    centres: Floats
    home: Rows
    looked: int
    made_for: int
    sample: Rows = field(default_factory=lambda: np.empty(0, np.int64))
    near: Rows = field(default_factory=lambda: np.empty((0, 0), np.int64))
    close: Floats = field(default_factory=lambda: np.empty((0, 0), np.float32))

    @property
    def kind(self) -> str:
        """How the neighbours were found: "exact" or "inverted lists"."""
        return "inverted lists" if len(self.centres) else "exact"


def neighbor_lists(
    vectors: Floats,
    k: int,
    *,
    least_recall: float = LEAST_RECALL,
    progress: Progress = silent,
    begun: Path | None = None,
) -> NeighborLists:
    """Find the K nearest others of every vector by inner product.

    Where there are many, vectors look into as many inverted lists as hold that share of the neighbours of a sample of
    400, which are known from brute force.

    Args:
        vectors: [N, D] unit rows, finite.
        k: neighbours; N - 1 where that is less.
        least_recall: share of the true neighbours that the sample must find, over 0 up to 1.
        progress: called with (inverted lists looked into, inverted lists) where there are many.
        begun: a file that keeps what is found, minute by minute, where there are many: a search of the same that was
            cut off goes on from there.

    Raises:
        DataError: vectors are not finite; names their places.
        SettingsError: `k` or `least_recall` is out of range.
    """
    if k < 1 or not 0 < least_recall <= 1:
        raise SettingsError(f"k is {k} and least_recall {least_recall}; k is 1 or more, a recall is over 0 up to 1.")
    _check_finite(vectors, np.arange(len(vectors)))
    count, dimension = vectors.shape
    width = min(k, max(0, count - 1))
    if count <= EXACT_UP_TO:
        found = _Found.none(count, width)
        if width:
            everyone = np.arange(count)
            found.look(vectors, everyone, everyone)
        nowhere, alone = np.empty((0, dimension), np.float32), np.zeros(count, np.int64)
        return NeighborLists(found.similarity, found.rows, 1.0, nowhere, alone, 0, count)
    generator = np.random.default_rng(SEED)
    centres = _centres(vectors, generator)
    sample = np.sort(generator.choice(count, min(SAMPLED, count), replace=False))
    similarity, truth = brute_force(vectors, sample, width)
    reached = _recall_by_lists(vectors, centres, sample, truth)
    enough = reached >= min(1.0, least_recall + MARGIN)
    looked = int(enough.argmax()) + 1
    looks = _nearest_centres(vectors, np.arange(count), centres, looked)
    home = looks[:, 0].astype(np.int64)
    kept = Begun.of(begun, vectors, looks)
    found, before = _Found.none(count, width), 0
    if (earlier := kept.found(found.rows.shape)) is not None:
        found, before = _Found(*earlier[:2]), earlier[2]
    for done, (queries, members) in enumerate(_by_list(looks, np.arange(count), home, len(centres))):
        if done < before:
            continue
        progress(done, len(centres))
        found.look(vectors, queries, members)
        kept.keep(found.similarity, found.rows, done + 1)
    recall = _recall(found.similarity[sample], similarity)
    return NeighborLists(found.similarity, found.rows, recall, centres, home, looked, count)


def joined(earlier: NeighborLists, vectors: Floats, before: Rows) -> NeighborLists | None:
    """The lists after vectors came or went, worked out for these and for whom they are neighbours of.

    A vector that comes or lost a neighbour looks into an eighth of P lists and then at the neighbours of its
    neighbours; whoever is compared with it may take it for a neighbour too. The recall is measured anew, on some that
    came and on some of all. While it falls short of the margin for those that came, they look into twice as many lists,
    up to 2 P.

    Args:
        earlier: lists of the vectors before.
        vectors: [N, D] unit rows, finite.
        before: [N] place of each vector in `earlier`, -1 for one that comes.

    Returns:
        The lists, or None where all is better worked out anew: they are few and exact, many of them come or go, there
        are many more than the centres were made for, or the recall would be too low.
    """
    count, width = len(vectors), earlier.rows.shape[1]
    if not len(earlier.centres) or not EXACT_UP_TO < count <= MOST_GROWTH * earlier.made_for:
        return None
    old = before >= 0
    _check_finite(vectors, np.flatnonzero(~old))
    after = np.full(len(earlier.rows) + 1, -1, np.int64)  # the last place is that of "no neighbour"
    after[before[old]] = np.flatnonzero(old)
    found = _Found.none(count, width)
    found.similarity[old], found.rows[old] = earlier.similarity[before[old]], after[earlier.rows[before[old]]]
    lost = np.zeros(count, np.bool_)
    if np.count_nonzero(old) < len(earlier.rows):
        lost[old] = ((found.rows[old] < 0) & (earlier.rows[before[old]] >= 0)).any(axis=1)
    joining = np.flatnonzero(~old | lost)
    if len(joining) > MOST_JOINING * count:
        return None
    home = np.empty(count, np.int64)
    home[old] = earlier.home[before[old]]
    most, start, looked = min(2 * earlier.looked, len(earlier.centres)), 0, max(1, earlier.looked // FIRST_LOOK)
    looks = _nearest_centres(vectors, joining, earlier.centres, looked)
    order = np.argsort(looks[:, 0], kind="stable")  # those that meet the same others side by side
    joining, looks = joining[order], looks[order]
    home[joining] = looks[:, 0]
    found.close_gaps(joining)
    generator = np.random.default_rng(SEED)
    asked = joining if old.all() else np.flatnonzero(~old)
    some = generator.choice(asked, min(SAMPLED // 2, len(asked)), replace=False)
    known, known_near, known_close = _sample(earlier, after, vectors, np.flatnonzero(~old))
    drawn = generator.choice(count, SAMPLED // 2 - len(known), replace=False)
    sample = np.concatenate([known, drawn])
    # Small products: a second thread in one only waits for the first, and is better used for the truth.
    with one_core(), ThreadPoolExecutor(1) as beside:
        compared = beside.submit(brute_force, vectors, np.concatenate([some, drawn]), width)
        while True:
            for queries, members in _by_list(looks[:, start:], joining, home, len(earlier.centres)):
                found.meet(vectors, queries, members)
            _search_graph(vectors, joining, found)
            truth, nearest = compared.result()
            of_some = _recall(found.similarity[some], truth[: len(some)])
            if looked == most or of_some >= LEAST_RECALL + MARGIN:
                break
            start, looked = looked, min(2 * looked, most)
            looks = _nearest_centres(vectors, joining, earlier.centres, looked)
    near = np.concatenate([known_near, nearest[len(some) :]])
    close = np.concatenate([known_close, truth[len(some) :]])
    recall = min(of_some, _recall(found.similarity[sample], np.sort(close, axis=1)[:, ::-1]))
    if recall < LEAST_RECALL:
        return None
    # Those that came take places in the sample, as many as is their share; the oldest leave.
    came = min(len(some), round(len(sample) * float((~old).mean())))
    return NeighborLists(
        similarity=found.similarity,
        rows=found.rows,
        recall=recall,
        centres=earlier.centres,
        home=home,
        looked=earlier.looked,
        made_for=earlier.made_for,
        sample=np.concatenate([sample[came:], some[:came]]),
        near=np.concatenate([near[came:], nearest[:came]]),
        close=np.concatenate([close[came:], truth[:came]]),
    )


def _sample(earlier: NeighborLists, after: Rows, vectors: Floats, came: Rows) -> tuple[Rows, Rows, Floats]:
    """Those of the sample before whose true neighbours are all still there, with these: others may only have come.

    Args:
        earlier: the lists before.
        after: [N + 1] places now of those in `earlier`, -1 for those that are gone, and for "no neighbour" at the end.
        vectors: now.
        came: places of those that came.
    """
    width = earlier.rows.shape[1]
    if not len(earlier.sample):
        return np.empty(0, np.int64), np.empty((0, width), np.int64), np.empty((0, width), np.float32)
    sample, near = after[earlier.sample], after[earlier.near]
    there = (sample >= 0) & (near >= 0).all(axis=1)
    sample, near, close = sample[there], near[there], earlier.close[there]
    for start in range(0, len(came), STEP):
        part = came[start : start + STEP]
        both = np.hstack([close, vectors[sample] @ vectors[part].T])
        best = np.argpartition(both, -width, axis=1)[:, -width:]
        close = np.take_along_axis(both, best, axis=1)
        near = np.take_along_axis(np.hstack([near, np.tile(part, (len(sample), 1))]), best, axis=1)
    return sample, near, close


def brute_force(vectors: Floats, queries: Rows, width: int) -> tuple[Floats, Rows]:
    """Similarities and rows [M, K] of the nearest others of some vectors [M], compared with every one."""
    found, asked, start = _Found.none(len(queries), width), vectors[queries], 0
    while start < len(vectors):  # steps double, so that few of each are nearer than what is known by then
        held = vectors[start : start + min(MOST_COMPARED, max(FEW_COMPARED, start))]
        close = asked @ held.T
        own = np.flatnonzero((queries >= start) & (queries < start + len(held)))
        close[own, queries[own] - start] = -np.inf
        asking, told = _places(close > found.similarity[:, -1:])
        found.offer(asking, start + told, close[asking, told])
        start += len(held)
    return found.similarity, found.rows


@dataclass(frozen=True, slots=True)
class _Found:
    """The best so far: similarity [N, K] and rows [N, K], -inf and -1 where none was found yet."""

    similarity: Floats
    rows: Rows

    @classmethod
    def none(cls, count: int, width: int) -> "_Found":
        return cls(np.full((count, width), -np.inf, np.float32), np.full((count, width), -1, np.int64))

    def look(self, vectors: Floats, queries: Rows, members: Rows) -> None:
        """Let vectors see others that they have not seen; nobody is its own neighbour."""
        width = self.rows.shape[1]
        held = vectors[members]
        for start in range(0, len(queries), STEP):
            part = queries[start : start + STEP]
            close, found = cast(Any, faiss).knn(vectors[part], held, width + 1, metric=faiss.METRIC_INNER_PRODUCT)
            found = np.where(found < 0, -1, members[found])
            close[(found < 0) | (found == part[:, None])] = -np.inf
            found[close == -np.inf] = -1
            better = close.max(axis=1) > self.similarity[part, -1]
            part = part[better]
            close = np.hstack([self.similarity[part], close[better]])
            order = np.argsort(-close, axis=1, kind="stable")[:, :width]
            self.similarity[part] = np.take_along_axis(close, order, axis=1)
            self.rows[part] = np.take_along_axis(np.hstack([self.rows[part], found[better]]), order, axis=1)

    def meet(self, vectors: Floats, some: Rows, others: Rows) -> None:
        """Compare each of some [M] with each of others [R], ascending, and tell both; they may have met before."""
        width = min(self.rows.shape[1], len(others))
        held = vectors[others]
        step = max(1, MOST_PAIRS // len(others))
        for start in range(0, len(some), step):
            part = some[start : start + step]
            close = vectors[part] @ held.T
            at = np.minimum(np.searchsorted(others, part), len(others) - 1)
            itself = np.flatnonzero(others[at] == part)
            close[itself, at[itself]] = -np.inf
            best = np.argpartition(close, -width, axis=1)[:, -width:]
            asking, found = np.repeat(np.arange(len(part)), width), best.ravel()
            better = close[asking, found] > self.similarity[part[asking], -1]
            asking, found = asking[better], found[better]
            asked, told = _places(close > self.similarity[others, -1])
            self.offer(
                np.concatenate([part[asking], others[told]]),
                np.concatenate([others[found], part[asked]]),
                np.concatenate([close[asking, found], close[asked, told]]),
            )

    def offer(self, to: Rows, rows: Rows, close: Floats) -> None:
        """Keep the best of what vectors have and of what is offered to them [M], each row once."""
        width = self.rows.shape[1]
        changed, at = np.unique(to, return_inverse=True)
        at = np.concatenate([np.repeat(np.arange(len(changed)), width), at])
        rows = np.concatenate([self.rows[changed].ravel(), rows])
        close = np.concatenate([self.similarity[changed].ravel(), close])
        _, once = np.unique(at * (rows.max(initial=0) + 2) + rows, return_index=True)
        at, rows, close = at[once], rows[once], close[once]
        order = np.lexsort((-close, at))
        at, rows, close = at[order], rows[order], close[order]
        rank = np.arange(len(at)) - np.searchsorted(at, at)
        kept = rank < width
        to, rank = changed[at[kept]], rank[kept]
        self.similarity[to, rank], self.rows[to, rank] = close[kept], rows[kept]

    def close_gaps(self, some: Rows) -> None:
        """Put those that some [M] still have before the places of those that are gone."""
        close = np.where(self.rows[some] < 0, -np.inf, self.similarity[some])
        order = np.argsort(-close, axis=1, kind="stable")
        self.similarity[some] = np.take_along_axis(close, order, axis=1)
        self.rows[some] = np.take_along_axis(self.rows[some], order, axis=1)


def _places(there: npt.NDArray[np.bool_]) -> tuple[Rows, Rows]:
    """As `np.nonzero` of a matrix, which takes seven times as long."""
    return np.divmod(np.flatnonzero(there), there.shape[1])


def _search_graph(vectors: Floats, looking: Rows, found: _Found) -> None:
    """Let some vectors [M] meet the neighbours of their neighbours, until few find better ones that way.

    Source: Dong, Moses, Li 2011, Efficient k-nearest neighbor graph construction for generic similarity measures.
    """
    seen = np.full((len(looking), found.rows.shape[1]), -1, np.int64)
    for _ in range(ROUNDS):
        near = found.rows[looking]
        fresh = (near >= 0) & ~(near[:, :, None] == seen[:, None, :]).any(axis=2)
        if fresh.sum() <= FEW_NEW * fresh.size:
            break
        for start in range(0, len(looking), TOGETHER):
            part = slice(start, start + TOGETHER)
            others = np.unique(found.rows[near[part][fresh[part]]])
            others = others[others >= 0]
            if len(others):
                found.meet(vectors, looking[part][fresh[part].any(axis=1)], others)
        seen = near


def _centres(vectors: Floats, generator: np.random.Generator) -> Floats:
    count, dimension = vectors.shape
    lists = int(LISTS_PER_ROOT * count**0.5)
    some = np.sort(generator.choice(count, min(count, TRAINED_PER_LIST * lists), replace=False))
    seed = int(generator.integers(2**31))
    means: Any = faiss.Kmeans(
        dimension, lists, niter=TRAINING_STEPS, spherical=True, seed=seed, min_points_per_centroid=1
    )
    means.train(vectors[some])
    return np.ascontiguousarray(means.centroids, np.float32)


def _nearest_centres(vectors: Floats, rows: Rows, centres: Floats, looked: int) -> Rows:
    """The P nearest centres of some vectors [M, P], nearest first."""
    looks = np.empty((len(rows), looked), np.int32)
    for start in range(0, len(rows), STEP):
        part = vectors[rows[start : start + STEP]]
        looks[start : start + STEP] = cast(Any, faiss).knn(part, centres, looked, metric=faiss.METRIC_INNER_PRODUCT)[1]
    return cast(Rows, looks)


def _recall_by_lists(vectors: Floats, centres: Floats, sample: Rows, truth: Rows) -> npt.NDArray[np.float64]:
    """Share of the true neighbours of a sample that stand in their nearest 1, 2, ... L lists [L]."""
    close = vectors[sample] @ centres.T
    home = _nearest_centres(vectors, truth.ravel(), centres, 1).reshape(truth.shape)
    at = np.take_along_axis(close, home, axis=1)
    rank = np.array([(row[None, :] > own[:, None]).sum(axis=1) for row, own in zip(close, at, strict=True)])
    return np.cumsum(np.bincount(rank.ravel(), minlength=len(centres))) / rank.size


def _by_list(looks: Rows, queries: Rows, home: Rows, lists: int) -> Iterator[tuple[Rows, Rows]]:
    """For each inverted list the vectors [M, P] that look into it, and its members."""
    order = np.argsort(looks.ravel(), kind="stable")
    ends = np.cumsum(np.bincount(looks.ravel(), minlength=lists))
    members = np.argsort(home, kind="stable")
    last = np.cumsum(np.bincount(home, minlength=lists))
    for number in range(lists):
        looking = order[(ends[number - 1] if number else 0) : ends[number]] // looks.shape[1]
        held = members[(last[number - 1] if number else 0) : last[number]]
        if len(looking) and len(held):
            yield queries[looking], held


def _recall(found: Floats, truth: Floats) -> float:
    """Share of the found that are as close as the last true neighbour, by the cosines of both [M, K]."""
    return float((found >= truth[:, -1:] - ROUNDING).mean()) if truth.size else 1.0


def _check_finite(vectors: Floats, rows: Rows) -> None:
    parts = [rows[start : start + STEP] for start in range(0, len(rows), STEP)]
    bad = np.concatenate([rows[:0], *(part[~np.isfinite(vectors[part]).all(axis=1)] for part in parts)])
    if bad.size:
        raise DataError(f"{bad.size} of {len(vectors)} vectors are not finite, the first is at place {bad[0]}.")
