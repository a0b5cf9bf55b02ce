"""Planned tasks for tests of the queue: items and rows as `ingest` and `select` write them."""

from collections.abc import Sequence

import pyarrow as pa

from warehouse import Lake, Upsert


def plan(
    lake: Lake, project: str, values: Sequence[float], *, cycle: int = 1, name: str = "news", reason: str = "unsure"
) -> list[str]:
    """Store items and plan tasks for them, as `select` does; returns the ids in the order of the values."""
    ids = [f"{name}-{number}" for number in range(len(values))]
    items = [
        {
            "item_id": item_id,
            "content": f"Text of {item_id}",
            "content_hash": item_id,
            "modality": "text",
            "source": "test",
            "position": number,
            "metadata": "{}",
            "split": "train",
        }
        for number, item_id in enumerate(ids)
    ]
    queue = [
        {
            "item_id": item_id,
            "project": project,
            "state": "planned",
            "cycle": cycle,
            "rank": number + 1,
            "value": value,
            "reason": reason,
            "prediction": number % 4,
            "confidence": 0.5,
            "content_hash": item_id,
            "task_id": "",
        }
        for number, (item_id, value) in enumerate(zip(ids, values, strict=True))
    ]
    for table, rows in (("items", items), ("queue", queue)):
        with lake.stage(f"plan {table} {name}", version=1, inputs=(), params={}) as stage:
            stage.commit([Upsert(table, pa.Table.from_pylist(rows))], rows_read=len(rows))
    return ids


def states(lake: Lake) -> dict[str, int]:
    """Rows of the queue by state."""
    with lake.read() as reader:
        return dict(reader.rows("SELECT state, count(*) FROM queue GROUP BY state"))


def values_of(lake: Lake) -> dict[str, float]:
    """Value of each queued item."""
    with lake.read() as reader:
        return dict(reader.rows("SELECT item_id, value FROM queue"))
