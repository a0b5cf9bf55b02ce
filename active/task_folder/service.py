"""A folder of Label Studio JSON tasks: the annotation service when no server is configured.

One file per task, named by a hash of the item id, in Label Studio's own task format. A person answers by adding
`annotations` to a file, or drops a Label Studio export (JSON) into the folder `import/`. A file that cannot be read is
named and left as it is; the others go on.
"""

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from active.annotation.service import ALL_TASKS, TEXT, Answer, Pulled, StoredTask, Task, choice, finite
from active.task_folder.task_file import answer_of, close_to_others, in_words, read_tasks, write_text
from active.task_folder.task_view import ORDERED_BY, OpenTask
from warehouse import ServiceRefused
from warehouse.files.atomic_file import keep_from_git, remove_parts
from warehouse.schema.answer_views import person

GUIDE_FILE = "HOW_TO_ANSWER.txt"
GUIDE = """Each .json file here is one task in Label Studio's format. Answer it in one of three ways, then: siftline run

1. siftline answer, in the folder of the project: it shows one task after another and takes a key for each.
2. Import the files into a Label Studio project, label there, export as JSON, and put the export into the folder
   import/ beside this file. Exports name people by number ("completed_by"). Where they come from several Label Studios,
   write names there instead, or person 1 of one counts as person 1 of the other.
3. Or add "annotations" to a task's file by hand, beside its "data", as in

{example}

   "lead_time" is the seconds you spent; to skip a task, write "was_cancelled": true and an empty "result".{several}

The classes are:

{classes}
"""

_SEVERAL = """
   A text may have several classes: name all of them in "choices". Where none fits, leave "choices" empty.
"""

_EXPORT = 'Of Label Studio\'s exports, only "JSON" is read here; JSON-MIN, CSV and the others are not. Remove it.'

_NAME = re.compile(r"[0-9a-f]{20}(-\d+)?")
"""What `TaskFolder.task_id` gives."""


class TaskFolder:
    """Tasks of one project in a folder.

    Args:
        path: the folder; made when the first task is stored.
        project: annotation project, part of every task id.
        multi_label: a task takes any number of classes, else exactly one.
    """

    def __init__(self, path: Path, project: str, *, multi_label: bool = False) -> None:
        self.path = path
        self.project = project
        self.multi_label = multi_label
        self._problems: dict[str, str] = {}
        self._others: list[str] = []

    @property
    def problems(self) -> Mapping[str, str]:
        """Files that the last `pull` left out, and why."""
        return self._problems

    def describe(self) -> str:
        """The folder in words."""
        return f"the folder {self.path}"

    @property
    def ordered(self) -> bool:
        """People open the files as they like."""
        return False

    def ensure_project(self, classes: Sequence[str], *, texts: Sequence[str] = (), image: bool = False) -> bool:
        """Make the folder and write beside the tasks how to answer them and with which classes."""
        made = not self.path.is_dir()
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if made:
            keep_from_git(self.path)
        remove_parts(self.path)
        close_to_others(self.path, [self.path / GUIDE_FILE, *self.path.glob("*.json")])
        guide = self.path / GUIDE_FILE
        chosen = classes[: 2 if self.multi_label else 1]
        annotation = {"result": [choice(chosen)], "completed_by": "your name", "lead_time": 12.5}
        text = GUIDE.format(
            classes="\n".join(classes),
            example=in_words({"annotations": [annotation]}),
            several=_SEVERAL if self.multi_label else "",
        )
        if not guide.is_file() or guide.read_bytes() != text.encode():
            write_text(guide, text)
        return made

    def push(self, tasks: Sequence[Task]) -> Mapping[str, str]:
        """Store one file per task; a task that is there already is left as it is."""
        ids: dict[str, str] = {}
        for task in tasks:
            task_id = self.task_id(task.item_id, task.round)
            path = self._file(task_id)
            if not path.is_file():
                self._write_task(task_id, {"id": task_id, **task.to_label_studio()})
            ids[task.item_id] = task_id
        return ids

    def complete(self, tasks: Mapping[str, Task]) -> None:
        """Nothing: a file is there with all that it holds, or not at all."""

    def find(self, item_ids: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """Task ids of the items that have a file, by round."""
        stored: dict[str, list[str]] = {}
        for path in self.path.glob("*.json"):
            stored.setdefault(_item(path.stem), []).append(path.stem)
        ids = {item_id: stored.get(self.task_id(item_id)) for item_id in item_ids}
        return {item_id: sorted(found, key=_round) for item_id, found in ids.items() if found}

    def changed_at(self, item_ids: Sequence[str]) -> Mapping[tuple[str, str], None]:
        """The tasks that have a file: times of files tell nothing where files are copied and clocks differ."""
        return {(task_id, item_id): None for item_id, found in self.find(item_ids).items() for task_id in found}

    def gave(self, item_id: str, task_id: str) -> bool:
        """Whether a task id is that of the item in some round."""
        return _item(task_id) == self.task_id(item_id)

    def pull(self) -> Iterator[Answer]:
        """All answers in the task files and in exports below `import/`; `problems` then names what was left out."""
        self._problems, self._others = {}, []
        if not self.path.is_dir():
            # Without this an unmounted disk would look like a folder whose answers were all deleted.
            way = "`siftline run` makes it once there is something to ask."
            self._problems[ALL_TASKS] = f"There is no folder {self.path}; {way}"
        for path in sorted(self.path.glob("*.json")):
            yield from self._answers(path)
        for path in sorted((self.path / "import").glob("*")):
            if _is_export(path):
                yield from self._answers(path)
            elif path.is_file() and not path.name.startswith("."):
                self._problems[path.name] = f"The file {path} is no JSON. {_EXPORT}"

    def pull_since(self, cursor: str) -> Pulled:
        """Everything; see `changed_at`."""
        answers = list(self.pull())
        beside: dict[str, str] = {}
        if self._others:
            beside["task files of another project"] = (
                f"{len(self._others):,} in {self.path}, such as {self._others[0]}; answers in them are not taken here. "
                "Move them away, or name another folder under [annotate] for the other project."
            )
        return Pulled(answers=answers, tasks=None, cursor="", beside=beside, of_many=True)

    def withdraw(self, task_ids: Sequence[str]) -> None:
        """Remove the files of tasks without annotations, there or below `import/`.

        Raises:
            ServiceRefused: a file cannot be read, so nobody knows whether it holds an answer.
        """
        with self._alone():
            elsewhere = self._answered_elsewhere()
            for task_id in task_ids:
                path = self._file(task_id)
                if not path.is_file() or task_id in elsewhere:
                    continue
                if not any(task.get("annotations") for task in self._tasks(path)):
                    path.unlink()

    def stored(self) -> Iterator[StoredTask]:
        """The tasks in the files that carry their names; a file that cannot be read is in nobody's way."""
        elsewhere = self._answered_elsewhere()
        for stored in self._stored():
            yield replace(stored, answered=True) if stored.task_id in elsewhere else stored

    def _stored(self) -> Iterator[StoredTask]:
        """As `stored`, without a look at the answers below `import/`."""
        for path in sorted(self.path.glob("*.json")):
            try:
                tasks = self._tasks(path)
            except ServiceRefused:
                continue
            for task in tasks:
                data = task.get("data")
                if isinstance(data, dict) and _item(path.stem) == self.task_id(str(data.get("item_id"))):
                    answered = bool(task.get("annotations"))
                    yield StoredTask(task_id=path.stem, item_id=str(data["item_id"]), data=data, answered=answered)

    def show(self, data: Mapping[str, Mapping[str, Any]]) -> frozenset[str]:
        """Put other data into the files of tasks that nobody answered, by task id; returns those.

        Raises:
            ServiceRefused: a file is gone, cannot be read or does not hold exactly one task.
        """
        changed: set[str] = set()
        with self._alone():
            elsewhere = self._answered_elsewhere()
            for task_id, shown in data.items():
                task = self._one_task(task_id)
                if not task.get("annotations") and task_id not in elsewhere:
                    self._write_task(task_id, {**task, "data": dict(shown)})
                    changed.add(task_id)
        return frozenset(changed)

    def waiting(self, annotator: str, *, people: int) -> list[OpenTask]:
        """The tasks that wait for an annotator, the most valuable first; `problems` then names what was left out.

        Of an item that people were asked about again, only the latest task waits: the others may show an old text.

        Args:
            annotator: whose answer is missing.
            people: how many have to answer or skip a task.
        """
        answered: dict[str, set[str]] = {}
        for answer in self.pull():
            answered.setdefault(answer.task_id, set()).add(person(answer.annotator, answer.annotation_id))
        latest = self._latest("*.json")
        tasks: list[OpenTask] = []
        for stored in self._stored():
            who = answered.get(stored.task_id, set())
            is_latest = _round(stored.task_id) == latest.get(_item(stored.task_id))
            if is_latest and annotator not in who and len(who) < people:
                try:
                    tasks.append(self.open_task(stored.task_id))
                except ServiceRefused as error:
                    self._problems[self._file(stored.task_id).name] = str(error)
        return sorted(tasks, key=lambda task: task.order)

    def is_latest(self, task_id: str) -> bool:
        """Whether people were not asked anew about the item of a task since."""
        item = _item(task_id)
        return self._latest(f"{item}*.json").get(item, 1) <= _round(task_id)

    def _latest(self, pattern: str) -> dict[str, int]:
        """The latest round of each item that has files with such names, by the part of the id that its tasks share."""
        latest: dict[str, int] = {}
        for path in self.path.glob(pattern):
            item = _item(path.stem)
            latest[item] = max(latest.get(item, 1), _round(path.stem))
        return latest

    def open_task(self, task_id: str) -> OpenTask:
        """A task as its file is now.

        Raises:
            ServiceRefused: the file is gone, cannot be read, does not hold exactly one task or has a number in it that
                is not finite.
        """
        task = self._one_task(task_id)
        data = task.get("data")
        if not isinstance(data, dict):
            raise ServiceRefused(f"The task file {self._file(task_id)} has no data. Mend or remove it.")
        for name in ORDERED_BY:
            if isinstance(data.get(name), int | float) and finite(data[name]) is None:
                raise ServiceRefused(f"The task file {self._file(task_id)} has a {name} that is not finite. Mend it.")
        people = {person(answer.annotator, answer.annotation_id) for answer in self._answers(self._file(task_id))}
        return OpenTask.of(task_id, task, frozenset(people))

    def annotate(
        self,
        task_id: str,
        *,
        labels: Sequence[str] | None,
        annotator: str,
        seconds: float,
        shown: Mapping[str, Any] | None = None,
    ) -> None:
        """Add an annotation to a task's file, in the place of an earlier one of the same annotator.

        Args:
            task_id: the task.
            labels: chosen classes; None to skip the task.
            annotator: who answers.
            seconds: time spent.
            shown: data that the annotator saw; None where it cannot have changed since.

        Raises:
            ServiceRefused: the file is gone, cannot be read, does not hold exactly one task, or shows something else.
        """
        now = datetime.now(UTC).isoformat()
        annotation = {
            "id": f"{task_id}-{annotator}",
            "completed_by": annotator,
            "result": [] if labels is None else [choice(labels)],
            "created_at": now,
            "updated_at": now,
            "lead_time": seconds,
        }
        if labels is None:
            annotation["was_cancelled"] = True
        with self._alone():
            task = self._one_task(task_id)
            if shown is not None and shown != task.get("data"):
                raise ServiceRefused(f"The task {task_id} shows something else by now; the answer to it was not kept.")
            others = task.get("annotations") or []
            if not isinstance(others, list) or not all(isinstance(other, dict) for other in others):
                raise ServiceRefused(f"The task file {self._file(task_id)} holds wrong annotations. Mend it.")
            others = [other for other in cast("list[dict[str, Any]]", others) if other.get("id") != annotation["id"]]
            self._write_task(task_id, {**task, "annotations": [*others, annotation]})

    def task_id(self, item_id: str, round: int = 1) -> str:
        """Id of an item's task: a hash, because ids of items are never file names, and the round from the second on."""
        key = json.dumps([self.project, item_id]).encode()
        return hashlib.sha256(key).hexdigest()[:20] + (f"-{round}" if round > 1 else "")

    def _id_of(self, data: Mapping[str, Any]) -> str:
        """Id of the task that has this data."""
        return self.task_id(str(data["item_id"]), int(data.get("round", 1)))

    def _answered_elsewhere(self) -> set[str]:
        """Ids of the tasks with annotations in exports below `import/`; `pull` names those that cannot be read."""
        found: set[str] = set()
        for path in filter(_is_export, (self.path / "import").glob("*")):
            with suppress(ServiceRefused):
                for task in self._tasks(path):
                    if task.get("annotations"):
                        with suppress(AttributeError, KeyError, TypeError, ValueError, OverflowError):
                            if not self._shows_another(task):
                                found.add(self._id_of(task["data"]))
        return found

    def _is_anothers(self, path: Path, tasks: Sequence[Mapping[str, Any]]) -> bool:
        """Whether a file has the name that another project gives to a task of its item."""
        data = [task.get("data") for task in tasks]
        items = [str(one["item_id"]) for one in data if isinstance(one, dict) and "item_id" in one]
        return bool(items) and all(_item(path.stem) != self.task_id(item_id) for item_id in items)

    def _shows_another(self, exported: Mapping[str, Any]) -> bool:
        """Whether an exported task's file shows another text by now: the item was edited, and `show` put it right."""
        try:
            data: Mapping[str, Any] = self._one_task(self._id_of(exported["data"])).get("data") or {}
        except ServiceRefused:
            return False
        return any(data.get(key, text) != text for key, text in exported["data"].items() if key.startswith(TEXT))

    def _file(self, task_id: str) -> Path:
        return self.path / f"{task_id}.json"

    @contextmanager
    def _alone(self) -> Generator[None]:
        """Keep other processes from changing a task file between our reading and our writing it."""
        try:
            folder = os.open(self.path, os.O_RDONLY)
        except FileNotFoundError:
            yield
            return
        try:
            with suppress(OSError):  # some network disks have no such locks
                fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def _write_task(self, task_id: str, task: Mapping[str, Any]) -> None:
        write_text(self._file(task_id), in_words(task) + "\n")

    def _one_task(self, task_id: str) -> dict[str, Any]:
        path = self._file(task_id)
        if not path.is_file():
            raise ServiceRefused(f"The task file {path} is gone; the task was withdrawn.")
        tasks = self._tasks(path)
        if len(tasks) != 1:
            raise ServiceRefused(f"The task file {path} holds {len(tasks)} tasks, one is expected. Mend it.")
        return tasks[0]

    def _tasks(self, path: Path) -> list[dict[str, Any]]:
        anew = "; `siftline queue reconcile` then writes it anew" if path.parent == self.path else ""
        return read_tasks(path, or_else=anew)

    def _answers(self, path: Path) -> Iterator[Answer]:
        """The answers of one file; what is wrong with it is kept in `problems`, and the rest of it still counts."""
        wrong: list[str] = []
        try:
            modified = datetime.fromtimestamp(path.stat().st_mtime, UTC)
            tasks = self._tasks(path)
        except (ServiceRefused, OSError) as error:
            self._problems[path.name] = str(error)
            return
        if path.parent == self.path and _NAME.fullmatch(path.stem) and self._is_anothers(path, tasks):
            self._others.append(path.name)
            return
        for task in tasks:
            if not isinstance(task.get("data"), dict):
                wrong.append(f"a task without its data. {_EXPORT}")
                continue
            annotations = task.get("annotations") or []
            if not isinstance(annotations, list):
                wrong.append(f"annotations of a task are a {type(annotations).__name__}, a list is expected")
                continue
            if not annotations:
                continue
            try:
                task_id = self._id_of(task["data"])
                if path.parent != self.path and self._shows_another(task):
                    item_id = task["data"]["item_id"]
                    raise ValueError(f"the text of {item_id!r} was edited since; the task shows it anew")
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                wrong.append(repr(error))
                continue
            for n, annotation in enumerate(annotations):
                try:
                    answer = answer_of(
                        task, annotation, n, task_id=task_id, multi_label=self.multi_label, modified=modified
                    )
                except (AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError) as error:
                    wrong.append(repr(error))
                else:
                    yield answer
        if wrong:
            more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            self._problems[path.name] = f"The task file {path} holds a wrong annotation ({wrong[0]}){more}. Mend it."


def _is_export(path: Path) -> bool:
    return path.suffix.lower() == ".json"


def _item(task_id: str) -> str:
    """The part of the id that all tasks of an item share."""
    return task_id.partition("-")[0]


def _round(task_id: str) -> int:
    number = task_id.partition("-")[2]
    return int(number) if number.isdecimal() else 1
