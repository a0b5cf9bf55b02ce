"""Strategies as the benchmark runs them: Siftline's in this process, those of other libraries in theirs.

Both sides get the same vectors, batches, end model and seeds, because both run `benchmarks.selection.loop`.
"""

import hashlib
import json
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from active.pool.graph import PoolGraph
from active.pool.pool import Pool
from active.strategies import STRATEGIES, Situation
from benchmarks.data.sets import TextSet
from benchmarks.harness import ROOT, Figures, peer_python
from benchmarks.selection.loop import Floats, Rows, State, run

NEIGHBORS = 20
PEER_STRATEGIES = (
    *(f"small-text {n}" for n in ("breaking-ties", "least-confidence", "greedy-coreset", "lightweight-coreset")),
    *("small-text contrastive", "small-text k-means"),
    *(f"skactiveml {name}" for name in ("margin", "badge", "typiclust", "probcover", "falcun")),
)
SOURCES = (
    *("active/strategies", "active/pool", "active/value", "weak_labels/classifiers", "benchmarks/data/sets.py"),
    *("benchmarks/selection/loop.py", "benchmarks/selection/measures.py", "benchmarks/peers/selection.py"),
)
"""What decides a curve; other code may change without voiding the runs that are kept."""


def curve(data: TextSet, strategy: str, seed: int) -> dict[int, float]:
    """Accuracy by labels of one run of one of our strategies."""
    graphs: list[PoolGraph] = []

    def choose(state: State, batch: int) -> Rows:
        graphs[:] = graphs or [graph_of(state.vectors)]
        pool = pool_at(state)
        pick = STRATEGIES[strategy](Situation(pool=pool, graph=graphs[0], generator=state.generator), batch).rows
        # Where nothing but near-duplicates is left to pick, the batch is drawn full, so that budgets stay comparable.
        left = np.setdiff1d(pool.open, pick)
        return np.concatenate([pick, state.generator.permutation(left)[: batch - len(pick)]])

    sides = data.vectors, data.labels, data.test_vectors, data.test_labels
    with threadpool_limits(1):
        return run(*sides, classes=len(data.classes), choose=choose, seed=seed)


def pool_at(state: State) -> Pool:
    """The pool without functions: what is known is what the end model learned from the labels so far."""
    return make_pool(state.predicted, state.labelled, state.gold, known=len(state.labelled) > 0)


def make_pool(
    predicted: np.ndarray,
    labelled: Rows,
    gold: Rows,
    *,
    known: bool,
    votes: np.ndarray | None = None,
    weak: np.ndarray | None = None,
) -> Pool:
    """A pool of N items.

    Args:
        predicted: [N, C] of the end model.
        labelled: [T] places, in any order.
        gold: [T] their labels.
        known: the predictions mean something.
        votes: [N, C] counts, where there are functions.
        weak: [N, C] probabilities of the label model, where there are functions.
    """
    order, nothing = np.argsort(labelled), np.zeros(predicted.shape)
    return Pool(
        item_ids=[str(row) for row in range(len(predicted))],
        content_hashes=[""] * len(predicted),
        class_names=[str(number) for number in range(predicted.shape[1])],
        votes=nothing if votes is None else votes,
        weak=nothing if weak is None else weak,
        predicted=predicted.astype(np.float64),
        has_prediction=np.full(len(predicted), known),
        labelled=labelled[order],
        gold=gold[order],
        queued=np.empty(0, np.int64),
    )


def graph_of(vectors: Floats) -> PoolGraph:
    """The neighbour graph by brute force."""
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -np.inf)
    rows = np.argsort(-similarity, axis=1, kind="stable")[:, :NEIGHBORS]
    return PoolGraph.build(vectors, np.take_along_axis(similarity, rows, axis=1), rows)


def fingerprint(sources: Sequence[str] = SOURCES) -> str:
    """Changes with the code that decides a figure, so that a resumed benchmark never mixes two versions."""
    digest = hashlib.sha256()
    for path in (ROOT / source for source in sources):
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def peer_lines(task: str, data: TextSet, *arguments: str) -> Iterator[Figures]:
    """What `benchmarks.peers.selection` prints in the peers' environment, line by line.

    Raises:
        RuntimeError: it ended with an error.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "set.npz"
        sides = {name: getattr(data, name) for name in ("vectors", "labels", "test_vectors", "test_labels")}
        np.savez(file, **sides, classes=np.array(len(data.classes)))
        python = peer_python("pydvl" if "pydvl" in arguments else "selection")
        command = [str(python), "-m", "benchmarks.peers.selection", task, str(file), *arguments]
        limits = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
        environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": folder, **limits}
        with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            yield from (json.loads(line) for line in child.stdout if line.startswith("{"))
        if child.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {child.returncode}; its last words are above.")
