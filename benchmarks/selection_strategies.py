"""Strategies as the benchmark runs them: Siftline's in this process, those of other libraries in theirs.

Both sides get the same vectors, batches, end model and seeds, because both run `benchmarks.selection_loop`.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from active.pool.graph import PoolGraph
from active.pool.pool import Pool
from active.strategies import STRATEGIES, Situation
from benchmarks.selection_data import ROOT, TextSet
from benchmarks.selection_loop import Floats, Rows, State, run

NEIGHBORS = 20
PEERS = {
    ".venv-peers-selection": ("small-text==1.4.1", "scikit-activeml==1.0.1", "cleanlab==2.9.0"),
    ".venv-peers-pydvl": ("pyDVL==0.10.0",),
}
"""pyDVL needs NumPy 1, scikit-activeml NumPy 2, so there are two environments."""
PEER_STRATEGIES = (
    "small-text breaking-ties",
    "small-text least-confidence",
    "small-text greedy-coreset",
    "small-text lightweight-coreset",
    "small-text contrastive",
    "small-text k-means",
    "skactiveml margin",
    "skactiveml badge",
    "skactiveml typiclust",
    "skactiveml probcover",
    "skactiveml falcun",
)
SOURCES = (
    "active/strategies",
    "active/pool",
    *(f"active/value/{name}.py" for name in ("information_gain", "shapley", "with_weak_labels", "stage")),
    *(f"weak_labels/classifiers/{name}.py" for name in ("linear", "feature_map", "gold_update", "inputs")),
    *(f"benchmarks/selection_{name}.py" for name in ("data", "loop", "peers", "end_model")),
)
"""What decides a curve; the rest of `active` may change without voiding the runs that are kept."""


def curve(data: TextSet, strategy: str, seed: int) -> dict[int, float]:
    """Accuracy by labels of one run of one of our strategies."""
    graphs: dict[int, PoolGraph] = {}

    def choose(state: State, batch: int) -> Rows:
        graph = graphs.setdefault(0, graph_of(state.vectors)) if not graphs else graphs[0]
        pool = pool_of(state)
        pick = STRATEGIES[strategy](Situation(pool=pool, graph=graph, generator=state.generator), batch).rows
        return filled_up(pick, pool, state, batch)

    with threadpool_limits(1):
        return run(
            data.vectors,
            data.labels,
            data.test_vectors,
            data.test_labels,
            classes=len(data.classes),
            choose=choose,
            seed=seed,
        )


def filled_up(pick: Rows, pool: Pool, state: State, batch: int) -> Rows:
    """A whole batch, so that budgets stay comparable: drawn where nothing but near-duplicates was left to pick."""
    left = np.setdiff1d(pool.open, pick)
    return np.concatenate([pick, state.generator.permutation(left)[: batch - len(pick)]])


def pool_of(state: State) -> Pool:
    """The pool without functions: what is known is what the end model learned from the labels so far."""
    count = len(state.vectors)
    nothing = np.zeros((count, state.classes))
    order = np.argsort(state.labelled)
    return Pool(
        item_ids=[str(row) for row in range(count)],
        content_hashes=[""] * count,
        class_names=[str(number) for number in range(state.classes)],
        votes=nothing,
        weak=nothing,
        predicted=state.predicted.astype(np.float64),
        has_prediction=np.full(count, len(state.labelled) > 0),
        labelled=state.labelled[order],
        gold=state.gold[order],
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
    for source in sources:
        path = ROOT / source
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def peers_python(folder: str) -> Path:
    """The interpreter of an environment of peers, which is made when it is missing (minutes, needs the network).

    Raises:
        subprocess.CalledProcessError: pip could not install them.
    """
    python = ROOT / folder / "bin" / "python"
    done = ROOT / folder / "done.json"
    if not done.is_file() or json.loads(done.read_text("utf-8")) != list(PEERS[folder]):
        venv.create(ROOT / folder, with_pip=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PEERS[folder]]
        subprocess.run(command, check=True, stdout=sys.stderr)
        done.write_text(json.dumps(list(PEERS[folder])), "utf-8")
    return python


def peer_lines(task: str, data: TextSet, *arguments: str) -> Iterator[dict[str, object]]:
    """What a child process in the peers' environment prints, line by line; a peer that fails says so in `error`.

    Args:
        task: "curve" or "noise", see `benchmarks.selection_peers`.
        data: the set.
        arguments: of the task.

    Raises:
        RuntimeError: the child itself ended with an error.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "set.npz"
        np.savez(
            file,
            vectors=data.vectors,
            labels=data.labels,
            test_vectors=data.test_vectors,
            test_labels=data.test_labels,
            classes=np.array(len(data.classes)),
        )
        python = peers_python(".venv-peers-pydvl" if "pydvl" in arguments else ".venv-peers-selection")
        command = [str(python), "-m", "benchmarks.selection_peers", task, str(file), *arguments]
        limits = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
        environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": folder, **limits}
        with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for line in child.stdout:
                if line.startswith("{"):
                    yield json.loads(line)
        if child.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {child.returncode}; its last words are above.")
