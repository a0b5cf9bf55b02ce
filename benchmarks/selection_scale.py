"""A million vectors: neighbours, graph, values and a batch, in a child process with its memory measured.

Vectors are drawn around 20,000 centres on the unit sphere; real texts come in groups too. Memory is the peak of the
process (`ru_maxrss`), vectors included.
"""

import json
import os
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np

ITEMS, DIMENSION, CENTRES, CLASSES = 1_000_000, 384, 20_000, 8
BATCH, LABELLED, NEIGHBORS = 1000, 256, 10
SLOPE_ITEMS = 250_000
SAMPLED = 500


def scale(items: int = ITEMS) -> dict[str, Any]:
    """Seconds by step, peak memory and recall at `items` and at a quarter of a million, for the slope."""
    found: dict[str, Any] = {}
    for count in sorted({min(SLOPE_ITEMS, items), items}):
        command = [sys.executable, "-m", "benchmarks.selection_scale", str(count)]
        limits = {**os.environ, "OMP_NUM_THREADS": "2"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=limits)
        found[str(count)] = json.loads(done.stdout.splitlines()[-1])
    return {"dimension": DIMENSION, "batch": BATCH, "items": found}


def _measure(count: int) -> dict[str, Any]:
    from active.graph import PoolGraph
    from active.pool import Pool
    from active.strategies import Situation
    from active.strategies.value import pick_value
    from active.value import information
    from features.approximate import neighbor_lists

    generator = np.random.default_rng(0)
    vectors = _vectors(count, generator)
    seconds: dict[str, float] = {}
    began = time.monotonic()

    def lap(name: str) -> None:
        nonlocal began
        seconds[name] = round(time.monotonic() - began, 1)
        began = time.monotonic()

    found = neighbor_lists(vectors, NEIGHBORS)
    lap(f"index and {NEIGHBORS} neighbours")
    recall = _recall(vectors, found.rows, generator)
    lap("recall, not counted")
    graph = PoolGraph.build(vectors, found.similarity, found.rows)
    lap("graph")
    predicted = generator.dirichlet(np.full(CLASSES, 0.3), count)
    labelled = np.sort(generator.choice(count, LABELLED, replace=False))
    empty = np.zeros((count, 1))
    pool = Pool(
        item_ids=[""] * count,
        content_hashes=[""] * count,
        class_names=[str(number) for number in range(CLASSES)],
        votes=empty,
        weak=np.zeros((count, CLASSES)),
        predicted=predicted,
        has_prediction=np.ones(count, np.bool_),
        labelled=labelled,
        gold=np.zeros(LABELLED, np.int64),
        queued=np.empty(0, np.int64),
    )
    began = time.monotonic()
    information(pool, graph)
    lap("values")
    picked = len(pick_value(Situation(pool=pool, graph=graph, generator=generator), BATCH).rows)
    lap(f"batch of {BATCH}")
    counted = sum(value for name, value in seconds.items() if "not counted" not in name)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    return {
        "seconds": {**seconds, "all": round(counted, 1)},
        "picked": picked,
        "index": found.kind,
        "recall_at_10": round(recall, 4),
        "peak_gib": round(peak, 2),
    }


def _vectors(count: int, generator: np.random.Generator) -> np.ndarray:
    centres = generator.standard_normal((CENTRES, DIMENSION)).astype(np.float32)
    vectors = np.empty((count, DIMENSION), np.float32)
    for start in range(0, count, 50_000):
        part = vectors[start : start + 50_000]
        part[:] = centres[generator.integers(0, CENTRES, len(part))]
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
