"""Rows of the queue as the stages that write them see them: read by state, written back in one commit.

A row goes planned -> sent -> confirmed -> answered. `sent` means that nobody knows yet: the service has to be asked
before anything is sent, because it has no key of our own, and a task stored twice would be labelled twice.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from active.annotation.task_content import Content
from warehouse import Lake, Reader, SettingsError, Upsert
from warehouse.commits.stage import Write
from warehouse.schema.answer_views import sent_hash
from warehouse.text import quote

Row = dict[str, Any]

_QUEUE = """
    SELECT q.* EXCLUDE (run_id, committed_at) FROM queue q
    WHERE project = ? AND state IN ({states}) ORDER BY cycle, rank
"""

_ANSWERED = """
    SELECT a.item_id, row_number() OVER (PARTITION BY a.item_id ORDER BY a.task_id)
           + (SELECT coalesce(max(round), 0) FROM asked_before b WHERE b.item_id = a.item_id AND b.project = a.project),
           a.task_id
    FROM (
        SELECT DISTINCT item_id, project, task_id FROM current_annotations
        WHERE project = ? AND action <> 'deleted' AND item_id IN (SELECT unnest(?::VARCHAR[]))
    ) a
    WHERE NOT EXISTS (
        FROM asked_before b WHERE b.item_id = a.item_id AND b.project = a.project AND b.task_id = a.task_id
    )
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueConfig:
    """Of one annotation project.

    Attributes:
        project: its name, in the queue and in the service.
        classes: class names; the position is the class_id.
        chunk: tasks per call of the service.
        content: what a task shows of its item.
        annotators_per_task: people who have to answer or skip a task before it counts as answered.
        multi_label: an item may have several classes or none.
        suggest: tasks show what the end model and the functions say; those of the fair sample never do.
    """

    project: str
    classes: tuple[str, ...]
    chunk: int = 500
    content: Content = field(default_factory=Content)
    annotators_per_task: int = 1
    multi_label: bool = False
    suggest: bool = True

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise SettingsError(f"A chunk holds at least 1 task, found {self.chunk}.")
        if self.annotators_per_task < 1:
            raise SettingsError(f"A task needs at least 1 annotator, found {self.annotators_per_task}.")


def queue_rows(reader: Reader, config: QueueConfig, *states: str) -> list[Row]:
    """The project's rows in these states, by cycle and rank."""
    marks = ", ".join("?" for _ in states)
    return reader.arrow(_QUEUE.format(states=marks), [config.project, *states]).to_pylist()


def former_tasks(reader: Reader, config: QueueConfig) -> Mapping[str, Sequence[str]]:
    """Tasks of earlier rounds by item, of items that people were asked about again: none of them is the row's task."""
    found: dict[str, list[str]] = defaultdict(list)
    for item_id, task_id in reader.rows(
        "SELECT item_id, task_id FROM asked_before WHERE project = ? ORDER BY round", [config.project]
    ):
        found[item_id].append(task_id)
    return found


def sent_hashes(reader: Reader, config: QueueConfig, item_ids: Sequence[str]) -> dict[str, str]:
    """`content_hash` of these items' rows if their tasks were sent now; items that do not exist are left out."""
    keys = quote(json.dumps(config.content.keys))
    sql = f"SELECT i.item_id, {sent_hash(keys)} FROM items i WHERE i.item_id IN (SELECT unnest(?))"
    return dict(reader.rows(sql, [list(item_ids)]))


def commit_states(
    lake: Lake,
    config: QueueConfig,
    step: str,
    rows: Sequence[Row],
    *,
    also: Callable[[Reader], Sequence[Write]] | None = None,
) -> None:
    """Write changed rows in one commit of the push stage, and beside them what `also` finds."""
    params = {"project": config.project, "step": step, "items": [row["item_id"] for row in rows]}
    with lake.stage("push", version=1, inputs=("queue",), params=params) as stage:
        writes: list[Write] = [Upsert("queue", pa.Table.from_pylist(list(rows))), *(also(stage) if also else ())]
        stage.commit(writes, rows_read=len(rows), detail={"step": step})


def commit_sent(lake: Lake, config: QueueConfig, rows: Sequence[Row], hashes: Mapping[str, str]) -> list[Row]:
    """Mark rows as sent with the hash of what their tasks will show, and return them.

    Where that is another one than before, answers that are there already stay about what was shown before.
    """
    sent = [{**row, "state": "sent", "content_hash": hashes.get(row["item_id"], row["content_hash"])} for row in rows]
    before = {
        row["item_id"]: row["content_hash"]
        for row, now in zip(rows, sent, strict=True)
        if row["content_hash"] != now["content_hash"]
    }
    commit_states(lake, config, "sent", sent, also=lambda reader: _answered_before(reader, config, before))
    return sent


def _answered_before(reader: Reader, config: QueueConfig, hashes: Mapping[str, str]) -> list[Write]:
    """Earlier tasks for `asked_before`: those with answers of items whose tasks showed what has these hashes."""
    if not hashes:
        return []
    found = reader.rows(_ANSWERED, [config.project, list(hashes)])
    rows = [
        {
            "item_id": item_id,
            "project": config.project,
            "round": round,
            "task_id": task_id,
            "content_hash": hashes[item_id],
            "why": "edited",
        }
        for item_id, round, task_id in found
    ]
    return [Upsert("asked_before", pa.Table.from_pylist(rows))]
