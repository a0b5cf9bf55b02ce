"""Items, files of functions and vote runs, for the tests of labeling functions."""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from textwrap import dedent

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from warehouse import Lake, StageResult, Upsert, matrix_to_list_array
from weak_labels.applying.stage import VoteConfig, vote
from weak_labels.functions.types import ItemBatch, LabelingFunction

CLASSES = ("sports", "politics", "science")
ENCODER = "letters"


def config(**changes: object) -> VoteConfig:
    """Settings whose batches have as many items as a test says, however small these are."""
    return VoteConfig(**({"classes": CLASSES, "encoder_id": ENCODER, "pattern_bytes": 0} | changes))


def batch(texts: Sequence[str], metadata: Sequence[str] | None = None, **further: object) -> ItemBatch:
    return ItemBatch(
        item_ids=pa.array([f"i{n}" for n in range(len(texts))], pa.string()),
        texts=pa.array(list(texts), pa.string()),
        metadata=pa.array(list(metadata or ["{}"] * len(texts)), pa.string()),
        classes=CLASSES,
        **further,
    )


def write_functions(folder: Path, source: str, name: str = "labeling_functions.py") -> Path:
    path = folder / name
    path.write_text(dedent(source), encoding="utf-8")
    return path


def add_items(lake: Lake, contents: dict[str, str], metadata: str = "{}", split: str = "train") -> None:
    n = len(contents)
    rows = pa.table(
        {
            "item_id": list(contents),
            "content": list(contents.values()),
            "content_hash": [sha256(text.encode()).hexdigest() for text in contents.values()],
            "modality": ["text"] * n,
            "source": ["test"] * n,
            "position": pa.array(range(1, n + 1), pa.int64()),
            "metadata": [metadata] * n,
            "split": [split] * n,
        }
    )
    number = lake.snapshot()
    with lake.stage("ingest", version=1, inputs=(), params={"snapshot": number}) as stage:
        stage.commit([Upsert("items", rows)])


def encode(texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """A tiny real encoder: unit vectors of letter counts."""
    counts = np.array([[text.lower().count(letter) for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts])
    return (counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1)).astype(np.float32)


def add_vectors(lake: Lake, encoder_id: str = ENCODER) -> None:
    with lake.stage("embed", version=1, inputs=("items",), params={"encoder": encoder_id}) as stage:
        items = stage.arrow("SELECT item_id, content, content_hash FROM items ORDER BY item_id")
        n = items.num_rows
        rows = pa.table(
            {
                "item_id": items.column("item_id"),
                "encoder_id": [encoder_id] * n,
                "content_hash": items.column("content_hash"),
                "vector": matrix_to_list_array(encode(items.column("content").to_pylist())),
                "tokens": pa.array([1] * n, pa.int32()),
                "truncated": [False] * n,
                "active_frac": pa.array([1.0] * n, pa.float32()),
                "route": [""] * n,
            }
        )
        stage.commit([Upsert("vectors", rows)])


def run_vote(lake: Lake, functions: Sequence[LabelingFunction], **changes: object) -> StageResult:
    return vote(lake, functions, config(**changes), encode=encode)


def votes(lake: Lake) -> dict[tuple[str, str], int]:
    """Votes by item and function; -1 where a function was applied and abstained."""
    with lake.read() as reader:
        cast = {(i, f): v for i, f, v in reader.rows("SELECT item_id, lf_name, vote FROM lf_votes")}
        applied = {(i, f): v for i, f, v in reader.rows("SELECT item_id, lf_name, vote FROM lf_applied")}
    assert cast == {key: vote for key, vote in applied.items() if vote >= 0}
    return applied


def faults(lake: Lake) -> dict[tuple[str, str], str]:
    with lake.read() as reader:
        return {(i, f): x for i, f, x in reader.rows("SELECT item_id, lf_name, fault FROM lf_faults")}
