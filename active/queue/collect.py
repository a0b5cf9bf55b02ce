"""Collect: every answer comes back once, with edits, skips and deletions as history.

Servers count their annotations and tasks from 1, so the same ids come from another server, and from the exports of two
people who each have one. An annotation is known by its item, its id and its annotator; that of a project on a server by
its item and id, unless it is older than the project.
"""

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from active.annotation.service import ALL_TASKS, SIMULATED, AnnotationService, Answer
from active.queue.cursor import Cursor
from active.queue.folder_state import Held, Key
from active.queue.outbox import QueueConfig, Row, former_tasks
from active.queue.ownership import refuse_other
from features.ingest.classes import new_classes
from warehouse import Append, Lake, Reader, StageResult, Upsert
from warehouse.schema.answer_views import WHO, person
from warehouse.schema.tables import TABLE_BY_NAME
from warehouse.text import perhaps_meant

_COLUMNS = tuple(column.name for column in TABLE_BY_NAME["annotations"].columns)

_HISTORY = """
    SELECT annotation_id, item_id, action, annotator, task_id FROM current_annotations
    WHERE project = ? AND item_id IN (SELECT unnest(?::VARCHAR[]))
"""

_LAST = datetime.max.replace(tzinfo=UTC)
_TICK = timedelta(microseconds=1)

_SAID_BEFORE = f"""
    SELECT a.item_id, {WHO}, max(a.updated_at) FROM current_annotations a
    JOIN asked_before b ON b.item_id = a.item_id AND b.project = a.project AND b.task_id = a.task_id
    WHERE a.project = ? AND a.action = 'labelled' AND a.item_id IN (SELECT unnest(?::VARCHAR[])) GROUP BY ALL
"""

# Rows with new answers, and rows whose state does not fit the answers that are known, which a killed run leaves.
_DOUBTFUL = f"""
    SELECT * FROM (
        SELECT q.* EXCLUDE (run_id, committed_at), coalesce(p.people, 0) >= ? AS enough, p.answered_task
        FROM queue q LEFT JOIN (
            SELECT a.item_id, count(DISTINCT {WHO}) AS people, min(a.task_id) AS answered_task
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


def collect(
    lake: Lake,
    service: AnnotationService,
    config: QueueConfig,
    *,
    cursor: Cursor | None = None,
    held: Held | None = None,
) -> StageResult:
    """Append what annotators said since the last collect; edits, skips and deletions are kept as history.

    An answer that disappeared counts as deleted only while the service still holds its task, and only if it was given
    since the project there was made and before the task was changed last. Where other machines may have such a place
    too, what counts is what changed here since the last collect from here, see `Held`.

    Answers for unknown items or with unknown labels are left out and counted in the result's detail; a later collect
    takes them once the item or the class is there.

    Args:
        lake: the warehouse.
        service: where annotators work.
        config: settings.
        cursor: how far the last collect got; None reads everything.
        held: what was here; None where no other machine or checkout has such a place.

    Raises:
        ServiceRefused: the project there is another warehouse's, see `refuse_other`.
    """
    place = service.describe()
    with lake.read() as reader:
        since = cursor.read(reader, place, config.classes) if cursor else ""
    pulled = service.pull_since(since)
    answers = _in_force(pulled.answers)
    if answers:
        refuse_other(lake, service, config)
    with lake.read() as reader:
        known_items = _known_items(reader, answers)
        known = _known(reader, config, pulled.tasks)
        held = held if pulled.of_many else None
        if held:
            held.read(reader, place)
        sent = "SELECT count(*) FROM queue WHERE project = ? AND state <> 'planned'"
        asked = bool(known or reader.scalar(sent, [config.project]))
    class_ids = {name: number for number, name in enumerate(config.classes)}
    unknown_items = {a.item_id for a in answers if a.item_id not in known_items}
    unknown_labels = {label for a in answers for label in a.labels} - set(class_ids)
    new: list[Row] = []
    told: dict[str, list[str]] = defaultdict(list)
    seen: set[Key] = set()
    given: dict[Key, Answer] = {}
    for answer in answers:
        key = _key(answer, known, seen, pulled.made_at)
        seen.add(key)
        if answer.item_id in unknown_items or not unknown_labels.isdisjoint(answer.labels):
            continue
        given[key] = answer
        chosen = sorted(class_ids[label] for label in answer.labels)
        row = _annotation(config, answer, chosen, key, known.get(key))
        if key not in known or any(row[name] != known[key][name] for name in ("action", "class_id", "class_ids")):
            new.append(row)
            if answer.remark:
                kind, words = answer.remark
                told[kind].append(f"{answer.annotator}'s of item {answer.item_id!r}{words}")
    if held:
        with lake.read() as reader:
            new = held.changed(reader, new, known, given)
    detail: dict[str, Any] = {}
    for kind, said in told.items():
        more = f" and {len(said) - 3} more" if len(said) > 3 else ""
        detail[kind] = "; ".join(said[:3]) + more
    missing = [row for key, row in known.items() if key not in seen and row["action"] != "deleted"]
    if held and held.known:
        missing = [row for row in missing if _known_as(row) in held]
    here = [row for row in missing if _is_of(row, pulled.made_at) and not (held and not held.known)]
    deleted: list[Row] = []
    if pulled.tasks is not None:
        deleted = _deleted(here, pulled.tasks)
    elif missing and not service.problems:
        deleted = _deleted(here, service.changed_at([row["item_id"] for row in here]))
        elsewhere = sum(not _is_of(row, pulled.made_at) for row in missing)
        if elsewhere:
            detail["answers from before the project there was made, all kept"] = elsewhere
        if gone := len(missing) - len(deleted) - elsewhere:
            detail["answers kept that are gone there"] = gone
    new += [_deletion(row) for row in deleted]
    if unknown_items:
        ids = 'ids are those that `siftline sql "select item_id from items"` shows'
        detail["answers for unknown items"] = f"{len(unknown_items)}, such as {min(unknown_items)[:80]!r}; {ids}"
    if unknown_labels:
        detail["unknown labels"] = _in_words(unknown_labels, answers, config.classes)
    # Before anybody was asked there is no place to be read, as where all labels were imported.
    problems = {name: why for name, why in service.problems.items() if asked or name != ALL_TASKS}
    detail.update({f"left out: {name}": why for name, why in problems.items()})
    detail.update(pulled.beside)
    result = _commit_answers(lake, config, new, detail)
    if cursor:
        with lake.read() as reader:
            cursor.write(reader, place, config.classes, pulled.cursor, unknown_items=bool(unknown_items))
    if held:
        with lake.read() as reader:
            held.write(reader, place, given, gone=[_known_as(row) for row in deleted])
    return result


def refusals(result: StageResult) -> list[str]:
    """What a `collect` left where it is, one line for each kind or file, with the reason."""
    return [f"{key}: {value}" for key, value in result.detail.items()]


def _in_words(unknown: Container[str], answers: Sequence[Answer], classes: Sequence[str]) -> str:
    """Each label that is no class, where it stands and which class may be meant, and the classes there are."""
    given: dict[str, dict[str, str]] = defaultdict(dict)
    for answer in answers:
        for label in answer.labels:
            if label in unknown:
                given[label].setdefault(answer.item_id, answer.task_id)
    parts: list[str] = []
    for label, tasks in sorted(given.items()):
        item_id, task_id = min(tasks.items())
        more = f" and {len(tasks) - 1} more" if len(tasks) > 1 else ""
        parts.append(f"{label!r} in task {task_id} (item {item_id!r}){more}{perhaps_meant(label, classes)}")
    return f"{'; '.join(parts)}. The classes are: {', '.join(classes)}"


def _known_items(reader: Reader, answers: Sequence[Answer]) -> set[str]:
    """Those of the answers' items that the warehouse has."""
    wanted = sorted({answer.item_id for answer in answers})
    found = reader.rows("SELECT item_id FROM items WHERE item_id IN (SELECT unnest(?::VARCHAR[]))", [wanted])
    return {item_id for (item_id,) in found}


def _known(reader: Reader, config: QueueConfig, tasks: Iterable[tuple[str, str]] | None) -> dict[Key, Row]:
    """The state in force of the annotations of these tasks' items, or of all."""
    sql = f"SELECT {', '.join(_COLUMNS)} FROM current_annotations WHERE project = ?"
    params: list[Any] = [config.project]
    if tasks is not None:
        sql += " AND item_id IN (SELECT unnest(?::VARCHAR[]))"
        params.append(sorted({item_id for _, item_id in tasks}))
    rows = (dict(zip(_COLUMNS, row, strict=True)) for row in reader.rows(sql, params))
    return {(row["item_id"], row["annotation_id"]): row for row in rows}


def _in_force(answers: Iterable[Answer]) -> list[Answer]:
    """One answer for each annotation, the latest: two exports of one project repeat their annotations."""
    latest: dict[tuple[str, str, str], Answer] = {}
    for answer in answers:
        key = (answer.item_id, answer.annotation_id, answer.annotator)
        before = latest.get(key)
        if before is None or before.updated_at <= answer.updated_at:
            latest[key] = answer
    return list(latest.values())


def _key(answer: Answer, known: Mapping[Key, Row], seen: Container[Key], made_at: datetime | None) -> Key:
    """The item and the id by which the warehouse knows an annotation.

    The id is the service's own, with the annotator behind it where somebody else's annotation of the item has it.
    """
    key = (answer.item_id, answer.annotation_id)
    row = known.get(key)
    # On one server an id is one annotation, also when its annotator goes by another name now.
    same = row is None or row["annotator"] == answer.annotator or (made_at is not None and _is_of(row, made_at))
    return key if same and key not in seen else (answer.item_id, f"{answer.annotation_id} {answer.annotator}")


def _known_as(row: Row) -> Key:
    return row["item_id"], row["annotation_id"]


def _is_of(row: Row, made_at: datetime | None) -> bool:
    """Whether an answer may be one of the project that was made at this time; an earlier one was given elsewhere."""
    return made_at is None or row["created_at"] >= made_at


def _commit_answers(lake: Lake, config: QueueConfig, new: list[Row], detail: Mapping[str, Any]) -> StageResult:
    new.sort(key=lambda row: (row["item_id"], row["annotator"], row["action"], row["class_id"], row["class_ids"] or []))
    said = [[row["item_id"], row["annotator"], row["action"], row["class_id"]] for row in new]
    if config.multi_label:
        said = [[*what, row["class_ids"]] for what, row in zip(said, new, strict=True)]
    with lake.read() as reader:
        former = former_tasks(reader, config)
        _date_after_earlier(reader, config, new, former)
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
            writes += _classes_behind(stage, config, new)
            writes.append(Append("annotations", pa.Table.from_pylist(new)))
        if states:
            writes.append(Upsert("queue", pa.Table.from_pylist(states)))
        return stage.commit(writes, rows_read=len(new), detail=detail)


def _classes_behind(reader: Reader, config: QueueConfig, new: Sequence[Row]) -> list[Upsert]:
    """The classes that were added since the last ingest, where answers have one: it would be a label without a name."""
    stored = int(reader.scalar("SELECT count(*) FROM classes") or 0)
    if not 0 < stored <= max(number for row in new for number in (row["class_ids"] or [row["class_id"]])):
        return []
    return [Upsert("classes", new_classes(reader, config.classes, multi_label=config.multi_label))]


def _date_after_earlier(
    reader: Reader, config: QueueConfig, new: Sequence[Row], former: Mapping[str, Sequence[str]]
) -> None:
    """Let an answer to a task that asked again be later than what the same person said before, which called for it.

    The clock by which the earlier one was given may have been ahead, and of a person's answers the latest counts.
    """
    again = [row for row in new if row["item_id"] in former and row["task_id"] not in former[row["item_id"]]]
    if not again:
        return
    said = reader.rows(_SAID_BEFORE, [config.project, sorted({row["item_id"] for row in again})])
    before = {(item_id, who): at for item_id, who, at in said}
    for row in again:
        if at := before.get((row["item_id"], row["annotator"])):
            row["updated_at"] = max(row["updated_at"], min(at, _LAST - _TICK) + _TICK)


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
            by_item[item_id][annotation_id] = (action, person(annotator, annotation_id))
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


def _deleted(missing: Iterable[Row], changed_at: Mapping[tuple[str, str], datetime | None]) -> list[Row]:
    """Answers that somebody deleted: their tasks are there without them, and were changed since.

    A task that is gone says nothing: the project may have moved to another service, or its folder or server may have
    been emptied. Nor does one that was last changed before the answer was given: the server was set back to a backup.

    Args:
        missing: answers that are not there.
        changed_at: of tasks that are there, by task id and item id; None where that is unknown.
    """
    found: list[Row] = []
    for row in missing:
        task = row["task_id"], row["item_id"]
        if task in changed_at and ((at := changed_at[task]) is None or at >= row["created_at"]):
            found.append(row)
    return found


def _annotation(config: QueueConfig, answer: Answer, chosen: list[int], key: Key, before: Row | None) -> Row:
    labelled = answer.action == "labelled"
    return {
        "annotation_id": key[1],
        "item_id": answer.item_id,
        "project": config.project,
        "task_id": answer.task_id,
        "annotator": answer.annotator,
        "action": answer.action,
        "class_id": chosen[0] if labelled and not config.multi_label else -1,
        "class_ids": chosen if labelled and config.multi_label else None,
        "simulated": answer.annotator == SIMULATED,
        "created_at": answer.created_at,
        # An answer that was gone and is there again is older than its deletion, and in force all the same.
        "updated_at": max(answer.updated_at, before["updated_at"]) if before else answer.updated_at,
        "seconds": answer.seconds,
    }


def _deletion(row: Row) -> Row:
    return {
        **row,
        "action": "deleted",
        "class_id": -1,
        "class_ids": None,
        # The service's clock may be ahead of ours; of equal times the later commit is in force.
        "updated_at": max(datetime.now(UTC), row["updated_at"]),
        "seconds": 0.0,
    }
