"""A million vectors: neighbours, graph, values and a batch, and 1% more, in a child process with its memory measured.

Vectors are drawn around one centre for 50 of them on the unit sphere; real texts come in groups too. Memory is the peak
of the process (`ru_maxrss`), vectors included. Beside the clock stand the seconds of the processor, both cores added.
"""

import json
import os
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np

ITEMS, DIMENSION, CLASSES = 1_000_000, 384, 8
PER_CENTRE = 50
BATCH, LABELLED, NEIGHBORS = 1000, 256, 10
SLOPE_ITEMS = (250_000, 500_000)
SAMPLED = 500


def scale(items: int = ITEMS) -> dict[str, Any]:
    """Seconds by step, peak memory and recall at `items`, at a quarter and a half of a million, for the slope."""
    found: dict[str, Any] = {}
    for count in sorted({*(min(some, items) for some in SLOPE_ITEMS), items}):
        command = [sys.executable, "-m", "benchmarks.selection_scale", str(count)]
        limits = {**os.environ, "OMP_NUM_THREADS": "2"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=limits)
        found[str(count)] = json.loads(done.stdout.splitlines()[-1])
        print(f"{count} items: {found[str(count)]}", file=sys.stderr, flush=True)
    return {"dimension": DIMENSION, "batch": BATCH, "items": found}


class _Laps:
    """Seconds by step, of the clock and of the processor."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.processor: dict[str, float] = {}
        self.begin()

    def begin(self) -> None:
        self._clock, self._processor = time.monotonic(), time.process_time()

    def lap(self, name: str) -> None:
        self.seconds[name] = round(time.monotonic() - self._clock, 1)
        self.processor[name] = round(time.process_time() - self._processor, 1)
        self.begin()

    def all(self) -> dict[str, dict[str, float]]:
        kinds = {"seconds": self.seconds, "processor_seconds": self.processor}
        return {name: {**laps, "all": round(sum(laps.values()), 1)} for name, laps in kinds.items()}


def _measure(count: int) -> dict[str, Any]:
    from active.graph import PoolGraph
    from active.strategies import Situation
    from active.strategies.value import pick_value
    from active.value import information
    from features.approximate import joined, neighbor_lists

    generator = np.random.default_rng(0)
    more = count // 100
    vectors = _vectors(count + more, count // PER_CENTRE, generator)
    there, laps = vectors[:count], _Laps()
    found = neighbor_lists(there, NEIGHBORS)
    laps.lap(f"index and {NEIGHBORS} neighbours")
    graph = PoolGraph.build(there, found.similarity, found.rows)
    laps.lap("graph")
    pool = _pool(count, generator)
    laps.begin()
    information(pool, graph)
    laps.lap("values")
    picked = len(pick_value(Situation(pool=pool, graph=graph, generator=generator), BATCH).rows)
    laps.lap(f"batch of {BATCH}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2  # before the recall, which is ours to ask
    recall = _recall(there, found.rows, generator)

    del graph
    before = np.concatenate([np.arange(count), np.full(more, -1)])
    pool = _pool(count + more, generator)
    adding = _Laps()
    grown = joined(found, vectors, before)
    adding.lap("index and neighbours")
    if grown is None:
        raise RuntimeError("The new vectors could not join.")
    graph = PoolGraph.build(vectors, grown.similarity, grown.rows)
    adding.lap("graph")
    information(pool, graph)
    adding.lap("values")
    whole, added = laps.all(), adding.all()
    return {
        **whole,
        "picked": picked,
        "index": f"{found.kind}, {len(found.centres)}, {found.looked} looked into",
        "recall_at_10": round(recall, 4),
        "peak_gib": round(peak, 2),
        "adding_1_percent": {
            **added,
            "share": round(added["processor_seconds"]["all"] / whole["processor_seconds"]["all"], 4),
            "recall_at_10": round(_recall(vectors, grown.rows, generator), 4),
        },
    }


def _pool(count: int, generator: np.random.Generator) -> Any:
    from active.pool import Pool

    return Pool(
        item_ids=[""] * count,
        content_hashes=[""] * count,
        class_names=[str(number) for number in range(CLASSES)],
        votes=np.zeros((count, 1)),
        weak=np.zeros((count, CLASSES)),
        predicted=generator.dirichlet(np.full(CLASSES, 0.3), count),
        has_prediction=np.ones(count, np.bool_),
        labelled=np.sort(generator.choice(count, LABELLED, replace=False)),
        gold=np.zeros(LABELLED, np.int64),
        queued=np.empty(0, np.int64),
    )


def _vectors(count: int, centres: int, generator: np.random.Generator) -> np.ndarray:
    middles = generator.standard_normal((centres, DIMENSION)).astype(np.float32)
    vectors = np.empty((count, DIMENSION), np.float32)
    for start in range(0, count, 50_000):
        part = vectors[start : start + 50_000]
        part[:] = middles[generator.integers(0, centres, len(part))]
        part += 0.8 * generator.standard_normal(part.shape, dtype=np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return vectors


def _recall(vectors: np.ndarray, rows: np.ndarray, generator: np.random.Generator) -> float:
    sampled = np.sort(generator.choice(len(vectors), SAMPLED, replace=False))
    similarity = vectors[sampled] @ vectors.T
    similarity[np.arange(SAMPLED), sampled] = -np.inf
    best = np.argpartition(-similarity, NEIGHBORS, axis=1)[:, :NEIGHBORS]
    return float(np.mean([len(set(a) & set(b)) / NEIGHBORS for a, b in zip(best, rows[sampled], strict=True)]))


if __name__ == "__main__":
    print(json.dumps(_measure(int(sys.argv[1]))))
