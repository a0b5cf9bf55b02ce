"""Push: every selected item reaches the annotation service exactly once, and the best open one is asked about first.

`sent` is committed before the service is called and `confirmed` after it, so whatever dies in between leaves a row that
the next push asks the service about before it sends anything. A service hands tasks out in the order in which it stored
them. So when better ones come, the overtaken ones are taken back and stored again behind them; that takes the same way:
they are `sent` until the service says whether it still holds them.
"""

from collections.abc import Sequence

from active.annotation.service import AnnotationService, Task
from active.queue.outbox import QueueConfig, Row, commit_sent, commit_states, former_tasks, queue_rows, sent_hashes
from active.queue.ownership import refuse_other
from active.selection.exploration import is_explored
from warehouse import Lake, Progress, Reader, StageResult, silent

FEWEST_ON_SCREENS = 2
"""Open tasks at the head of the service's order that stay there while fewer annotators are known."""
LOOKED_UP = 20
"""Open tasks that a push looks up; where one of them is gone, it looks up all."""

MADE_ANEW = (
    "{} was not there any more: it was made anew, and has the open tasks. If it was renamed, what people answer there "
    "is not collected: delete the new one, and give it its name back."
)


def push(lake: Lake, service: AnnotationService, config: QueueConfig, progress: Progress = silent) -> StageResult:
    """Bring every planned row to the service, in descending value among all that is open there.

    The service's project is brought up to date also where nothing is planned but tasks are open: with another list of
    classes or more annotators per task, these wait for answers that it would not ask for.

    Overtaken tasks are taken back unless somebody answered or began them. The first ones in the service's order stay
    too, one for each annotator: they may be on a screen. So do tasks of the fair sample, whose value says nothing.

    Raises:
        ServiceError: the service is away; rows stay planned or sent and the next push goes on.
        ServiceRefused: the service refuses; a person must act.
        WarehouseBusy: another machine sends for too long.
    """
    with lake.location.send_lock():  # what another machine sent meanwhile is looked up below, and not sent twice
        return push_alone(lake, service, config, progress)


def push_alone(lake: Lake, service: AnnotationService, config: QueueConfig, progress: Progress = silent) -> StageResult:
    """`push`, by who holds the lock around what is sent."""
    with lake.stage("push", version=1, inputs=("queue",), params={"project": config.project}) as stage:
        rows = queue_rows(stage, config, "planned", "sent")
        stored = queue_rows(stage, config, "confirmed")
        on_screens = max(FEWEST_ON_SCREENS, _annotators(stage, config))
    # Those of another service waited where the project was before: this one may hold some of them, from earlier still.
    here = [row for row in stored if service.gave(row["item_id"], row["task_id"])]
    elsewhere = [row for row in stored if not service.gave(row["item_id"], row["task_id"])]
    if rows or elsewhere:
        refuse_other(lake, service, config)
    rows = [_by_the_text_alone(row) if _without_suggestion(row, config) else row for row in rows]
    made = bool(rows or stored) and ensure_project(service, config)
    # Deleted there, or the service began anew or was set back: it is asked about each, and sent what it lacks.
    gone = _gone(service, here)
    back = elsewhere + [row for row in here if row["item_id"] in gone]
    if not rows and not back:
        return stage.nothing()
    if service.ordered:
        back = back + overtaken(rows, [row for row in here if row["item_id"] not in gone], on_screens)
    if back:
        commit_states(lake, config, "taken back", [{**row, "state": "sent"} for row in back])
        rows += [{**row, "state": "sent"} for row in back]
    behind = _withdraw(service, rows) if service.ordered else set[str]()
    rows.sort(key=lambda row: (-row["value"], row["cycle"], row["rank"]))
    pushed = moved = 0
    for start in range(0, len(rows), config.chunk):
        sent = _push_chunk(lake, service, config, rows[start : start + config.chunk])
        pushed += len(sent)
        moved += len(behind & sent)
        progress(min(start + config.chunk, len(rows)), len(rows))
    return StageResult(
        stage="push",
        token=stage.token,
        committed=True,
        rows_read=len(rows),
        rows_written={"queue": len(rows)},  # each once, though it is sent in one commit and confirmed in another
        detail={
            "sent": pushed - moved,
            **({"moved behind better ones": moved} if moved else {}),
            **({"advice": MADE_ANEW.format(service.describe())} if made and here else {}),
        },
        seconds=stage.elapsed_s(),
    )


def _without_suggestion(row: Row, config: QueueConfig) -> bool:
    """Whether people are to answer by themselves, as always where their answer says how right the model is."""
    return row["state"] == "planned" and (not config.suggest or is_explored(row["reason"]))


def _by_the_text_alone(row: Row) -> Row:
    """A row whose task says nothing of what the end model and the functions say: its reason is the first part alone."""
    reason, _, said = row["reason"].partition("; ")
    silent = {"prediction": -1, "predictions": None, "confidence": 0.0}
    return {**row, **silent, "reason": f"{reason}." if said else reason}


def ensure_project(service: AnnotationService, config: QueueConfig) -> bool:
    """Make the service's project or bring it up to date; True when it was not there."""
    return service.ensure_project(config.classes, texts=config.content.show, image=bool(config.content.image))


def _gone(service: AnnotationService, stored: Sequence[Row]) -> set[str]:
    """Items of the rows whose task the service does not hold any more."""
    ids = [row["item_id"] for row in stored]
    some = ids[:: -(-len(ids) // LOOKED_UP) or 1]
    if not some or len(service.find(some)) == len(some):
        return set()
    return set(ids) - service.find(ids).keys()


def overtaken(planned: Sequence[Row], stored: Sequence[Row], on_screens: int) -> list[Row]:
    """Stored rows that a planned one is worth more than, without the first `on_screens` of the service's order.

    Args:
        planned: rows that are about to be sent, by their state.
        stored: open rows that the service holds or may hold, with their task ids.
        on_screens: how many stay however little they are worth.
    """
    best = max((row["value"] for row in planned if row["state"] == "planned"), default=0.0)
    in_order = sorted(stored, key=lambda row: (len(row["task_id"]), row["task_id"]))
    return [row for row in in_order[on_screens:] if row["value"] < best and not is_explored(row["reason"])]


def _annotators(reader: Reader, config: QueueConfig) -> int:
    return int(
        reader.scalar(
            "SELECT count(DISTINCT annotator) FROM annotations WHERE project = ? AND NOT simulated", [config.project]
        )
    )


def _withdraw(service: AnnotationService, rows: Sequence[Row]) -> set[str]:
    """Ask for the tasks of sent rows back that a planned one is worth more than; returns their items.

    The service keeps those that somebody answered or began; which ones, the next look-up tells. A push that died may
    have left sent rows whose tasks are there, so the same question is asked about all of them.
    """
    sent = [row for row in rows if row["state"] == "sent"]
    behind = [row["item_id"] for row in overtaken(rows, sent, on_screens=0)]
    held = service.find(behind) if behind else {}
    if held:
        service.withdraw([task for tasks in held.values() for task in tasks])
    return set(held)


def _push_chunk(lake: Lake, service: AnnotationService, config: QueueConfig, rows: Sequence[Row]) -> set[str]:
    """Mark as sent, ask the service what it has, send the rest, confirm. Returns the items sent."""
    planned = [row for row in rows if row["state"] == "planned"]
    if planned:
        with lake.read() as reader:
            hashes = sent_hashes(reader, config, [row["item_id"] for row in planned])
        rows = _with(rows, commit_sent(lake, config, planned, hashes))
    with lake.read() as reader:
        former = former_tasks(reader, config)
    held = service.find([row["item_id"] for row in rows])
    present = {item: [task for task in tasks if task not in former.get(item, ())] for item, tasks in held.items()}
    # Tasks that nobody answered before the item was asked about anew, because its text was edited. Only what the
    # service lists for the item: on another server the number of a former task may be that of another item's task.
    outdated = [task for item, tasks in held.items() for task in tasks if task in former.get(item, ())]
    if outdated:
        service.withdraw(outdated)
    ids = {item_id: tasks[0] for item_id, tasks in present.items() if tasks}
    stored = [row for row in rows if row["item_id"] in ids]
    if stored:
        with lake.read() as reader:
            service.complete({ids[task.item_id]: task for task in tasks_of(reader, config, stored)})
    missing, tasks = _fresh(lake, config, [row for row in rows if row["item_id"] not in ids])
    if missing:
        ids.update(service.push(tasks))
    confirmed = [{**row, "state": "confirmed", "task_id": ids[row["item_id"]]} for row in [*stored, *missing]]
    commit_states(lake, config, "confirmed", confirmed)
    return {row["item_id"] for row in missing}


def _fresh(lake: Lake, config: QueueConfig, rows: Sequence[Row]) -> tuple[Sequence[Row], list[Task]]:
    """Sent rows that the service lacks, and the tasks to send for them.

    They show their items as these are now, which may have been edited since the rows were marked. What they will show
    is committed before anything is sent, so an answer is always about that.
    """
    while rows:
        with lake.read() as reader:
            hashes = sent_hashes(reader, config, [row["item_id"] for row in rows])
            tasks = tasks_of(reader, config, rows)
        edited = [row for row in rows if hashes.get(row["item_id"], row["content_hash"]) != row["content_hash"]]
        if not edited:
            return rows, tasks
        rows = _with(rows, commit_sent(lake, config, edited, hashes))
    return rows, []


def _with(rows: Sequence[Row], changed: Sequence[Row]) -> Sequence[Row]:
    """The rows in their order, some of them as they are now."""
    by_item = {row["item_id"]: row for row in changed}
    return [by_item.get(row["item_id"], row) for row in rows]


def tasks_of(reader: Reader, config: QueueConfig, rows: Sequence[Row]) -> list[Task]:
    """The task for each row, as its item is now."""
    contents = {
        item_id: (content, metadata)
        for item_id, content, metadata in reader.rows(
            "SELECT item_id, content, metadata FROM items WHERE item_id IN (SELECT unnest(?::VARCHAR[]))",
            [[row["item_id"] for row in rows]],
        )
    }
    model = reader.scalar("SELECT model_id FROM models WHERE stage = 'end_model' ORDER BY sequence DESC LIMIT 1")
    former = former_tasks(reader, config)
    rounds = reader.rows("SELECT item_id, max(round) FROM asked_before WHERE project = ? GROUP BY 1", [config.project])
    last = dict(rounds)
    tasks: list[Task] = []
    for row in rows:
        text, *further = config.content.texts(*contents[row["item_id"]])
        task = Task(
            item_id=row["item_id"],
            text=text,
            further=tuple(further),
            image=config.content.image_of(contents[row["item_id"]][1]),
            cycle=row["cycle"],
            rank=row["rank"],
            value=row["value"],
            reason=row["reason"],
            prediction=config.classes[row["prediction"]] if row["prediction"] >= 0 and not config.multi_label else None,
            predictions=_suggested(config, row["predictions"]),
            confidence=row["confidence"],
            model_version=str(model or ""),
            former=tuple(former.get(row["item_id"], ())),
            round=1 + last.get(row["item_id"], 0),
        )
        tasks.append(task)
    return tasks


def _suggested(config: QueueConfig, class_ids: Sequence[int] | None) -> tuple[str, ...] | None:
    """The classes of a suggestion in a multi-label project, None without one."""
    return tuple(config.classes[c] for c in class_ids) if config.multi_label and class_ids is not None else None
