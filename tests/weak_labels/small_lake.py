"""A small project in a real lake: three clouds of vectors, votes that are mostly right, people who answer.

Rows are put with a stage of their own, as the stages before the label model would.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.lakes import copied, own_folder
from warehouse import Append, Delete, Lake, Upsert, Write, matrix_to_list_array
from weak_labels.analysis.evaluate import EvaluateConfig
from weak_labels.classifiers.linear import EndModelConfig, Vectors
from weak_labels.label_models import LabelModelConfig

CLASSES = ("earn", "ship", "grain")
ENCODER = "encoder-1"


@dataclass
class SmallLake:
    """What was put into the lake, and how to put more."""

    lake: Lake
    folder: Path
    truth: dict[str, int] = field(default_factory=dict[str, int])
    puts: int = 0

    @property
    def label_config(self) -> LabelModelConfig:
        return LabelModelConfig(kind="snorkel", classes=CLASSES)

    @property
    def end_config(self) -> EndModelConfig:
        return EndModelConfig(classes=CLASSES, encoder_id=ENCODER)

    def evaluate_config(self, *, rival_seeds: int = 2) -> EvaluateConfig:
        return EvaluateConfig(gold=self.folder / "gold.parquet", classes=CLASSES, rival_seeds=rival_seeds)

    def put(self, *writes: Write) -> None:
        self.puts += 1
        with self.lake.stage("put", version=1, inputs=(), params={"put": self.puts}) as stage:
            assert stage.commit(writes).committed

    def put_items(self, item_ids: Sequence[str], *, split: str, texts: Sequence[str] | None = None) -> None:
        n = len(item_ids)
        texts = texts or item_ids
        rows = {
            "item_id": list(item_ids),
            "content": list(texts),
            "content_hash": [f"hash of {text}" for text in texts],
            "modality": ["text"] * n,
            "source": ["small"] * n,
            "position": list(range(1, n + 1)),
            "metadata": ["{}"] * n,
            "split": [split] * n,
        }
        self.put(Upsert("items", pa.table(rows)))

    def put_vectors(self, item_ids: Sequence[str], vectors: Vectors, *, texts: Sequence[str] | None = None) -> None:
        n = len(item_ids)
        rows = {
            "item_id": list(item_ids),
            "encoder_id": [ENCODER] * n,
            "content_hash": [f"hash of {text}" for text in texts or item_ids],
            "vector": matrix_to_list_array(vectors.astype(np.float32)),
            "tokens": [1] * n,
            "truncated": [False] * n,
            "active_frac": [1.0] * n,
            "route": [""] * n,
        }
        self.put(Upsert("vectors", pa.table(rows)))

    def put_votes(self, votes: Mapping[str, Mapping[str, int]]) -> None:
        """Votes by function, then by item; a missing one is a fault."""
        rows = [
            {"item_id": item_id, "lf_name": name, "lf_version": "1", "input_hash": "1", "vote": vote}
            for name, by_item in votes.items()
            for item_id, vote in by_item.items()
        ]
        self.put(Upsert("lf_votes", pa.Table.from_pylist(rows)))

    def delete_votes(self, name: str) -> None:
        self.put(Delete("lf_votes", pa.table({"lf_name": [name]})))

    def answer(self, class_of: Mapping[str, int], *, cycle: int = 1, action: str = "labelled") -> None:
        """People answer items that were queued in the order given."""
        ids = list(class_of)
        n = len(ids)
        at = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=self.puts)] * n
        annotations: dict[str, Any] = {
            "annotation_id": [f"a-{item_id}" for item_id in ids],
            "item_id": ids,
            "project": ["p"] * n,
            "task_id": ids,
            "annotator": ["anna"] * n,
            "action": [action] * n,
            "class_id": list(class_of.values()),
            "simulated": [False] * n,
            "created_at": at,
            "updated_at": at,
            "seconds": [3.0] * n,
        }
        queue: dict[str, Any] = {
            "item_id": ids,
            "project": ["p"] * n,
            "state": ["answered"] * n,
            "cycle": [cycle] * n,
            "rank": list(range(1, n + 1)),
            "value": [0.5] * n,
            "reason": [""] * n,
            "prediction": [-1] * n,
            "confidence": [0.0] * n,
            "content_hash": [f"hash of {item_id}" for item_id in ids],
            "task_id": ids,
        }
        self.put(Append("annotations", pa.table(annotations)), Upsert("queue", pa.table(queue)))

    def write_gold(self, labels: Mapping[str, str] | None = None) -> None:
        labels = labels or {item_id: CLASSES[class_id] for item_id, class_id in self.truth.items()}
        pq.write_table(pa.table({"id": list(labels), "label": list(labels.values())}), self.folder / "gold.parquet")

    def train_ids(self, *, of_class: int | None = None) -> list[str]:
        return [i for i, c in self.truth.items() if i.startswith("train") and of_class in (None, c)]

    def test_ids(self) -> list[str]:
        return [item_id for item_id in self.truth if item_id.startswith("test")]


def clouds(n: int, seed: int) -> tuple[Vectors, "np.ndarray[tuple[int], np.dtype[np.int64]]"]:
    """Unit vectors [N, 8] in three overlapping clouds, and their classes [N]; half of all are of class 0."""
    generator = np.random.default_rng(seed)
    classes = generator.choice(3, n, p=[0.5, 0.3, 0.2])
    centres = np.random.default_rng(7).standard_normal((3, 8))
    vectors = centres[classes] + 0.9 * generator.standard_normal((n, 8))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), classes


def noisy_votes(class_of: Mapping[str, int], *, functions: int, seed: int) -> dict[str, dict[str, int]]:
    """Each function votes on 60% of the items and is right in 80% of these."""
    generator = np.random.default_rng(seed)

    def cast(true: int) -> int:
        if generator.random() > 0.6:
            return -1
        return true if generator.random() < 0.8 else int(generator.integers(3))

    return {f"lf_{number}": {item_id: cast(true) for item_id, true in class_of.items()} for number in range(functions)}


def build(lake: Lake, folder: Path, *, train: int = 120, test: int = 60) -> SmallLake:
    """Items, vectors and votes of five functions; nothing is answered yet."""
    small = SmallLake(lake, folder)
    small.put(Upsert("classes", pa.table({"class_id": list(range(3)), "name": list(CLASSES)})))
    for split, n, seed in (("train", train, 1), ("test", test, 2)):
        vectors, classes = clouds(n, seed)
        ids = [f"{split}-{number:03d}" for number in range(n)]
        small.truth |= dict(zip(ids, classes.tolist(), strict=True))
        small.put_items(ids, split=split)
        small.put_vectors(ids, vectors)
    small.put_votes(noisy_votes(small.truth, functions=5, seed=3))
    small.write_gold()
    return small


@contextmanager
def prepared(prepare: Callable[[SmallLake], None], folder: Path) -> Generator[SmallLake]:
    """A small project after `prepare`, in a folder in which there is no warehouse yet; a copy of what is made once."""
    made = _prepared(prepare)
    with copied(made.folder / "lake", folder / "lake") as lake:
        small = SmallLake(lake, folder, dict(made.truth), made.puts)
        small.write_gold()
        yield small


@cache
def _prepared(prepare: Callable[[SmallLake], None]) -> SmallLake:
    folder = own_folder(prepare)
    with Lake(folder / "lake") as lake:
        small = build(lake, folder)
        prepare(small)
    return small
