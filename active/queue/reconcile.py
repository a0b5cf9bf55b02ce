"""Reconcile: every difference between the queue and the service found, mended where that is safe, and told.

Nothing that somebody answered is changed or removed. Tasks of items that this warehouse does not know are told only:
they may belong to another warehouse that shares the project.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from active.annotation.service import AnnotationService, StoredTask, finite
from active.queue.outbox import QueueConfig, Row, commit_states, former_tasks, queue_rows, sent_hashes
from active.queue.ownership import refuse_other
from active.queue.push import ensure_project, push_alone, tasks_of
from warehouse import Lake, Reader, Upsert
from warehouse.commits.stage import Write

OPEN = ("sent", "confirmed")
ALL_STATES = ("planned", *OPEN, "answered")
UNKNOWN = ""
"""`content_hash` of a row whose task shows something else than its item: it equals that of no content."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReconcileReport:
    """Differences between the queue and the service, and what was done about each.

    Attributes:
        agreed: rows that agree.
        confirmed: rows that were sent and are in the service after all.
        sent_again: rows that the service did not hold; they were sent again.
        renumbered: rows whose task id differed.
        withdrawn: second tasks of an item that were removed.
        begun: second tasks of an item that the service kept, because somebody has begun them.
        adopted: tasks of items that were not in the queue, and now are.
        restored: tasks whose content differed from the item; it was put right.
        doubled: items with two answered tasks, left for a person to look at.
        edited: items whose task has an answer to another content, left for a person to look at.
        strangers: tasks of items that this warehouse does not know, left alone.
    """

    agreed: int = 0
    confirmed: int = 0
    sent_again: int = 0
    renumbered: int = 0
    withdrawn: int = 0
    begun: int = 0
    adopted: int = 0
    restored: int = 0
    doubled: Sequence[str] = field(default_factory=list[str])
    edited: Sequence[str] = field(default_factory=list[str])
    strangers: int = 0

    def lines(self) -> list[str]:
        """The report in words."""
        agree = "agrees" if self.agreed == 1 else "agree"
        lines = [f"{_tasks(self.agreed)} {agree} with the service"]
        counts = {
            "{} found in the service, now confirmed": self.confirmed,
            "{} missing in the service, sent again": self.sent_again,
            "{} with another number in the service, which is now recorded": self.renumbered,
            "{} more of an item that has one, withdrawn": self.withdrawn,
            "{} more of an item that has one, kept because somebody has begun there": self.begun,
            "{} unknown to the queue, taken into it": self.adopted,
            "{} with another content than the item's, put right": self.restored,
        }
        lines += [words.format(_tasks(count)) for words, count in counts.items() if count]
        lines += [f"item {item} has more than one answered task; look at it in the service" for item in self.doubled]
        lines += [
            f"item {item} has an answer to another content than it has now; look at it in the service"
            for item in self.edited
        ]
        if self.strangers:
            lines.append(f"{_tasks(self.strangers)} of an item that this warehouse does not hold, left alone")
        return lines


def reconcile(lake: Lake, service: AnnotationService, config: QueueConfig) -> ReconcileReport:
    """Find and mend every difference between the queue and the service.

    Raises:
        ServiceError: the service is away; nothing is lost, run again.
        ServiceRefused: the service refuses; a person must act.
    """
    with lake.location.send_lock():
        return _reconcile(lake, service, config)


def _reconcile(lake: Lake, service: AnnotationService, config: QueueConfig) -> ReconcileReport:
    refuse_other(lake, service, config)
    ensure_project(service, config)
    by_item: dict[str, list[StoredTask]] = defaultdict(list)
    outdated: dict[str, str] = {}
    with lake.read() as reader:
        former = former_tasks(reader, config)
    for task in service.stored():
        if task.task_id not in former.get(task.item_id, ()):
            by_item[task.item_id].append(task)
        elif not task.answered:
            outdated[task.task_id] = task.item_id
    with lake.read() as reader:
        rows = queue_rows(reader, config, *ALL_STATES)
        known = sent_hashes(reader, config, list(by_item.keys() - {row["item_id"] for row in rows}))
        lost = {item_id: _lost_row(config, item_id, known[item_id], by_item[item_id]) for item_id in known}
        shown = {task.item_id: task.content() for task in tasks_of(reader, config, list(lost.values()))}
    found = _Differences(rows_by_item={row["item_id"]: row for row in rows})
    for row in rows:
        found.look_at(row, by_item.get(row["item_id"], []))
    found.surplus.update(outdated)
    strangers = 0
    for item_id, tasks in by_item.items():
        if item_id in found.rows_by_item:
            continue
        if item_id in lost:
            found.adopt(lost[item_id], tasks, shown[item_id])
        else:
            strangers += len(tasks)
    begun = _withdraw(service, found.surplus) if found.surplus else 0
    if found.changed:
        commit_states(lake, config, "reconciled", found.changed, also=found.edited_items)
    restored, edited = _restore(lake, service, config, by_item)
    push_alone(lake, service, config)
    return ReconcileReport(
        **found.counts,
        withdrawn=len(found.surplus) - begun,
        begun=begun,
        doubled=found.doubled,
        restored=restored,
        edited=edited,
        strangers=strangers,
    )


@dataclass(kw_only=True, slots=True)
class _Differences:
    """What was found so far: rows to write, tasks to withdraw with their items, and counts for the report."""

    rows_by_item: Mapping[str, Row]
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("agreed", "confirmed", "sent_again", "renumbered", "adopted"), 0)
    )
    changed: list[Row] = field(default_factory=list[Row])
    surplus: dict[str, str] = field(default_factory=dict[str, str])
    doubled: list[str] = field(default_factory=list[str])

    def look_at(self, row: Row, held: Sequence[StoredTask]) -> None:
        """Compare a row with the tasks that the service holds of its item."""
        tasks = sorted(held, key=lambda task: (not task.answered, task.task_id != row["task_id"]))
        self.surplus.update((task.task_id, task.item_id) for task in tasks[1:] if not task.answered)
        if sum(task.answered for task in tasks) > 1:
            self.doubled.append(row["item_id"])
        if row["state"] not in OPEN:
            return
        if not tasks:
            self.counts["sent_again"] += 1
            self.changed.append({**row, "state": "planned", "task_id": ""})
        elif row["state"] == "sent":
            self.counts["confirmed"] += 1
            self.changed.append({**row, "state": "confirmed", "task_id": tasks[0].task_id})
        elif row["task_id"] != tasks[0].task_id:
            self.counts["renumbered"] += 1
            self.changed.append({**row, "task_id": tasks[0].task_id})
        else:
            self.counts["agreed"] += 1

    def adopt(self, row: Row, held: Sequence[StoredTask], shown: Mapping[str, str]) -> None:
        """Take tasks of an item that has no row into the queue: the warehouse was set back since they were sent.

        Args:
            row: the item's row, if its tasks show the item as it is now.
            held: its tasks.
            shown: what a task shows of the item as it is now.
        """
        self.surplus.update((task.task_id, task.item_id) for task in held if not task.answered)
        self.surplus.pop(row["task_id"], None)
        if sum(task.answered for task in held) > 1:
            self.doubled.append(row["item_id"])
        self.counts["adopted"] += 1
        if any(_differs(task, shown) and task.task_id not in self.surplus for task in held):
            row = {**row, "content_hash": UNKNOWN}
        self.changed.append(row)

    def edited_items(self, reader: Reader) -> list[Write]:
        """Items of rows of unknown content that count as never changed: from now on they count as changed.

        The views compare what was shown with an item only where it was; this one was before it was read here.
        """
        unknown = [row["item_id"] for row in self.changed if row["content_hash"] == UNKNOWN]
        if not unknown:
            return []
        columns = "* EXCLUDE (run_id, committed_at, changed_at)"
        never = f"SELECT {columns} FROM items WHERE changed_at IS NULL AND item_id IN (SELECT unnest(?::VARCHAR[]))"
        return [Upsert("items", reader.arrow(never, [unknown]))]


def _lost_row(config: QueueConfig, item_id: str, content_hash: str, held: Sequence[StoredTask]) -> Row:
    """The row of an item that has none, with one of its tasks, an answered one if there is any."""
    task = min(held, key=lambda task: not task.answered)
    return {
        "item_id": item_id,
        "project": config.project,
        "state": "confirmed",
        "cycle": _whole(task.data.get("cycle")),
        "rank": _whole(task.data.get("rank")),
        "value": finite(task.data.get("value")) or 0.0,
        "reason": str(task.data.get("reason") or ""),
        "prediction": -1,
        "predictions": None,
        "confidence": 0.0,
        "content_hash": content_hash,
        "task_id": task.task_id,
    }


def _tasks(count: int) -> str:
    return "1 task" if count == 1 else f"{count} tasks"


def _differs(task: StoredTask, shown: Mapping[str, str]) -> bool:
    """Whether a task shows something else."""
    return any(task.data.get(key) != value for key, value in shown.items())


def _withdraw(service: AnnotationService, surplus: Mapping[str, str]) -> int:
    """Take tasks back; returns how many the service kept. Args: surplus gives the item of each task."""
    service.withdraw(list(surplus))
    held = service.find(list(set(surplus.values())))
    return sum(task_id in held.get(item_id, ()) for task_id, item_id in surplus.items())


def _whole(value: object) -> int:
    """A cycle or rank that the queue can hold; 0 for anything else."""
    number = finite(value) or 0.0
    return int(number) if 0 <= number < 2**31 else 0


def _restore(
    lake: Lake, service: AnnotationService, config: QueueConfig, by_item: Mapping[str, Sequence[StoredTask]]
) -> tuple[int, list[str]]:
    """Put right what open tasks show where it is not their item's content; those with answers are only told."""
    with lake.read() as reader:
        rows = queue_rows(reader, config, "confirmed")
        wanted = {row["item_id"]: task for row, task in zip(rows, tasks_of(reader, config, rows), strict=True)}
        hashes = sent_hashes(reader, config, list(wanted))
    shown: dict[str, dict[str, Any]] = {}
    row_of: dict[str, Row] = {}
    edited: list[str] = []
    for row in rows:
        for task in by_item.get(row["item_id"], ()):
            right = wanted[row["item_id"]].content()
            if task.task_id != row["task_id"] or not _differs(task, right):
                continue
            if task.answered:
                edited.append(row["item_id"])
                continue
            shown[task.task_id] = {**task.data, **right}
            row_of[task.task_id] = row
    restored = service.show(shown) if shown else ()
    edited += [row["item_id"] for task_id, row in row_of.items() if task_id not in restored]  # answered meanwhile
    changed = [
        {**row, "content_hash": hashes[row["item_id"]]}
        for task_id, row in row_of.items()
        if task_id in restored and row["content_hash"] != hashes[row["item_id"]]
    ]
    if changed:
        commit_states(lake, config, "restored", changed)
    return len(restored), edited
