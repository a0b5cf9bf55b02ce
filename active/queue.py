"""Collect: every answer comes back once, with edits, skips and deletions as history."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from active.outbox import QueueConfig, Row, queue_rows, queue_table
from active.service import SIMULATED, AnnotationService, Answer
from warehouse import Append, Lake, Reader, StageResult, Upsert


def collect(lake: Lake, service: AnnotationService, config: QueueConfig) -> StageResult:
    """Append what annotators said since the last collect; edits, skips and deletions are kept as history.

    An answer that disappeared counts as deleted only while the service still holds its task.

    Answers for unknown items or with unknown labels are left out and counted in the result's detail; a later collect
    takes them once the item or the class is there.
    """
    answers = _in_force(service.pull())
    with lake.read() as reader:
        known_items = {i for (i,) in reader.rows("SELECT item_id FROM items")} if answers else set[str]()
        known = {
            row[0]: row
            for row in reader.rows(
                """
                SELECT annotation_id, item_id, task_id, annotator, action, class_id, created_at
                FROM current_annotations WHERE project = ?
                """,
                [config.project],
            )
        }
    class_ids = {name: number for number, name in enumerate(config.classes)}
    unknown_items = {a.item_id for a in answers if a.item_id not in known_items}
    unknown_labels = {a.label for a in answers if a.label is not None and a.label not in class_ids}
    new: list[Row] = []
    for answer in answers:
        if answer.item_id in unknown_items or answer.label in unknown_labels:
            continue
        class_id = -1 if answer.label is None else class_ids[answer.label]
        before = known.get(answer.annotation_id)
        if before is None or (before[4], before[5]) != (answer.action, class_id):
            new.append(_annotation(config, answer, class_id))
    seen = {answer.annotation_id for answer in answers}
    detail: dict[str, Any] = {}
    missing = [row for key, row in known.items() if key not in seen and row[4] != "deleted"]
    if missing and not service.problems:
        # An answer was deleted only where its task is still there without it. A task that is gone says nothing: the
        # project may have moved to another service, or its folder or server may have been emptied.
        held = service.find([row[1] for row in missing])
        deleted = [row for row in missing if row[2] in held.get(row[1], ())]
        new += [_deletion(config, row) for row in deleted]
        if len(deleted) < len(missing):
            detail["answers kept whose task is gone"] = len(missing) - len(deleted)
    if unknown_items:
        detail["answers for unknown items"] = len(unknown_items)
    if unknown_labels:
        detail["unknown labels"] = ", ".join(sorted(str(label) for label in unknown_labels))
    detail.update({f"left out: {name}": why for name, why in service.problems.items()})
    return _commit_answers(lake, config, new, detail)


def _in_force(answers: Iterable[Answer]) -> list[Answer]:
    """One answer for each annotation id, the latest: two exports of one project repeat their annotations."""
    latest: dict[str, Answer] = {}
    for answer in answers:
        before = latest.get(answer.annotation_id)
        if before is None or before.updated_at <= answer.updated_at:
            latest[answer.annotation_id] = answer
    return list(latest.values())


def _commit_answers(lake: Lake, config: QueueConfig, new: list[Row], detail: Mapping[str, Any]) -> StageResult:
    new.sort(key=lambda row: (row["item_id"], row["annotator"], row["action"], row["class_id"]))
    said = [[row["item_id"], row["annotator"], row["action"], row["class_id"]] for row in new]
    with lake.read() as reader:
        states = _states_after(reader, config, new)
    # Neither clock nor ids of the service are part of the token, so an interrupted run gives an undisturbed run's ids.
    # A commit that only mends states may recur with the same annotations, so there the queue tells one from the next.
    inputs = ("annotations",) if new else ("annotations", "queue")
    params = {"project": config.project, "said": said}
    with lake.stage("collect", version=1, inputs=inputs, params=params) as stage:
        if not new and not states:
            return stage.nothing(**detail)
        writes: list[Append | Upsert] = []
        if new:
            writes.append(Append("annotations", queue_table(new)))
        if states:
            writes.append(Upsert("queue", queue_table(states)))
        return stage.commit(writes, rows_read=len(new), detail=detail)


def _states_after(reader: Reader, config: QueueConfig, new: Sequence[Row]) -> list[Row]:
    """Queue rows whose state changes: answered when somebody labelled or skipped, open again when all is deleted."""
    by_item: dict[str, dict[str, str]] = defaultdict(dict)
    for annotation_id, item_id, action in reader.rows(
        "SELECT annotation_id, item_id, action FROM current_annotations WHERE project = ?", [config.project]
    ):
        by_item[item_id][annotation_id] = action
    tasks: dict[str, str] = {}
    for row in new:
        by_item[row["item_id"]][row["annotation_id"]] = row["action"]
        tasks[row["item_id"]] = row["task_id"]
    changed: list[Row] = []
    for row in queue_rows(reader, config, "sent", "confirmed", "answered"):
        actions = by_item.get(row["item_id"], {}).values()
        answered = any(action != "deleted" for action in actions)
        if answered and row["state"] != "answered":
            changed.append({**row, "state": "answered", "task_id": row["task_id"] or tasks.get(row["item_id"], "")})
        elif not answered and row["state"] == "answered":
            changed.append({**row, "state": "confirmed"})
    return changed


def _annotation(config: QueueConfig, answer: Answer, class_id: int) -> Row:
    return {
        "annotation_id": answer.annotation_id,
        "item_id": answer.item_id,
        "project": config.project,
        "task_id": answer.task_id,
        "annotator": answer.annotator,
        "action": answer.action,
        "class_id": class_id,
        "simulated": answer.annotator == SIMULATED,
        "created_at": answer.created_at,
        "updated_at": answer.updated_at,
        "seconds": answer.seconds,
    }


def _deletion(config: QueueConfig, row: tuple[Any, ...]) -> Row:
    annotation_id, item_id, task_id, annotator, _, _, created_at = row
    return {
        "annotation_id": annotation_id,
        "item_id": item_id,
        "project": config.project,
        "task_id": task_id,
        "annotator": annotator,
        "action": "deleted",
        "class_id": -1,
        "simulated": annotator == SIMULATED,
        "created_at": created_at,
        "updated_at": datetime.now(UTC),
        "seconds": 0.0,
    }
