"""A small warehouse with vectors in clusters, votes, weak labels and predictions, for tests of value and selection."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.neighbors.faiss_index import IndexConfig, VectorIndex, open_index
from warehouse import Append, Lake, Upsert, matrix_to_list_array

CLASSES = ("acq", "earn", "ship")
ENCODER = "e"


@dataclass(frozen=True, kw_only=True, slots=True)
class SmallPool:
    """An open warehouse and where its index is."""

    lake: Lake
    folder: Path
    ids: Sequence[str]

    def index(self) -> VectorIndex:
        """The index over the vectors."""
        return open_index(self.lake, IndexConfig(folder=self.folder), ENCODER)


def unit(vectors: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Rows of length one."""
    rows = np.asarray(vectors, np.float64)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def clusters(n: int, seed: int = 0) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """`n` unit vectors around one centre per class, and their classes."""
    generator = np.random.default_rng(seed)
    classes = np.arange(n) % len(CLASSES)
    return unit(np.eye(16)[classes] + 0.35 * generator.standard_normal((n, 16))), classes


def sets(n: int, seed: int = 0) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """`n` unit vectors around the sum of their classes' centres, and who has which class [n, C]; some have none."""
    generator = np.random.default_rng(seed)
    has = generator.random((n, len(CLASSES))) < 0.3
    none = ~has.any(axis=1)
    centres = np.concatenate([has, none[:, None]], axis=1) @ np.eye(len(CLASSES) + 1, 16)
    return unit(centres + 0.25 * generator.standard_normal((n, 16))), has


def small_pool(
    lake: Lake,
    folder: Path,
    vectors: npt.NDArray[np.float32],
    predicted: npt.NDArray[np.float64] | None = None,
    *,
    test_rows: Sequence[int] = (),
    votes: Mapping[int, Sequence[int]] | None = None,
    weak: npt.NDArray[np.float64] | None = None,
    metadata: Mapping[int, str] | None = None,
    texts: Mapping[int, str] | None = None,
    multi_label: bool = False,
) -> SmallPool:
    """Write items and what is known about them in one commit."""
    n = len(vectors)
    ids = [f"i{row:05d}" for row in range(n)]
    hashes = [f"{row:064x}" for row in range(n)]
    classes = pa.table({"class_id": pa.array(range(len(CLASSES)), pa.int32()), "name": list(CLASSES)})
    if multi_label:
        classes = classes.append_column("multi_label", pa.array([True] * len(CLASSES)))
    writes: list[Append | Upsert] = [
        Append("classes", classes),
        Append(
            "items",
            pa.table(
                {
                    "item_id": ids,
                    "content": [(texts or {}).get(row, f"text {row}") for row in range(n)],
                    "content_hash": hashes,
                    "modality": ["text"] * n,
                    "source": ["s"] * n,
                    "position": list(range(1, n + 1)),
                    "metadata": [(metadata or {}).get(row, "{}") for row in range(n)],
                    "split": ["test" if row in set(test_rows) else "train" for row in range(n)],
                }
            ),
        ),
        Append(
            "vectors",
            pa.table(
                {
                    "item_id": ids,
                    "encoder_id": [ENCODER] * n,
                    "content_hash": hashes,
                    "vector": matrix_to_list_array(vectors),
                    "tokens": [2] * n,
                    "truncated": [False] * n,
                    "active_frac": [1.0] * n,
                    "route": [""] * n,
                }
            ),
        ),
    ]
    models: list[tuple[str, str]] = []
    if predicted is not None:
        models.append(("m1", "end_model"))
        writes.append(Upsert("predictions", predictions("m1", ids, predicted)))
    if weak is not None:
        models.append(("w1", "label_model"))
        table = {"item_id": ids, "label_model_id": ["w1"] * n, "probs": matrix_to_list_array(weak.astype(np.float32))}
        writes.append(Append("weak_labels", pa.table({**table, "votes": [1] * n})))
    if votes:
        cast = [(ids[row], f"lf{k}", vote) for row, given in votes.items() for k, vote in enumerate(given)]
        names, functions, classes = zip(*cast, strict=True)
        empty = [""] * len(cast)
        table = {"item_id": names, "lf_name": functions, "lf_version": empty, "input_hash": empty, "vote": classes}
        writes.append(Append("lf_votes", pa.table(table)))
    if models:
        writes.append(Append("models", pa.table(model_rows(models))))
    with lake.stage("fixture", version=1, inputs=()) as stage:
        stage.commit(writes)
    return SmallPool(lake=lake, folder=folder, ids=ids)


def predictions(model: str, ids: Sequence[str], probs: npt.NDArray[np.float64]) -> pa.Table:
    """Rows of `predictions`."""
    return pa.table(
        {
            "item_id": list(ids),
            "end_model_id": [model] * len(ids),
            "probs": matrix_to_list_array(probs.astype(np.float32)),
            "class_id": probs.argmax(axis=1).astype(np.int32),
            "confidence": probs.max(axis=1).astype(np.float32),
        }
    )


def model_rows(models: Sequence[tuple[str, str]]) -> dict[str, list[object]]:
    """Columns of `models`, in sequence."""
    return {
        "model_id": [name for name, _ in models],
        "stage": [stage for _, stage in models],
        "kind": ["k"] * len(models),
        "gold_labels": [0] * len(models),
        "items": [1] * len(models),
        "sequence": list(range(1, len(models) + 1)),
        "detail": ["{}"] * len(models),
    }


def label(
    pool: SmallPool,
    answers: Mapping[str, int] | Mapping[str, list[int]],
    project: str = "p",
    seconds: Mapping[str, float] | None = None,
) -> None:
    """Let people label items: rows of `annotations`, and `answered` in the queue where the item is there."""
    sets = [said if isinstance(said, list) else None for said in answers.values()]
    ids = list(answers)
    at = pa.array([0] * len(ids), pa.timestamp("us", "UTC"))
    rows = pa.table(
        {
            "annotation_id": [f"a-{item}" for item in ids],
            "item_id": ids,
            "project": [project] * len(ids),
            "task_id": [""] * len(ids),
            "annotator": ["ann"] * len(ids),
            "action": ["labelled"] * len(ids),
            "class_id": pa.array([-1 if isinstance(said, list) else said for said in answers.values()], pa.int32()),
            "class_ids": pa.array(sets, pa.list_(pa.int32())),
            "simulated": [False] * len(ids),
            "created_at": at,
            "updated_at": at,
            "seconds": [(seconds or {}).get(item, 1.0) for item in ids],
        }
    )
    with pool.lake.stage("fixture", version=1, inputs=(), params={"answers": dict(answers)}) as stage:
        queue = [
            {**row, "state": "answered"}
            for row in stage.arrow("SELECT * EXCLUDE (run_id, committed_at) FROM queue").to_pylist()
            if row["item_id"] in answers
        ]
        writes: list[Append | Upsert] = [Append("annotations", rows)]
        stage.commit([*writes, Upsert("queue", pa.Table.from_pylist(queue))] if queue else writes)
