"""The outbox: every selected item reaches the annotation service exactly once, and every answer comes back.

A queue row goes planned -> sent -> confirmed -> answered. `sent` is committed before the service is called and
`confirmed` after it, so whatever dies in between leaves a row that the next push asks the service about before it sends
anything: the service has no key of our own, and a task stored twice would be labelled twice.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from active.cursor import Cursor
from active.service import SIMULATED, AnnotationService, Answer, Task
from warehouse import Append, Lake, Progress, Reader, SettingsError, StageResult, Upsert, silent

Row = dict[str, Any]

_QUEUE = """
    SELECT q.* EXCLUDE (run_id, committed_at) FROM queue q
    WHERE project = ? AND state IN ({states}) ORDER BY cycle, rank
"""


_HISTORY = """
    SELECT annotation_id, item_id, action, annotator, task_id FROM current_annotations
    WHERE project = ? AND item_id IN (SELECT unnest(?::VARCHAR[]))
"""

# Rows with new answers, and rows whose state does not fit the answers that are known, which a killed run leaves.
_DOUBTFUL = """
    SELECT * FROM (
        SELECT q.* EXCLUDE (run_id, committed_at), coalesce(p.people, 0) >= ? AS enough, p.answered_task
        FROM queue q LEFT JOIN (
            SELECT a.item_id, count(DISTINCT a.annotator) AS people, min(a.task_id) AS answered_task
            FROM current_annotations a
            WHERE a.project = ? AND a.action <> 'deleted' AND NOT EXISTS (
                FROM asked_before b WHERE b.item_id = a.item_id AND b.project = a.project AND b.task_id = a.task_id
            )
            GROUP BY a.item_id
        ) p ON p.item_id = q.item_id
        WHERE q.project = ? AND q.state IN ('sent', 'confirmed', 'answered')
    ) WHERE item_id IN (SELECT unnest(?::VARCHAR[])) OR enough <> (state = 'answered')
    ORDER BY cycle, rank
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueConfig:
    """Of one annotation project.

    Attributes:
        project: its name, in the queue and in the service.
        classes: class names; the position is the class_id.
        chunk: tasks per call of the service.
        annotators_per_task: people who have to answer or skip a task before it counts as answered.
    """

    project: str
    classes: tuple[str, ...]
    chunk: int = 500
    annotators_per_task: int = 1

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise SettingsError(f"A chunk holds at least 1 task, found {self.chunk}.")
        if self.annotators_per_task < 1:
            raise SettingsError(f"A task needs at least 1 annotator, found {self.annotators_per_task}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReconcileReport:
    """Differences between the queue and the service, and what was done about each.

    Attributes:
        agreed: rows that agree.
        confirmed: rows that were sent and are in the service after all.
        sent_again: rows that the service did not hold; they were sent again.
        renumbered: rows whose task id differed.
        withdrawn: second tasks of an item that were removed.
        doubled: second tasks that have answers and were left for a person to look at.
    """

    agreed: int = 0
    confirmed: int = 0
    sent_again: int = 0
    renumbered: int = 0
    withdrawn: int = 0
    doubled: Sequence[str] = field(default_factory=list[str])

    def lines(self) -> list[str]:
        """The report in words."""
        lines = [f"{self.agreed} tasks agree with the service"]
        counts = {
            "tasks were in the service and are now confirmed": self.confirmed,
            "tasks were missing in the service and were sent again": self.sent_again,
            "tasks had another number in the service, which is now recorded": self.renumbered,
            "second tasks of an item were withdrawn": self.withdrawn,
        }
        lines += [f"{count} {words}" for words, count in counts.items() if count]
        lines += [f"item {item} has more than one answered task; look at it in the service" for item in self.doubled]
        return lines


def push(lake: Lake, service: AnnotationService, config: QueueConfig, progress: Progress = silent) -> StageResult:
    """Bring every planned row to the service, in descending value.

    Raises:
        ServiceError: the service is away; rows stay planned or sent and the next push goes on.
        ServiceRefused: the service refuses; a person must act.
    """
    with lake.stage("push", version=1, inputs=("queue",), params={"project": config.project}) as stage:
        rows = _rows(stage, config, "planned", "sent")
        if not rows:
            return stage.nothing()
    service.ensure_project(config.classes)
    written = 0
    for start in range(0, len(rows), config.chunk):
        written += _push_chunk(lake, service, config, rows[start : start + config.chunk])
        progress(min(start + config.chunk, len(rows)), len(rows))
    return StageResult(
        stage="push",
        token=stage.token,
        committed=True,
        rows_read=len(rows),
        rows_written={"queue": written},
        detail={"sent": len(rows)},
        seconds=stage.elapsed_s(),
    )


def _push_chunk(lake: Lake, service: AnnotationService, config: QueueConfig, rows: Sequence[Row]) -> int:
    """Mark as sent, ask the service what it has, send the rest, confirm. Returns rows written."""
    written = 0
    planned = [row for row in rows if row["state"] == "planned"]
    if planned:
        written += _commit_states(lake, config, "sent", [{**row, "state": "sent"} for row in planned])
    former = _former(lake, config)
    held = _present(service.find([row["item_id"] for row in rows]), former)
    ids = {item_id: tasks[0] for item_id, tasks in held.items() if tasks}
    # A task that nobody answered before it was asked anew, because its text was edited.
    outdated = [task for row in rows for task in former.get(row["item_id"], ()) if task]
    if outdated:
        service.withdraw(outdated)
    missing = [row for row in rows if row["item_id"] not in ids]
    if missing:
        ids.update(service.push(_tasks(lake, config, missing, former)))
    confirmed = [{**row, "state": "confirmed", "task_id": ids[row["item_id"]]} for row in rows]
    return written + _commit_states(lake, config, "confirmed", confirmed)


def _former(lake: Lake, config: QueueConfig) -> Mapping[str, Sequence[str]]:
    """Tasks of earlier rounds by item: they are in the service and are not the queue's."""
    found: dict[str, list[str]] = defaultdict(list)
    with lake.read() as reader:
        for item_id, task_id in reader.rows(
            "SELECT item_id, task_id FROM asked_before WHERE project = ? ORDER BY round", [config.project]
        ):
            found[item_id].append(task_id)
    return found


def _present(held: Mapping[str, Sequence[str]], former: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Tasks of the present round."""
    return {item: [task for task in tasks if task not in former.get(item, ())] for item, tasks in held.items()}


def _tasks(lake: Lake, config: QueueConfig, rows: Sequence[Row], former: Mapping[str, Sequence[str]]) -> list[Task]:
    with lake.read() as reader:
        texts = dict(reader.rows("SELECT item_id, content FROM items JOIN queue USING (item_id)"))
        model = reader.scalar("SELECT model_id FROM models WHERE stage = 'end_model' ORDER BY sequence DESC LIMIT 1")
    return [
        Task(
            item_id=row["item_id"],
            text=texts[row["item_id"]],
            cycle=row["cycle"],
            rank=row["rank"],
            value=row["value"],
            reason=row["reason"],
            prediction=config.classes[row["prediction"]] if row["prediction"] >= 0 else None,
            confidence=row["confidence"],
            model_version=str(model or ""),
            round=1 + len(former.get(row["item_id"], ())),
        )
        for row in rows
    ]


def collect(
    lake: Lake, service: AnnotationService, config: QueueConfig, *, cursor: Cursor | None = None
) -> StageResult:
    """Append what annotators said since the last collect; edits, skips and deletions are kept as history.

    An answer that disappeared counts as deleted only while the service still holds its task.

    Answers for unknown items or with unknown labels are left out and counted in the result's detail; a later collect
    takes them once the item or the class is there.

    Args:
        lake: the warehouse.
        service: where annotators work.
        config: settings.
        cursor: how far the last collect got; None reads everything.
    """
    place = service.describe()
    with lake.read() as reader:
        since = cursor.read(reader, place, config.classes) if cursor else ""
    pulled = service.pull_since(since)
    answers = _in_force(pulled.answers)
    with lake.read() as reader:
        known_items = _known_items(reader, answers)
        known = _known(reader, config, pulled.tasks)
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
    if missing and pulled.tasks is not None:  # their tasks were read, and they are not there any more
        new += [_deletion(config, row) for row in missing]
    elif missing and not service.problems:
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
    result = _commit_answers(lake, config, new, detail)
    if cursor:
        with lake.read() as reader:
            cursor.write(reader, place, config.classes, pulled.cursor, unknown_items=bool(unknown_items))
    return result


def _known_items(reader: Reader, answers: Sequence[Answer]) -> set[str]:
    """Those of the answers' items that the warehouse has."""
    wanted = sorted({answer.item_id for answer in answers})
    found = reader.rows("SELECT item_id FROM items WHERE item_id IN (SELECT unnest(?::VARCHAR[]))", [wanted])
    return {item_id for (item_id,) in found} if wanted else set()


def _known(reader: Reader, config: QueueConfig, tasks: frozenset[str] | None) -> dict[str, tuple[Any, ...]]:
    """The state in force of the annotations of these tasks, or of all, by annotation id."""
    sql = """
        SELECT annotation_id, item_id, task_id, annotator, action, class_id, created_at
        FROM current_annotations WHERE project = ?
    """
    params: list[Any] = [config.project]
    if tasks is not None:
        sql += " AND task_id IN (SELECT unnest(?::VARCHAR[]))"
        params.append(sorted(tasks))
    return {row[0]: row for row in reader.rows(sql, params)}


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
    former = _former(lake, config)
    with lake.read() as reader:
        states = _states_after(reader, config, new, former)
    # Neither clock nor ids of the service are part of the token, so an interrupted run gives an undisturbed run's ids.
    # A commit that only mends states may recur with the same annotations, so there the queue tells one from the next.
    inputs = ("annotations",) if new else ("annotations", "queue")
    params = {"project": config.project, "said": said}
    with lake.stage("collect", version=1, inputs=inputs, params=params) as stage:
        if not new and not states:
            return stage.nothing(**detail)
        writes: list[Append | Upsert] = []
        if new:
            writes.append(Append("annotations", _table(new)))
        if states:
            writes.append(Upsert("queue", _table(states)))
        return stage.commit(writes, rows_read=len(new), detail=detail)


def _states_after(
    reader: Reader, config: QueueConfig, new: Sequence[Row], former: Mapping[str, Sequence[str]]
) -> list[Row]:
    """Queue rows whose state changes: answered when enough people labelled or skipped, open again when not any more.

    Answers to earlier tasks of an item do not answer its present one.
    """
    wanted = sorted({row["item_id"] for row in new})
    by_item: dict[str, dict[str, tuple[str, str]]] = defaultdict(dict)
    tasks: dict[str, str] = {}
    history = reader.rows(_HISTORY, [config.project, wanted]) if wanted else []
    latest = [tuple(row[k] for k in ("annotation_id", "item_id", "action", "annotator", "task_id")) for row in new]
    for annotation_id, item_id, action, annotator, task_id in [*history, *latest]:
        if task_id not in former.get(item_id, ()):
            by_item[item_id][annotation_id] = (action, annotator)
            tasks[item_id] = task_id
    changed: list[Row] = []
    doubtful = reader.arrow(_DOUBTFUL, [config.annotators_per_task, config.project, config.project, wanted])
    for row in doubtful.to_pylist():
        enough, task_id = row.pop("enough"), row.pop("answered_task")
        if row["item_id"] in by_item:
            people = {who for action, who in by_item[row["item_id"]].values() if action != "deleted"}
            enough = len(people) >= config.annotators_per_task
        if enough and row["state"] != "answered":
            known_task = row["task_id"] or tasks.get(row["item_id"]) or task_id or ""
            changed.append({**row, "state": "answered", "task_id": known_task})
        elif not enough and row["state"] == "answered":
            changed.append({**row, "state": "confirmed"})
    return changed


def reconcile(lake: Lake, service: AnnotationService, config: QueueConfig) -> ReconcileReport:
    """Find and mend every difference between the queue's open rows and the service."""
    service.ensure_project(config.classes)
    with lake.read() as reader:
        rows = _rows(reader, config, "sent", "confirmed")
    held = _present(service.find([row["item_id"] for row in rows]), _former(lake, config))
    answered = {answer.task_id for answer in service.pull()} if any(len(t) > 1 for t in held.values()) else set[str]()
    counts = {"agreed": 0, "confirmed": 0, "sent_again": 0, "renumbered": 0}
    changed: list[Row] = []
    surplus: list[str] = []
    doubled: list[str] = []
    for row in rows:
        tasks = sorted(held.get(row["item_id"], ()), key=lambda task: (task not in answered, task != row["task_id"]))
        if not tasks:
            counts["sent_again"] += 1
            changed.append({**row, "state": "planned", "task_id": ""})
            continue
        surplus += [task for task in tasks[1:] if task not in answered]
        if any(task in answered for task in tasks[1:]):
            doubled.append(row["item_id"])
        if row["state"] == "sent":
            counts["confirmed"] += 1
        elif row["task_id"] != tasks[0]:
            counts["renumbered"] += 1
        else:
            counts["agreed"] += 1
            continue
        changed.append({**row, "state": "confirmed", "task_id": tasks[0]})
    if surplus:
        service.withdraw(surplus)
    if changed:
        _commit_states(lake, config, "reconciled", changed)
    push(lake, service, config)
    return ReconcileReport(**counts, withdrawn=len(surplus), doubled=doubled)


def _commit_states(lake: Lake, config: QueueConfig, step: str, rows: Sequence[Row]) -> int:
    params = {"project": config.project, "step": step, "items": [row["item_id"] for row in rows]}
    with lake.stage("push", version=1, inputs=("queue",), params=params) as stage:
        result = stage.commit([Upsert("queue", _table(rows))], rows_read=len(rows), detail={"step": step})
    return sum(result.rows_written.values())


def _rows(reader: Reader, config: QueueConfig, *states: str) -> list[Row]:
    marks = ", ".join("?" for _ in states)
    return reader.arrow(_QUEUE.format(states=marks), [config.project, *states]).to_pylist()


def _table(rows: Sequence[Row]) -> pa.Table:
    return pa.Table.from_pylist(list(rows))


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
