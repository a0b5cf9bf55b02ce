"""The annotation service over a Label Studio server: tasks go there, answers come back.

Label Studio is polled. Its tasks have no external key and a repeated import stores them twice, so every task carries
its item id, and task ids are looked up by item id and never inferred from the order of a response. Listings go on from
the last task id seen: with page numbers, a task that is deleted meanwhile would hide another one, which then looked
unsent or unanswered.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from active.annotation.service import ALL_TASKS, Answer, Pulled, StoredTask, Task, choice
from active.label_studio.answers import People, answers_of, item_id_of
from active.label_studio.connection import (
    Connection,
    Json,
    LabelStudio,
    condition,
    count_of,
    json_of,
    rows_of,
    tasks_of,
    time_of,
)
from active.label_studio.environment import TIMEOUT_S
from active.label_studio.labeling_page import Page
from active.label_studio.project import AGAIN, NO_CHOICE, SUGGESTIONS, classes_of, ensure_project, find_project
from warehouse import ServiceError, ServiceRefused

IMPORT_CHUNK = 200
PAGE = 500
_COUNTS = ("total_annotations", "cancelled_annotations")
"""Answers and skips of a task."""
# The ids of one look-up travel in the address of a GET, and proxies refuse addresses from 8 kB on.
LOOKUP_BYTES = 4000
# A change gets its time before it can be read; no request of the server takes longer.
MARGIN = timedelta(minutes=2)
SKEW = timedelta(minutes=1)
"""A server's clock may be ahead of ours by so much, which leaves a minute of `MARGIN` to its requests."""
AHEAD = timedelta(hours=1)
"""So far before our own time the next pull goes on where the server's clock is further ahead."""


class LabelStudioService:
    """One project on one Label Studio server.

    Args:
        url, api_key, project, timeout_s, key_file: as for `Connection`, which also says what it raises.
        annotators_per_task: people who answer each task.
        multi_label: a task takes any number of classes, else exactly one.
        suggest: tasks have suggestions, of which the page speaks.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        project: str,
        *,
        timeout_s: float = TIMEOUT_S,
        annotators_per_task: int = 1,
        multi_label: bool = False,
        suggest: bool = True,
        key_file: Path | None = None,
    ) -> None:
        self._connection = Connection(url, api_key, project, timeout_s=timeout_s, key_file=key_file)
        self._call = self._connection.call
        self.url = self._connection.url
        self.project = project
        self.annotators_per_task = annotators_per_task
        self.multi_label = multi_label
        self.suggest = suggest
        self._project_id: int | None = None
        self._emails: dict[int, str] = {}
        self._own_user: int | None = None
        self._problems: dict[str, str] = {}

    @property
    def _client(self) -> LabelStudio:
        return self._connection.client

    @property
    def problems(self) -> Mapping[str, str]:
        """Why the last `pull` returned nothing, when the project was not there."""
        return self._problems

    def describe(self) -> str:
        """The server and the project, without secrets."""
        return f"Label Studio project '{self.project}' at {self.url}"

    @property
    def ordered(self) -> bool:
        """Annotators get the tasks in the order in which they were stored: sequential sampling goes by task id."""
        return True

    def ensure_project(self, classes: Sequence[str], *, texts: Sequence[str] = (), image: bool = False) -> bool:
        """Find the project or create it, and bring it up to date; see `active.label_studio.project`."""
        page = Page(
            classes=tuple(classes),
            texts=tuple(texts),
            image=image,
            multi_label=self.multi_label,
            suggest=self.suggest,
        )
        self._project_id, created = ensure_project(self._connection, page, annotators_per_task=self.annotators_per_task)
        return created

    def push(self, tasks: Sequence[Task]) -> Mapping[str, str]:
        """Store tasks in the order given, some hundred per request; see `AnnotationService.push`.

        The first one is stored by itself: an import on SQLite, as `siftline studio up` has it, goes on from the highest
        number there. It gives those of withdrawn tasks again, and an answer from a page that still shows the former one
        would be the other's.

        Raises:
            ServiceError: a request failed or was not confirmed; what it stored is found by `find`.
            ServiceRefused: the server does not take these tasks.
        """
        project_id = self._id()
        task_ids: dict[str, str] = {}
        for start in range(0, len(tasks), IMPORT_CHUNK):
            some = tasks[start : start + IMPORT_CHUNK]
            sent = [task.to_label_studio() for task in some]
            chunk: Any = [{**task, "predictions": _predictions(task)} for task in sent]
            if not start:
                self._store_by_itself(project_id, chunk.pop(0))
            if chunk:
                self._call(lambda chunk=chunk: self._client.projects.import_tasks(project_id, request=chunk))
            held = self.find([task.item_id for task in some])
            for task in some:
                fresh = [task_id for task_id in held.get(task.item_id, ()) if task_id not in task.former]
                if fresh:
                    task_ids[task.item_id] = fresh[0]
            missing = [task.item_id for task in some if task.item_id not in task_ids]
            if missing:
                raise ServiceError(
                    f"{self.describe()} took {len(some)} tasks but does not list {len(missing)} of them yet, "
                    f"such as item {missing[0]!r}; run again, nothing is sent twice"
                )
        return task_ids

    def _store_by_itself(self, project_id: int, task: Json) -> None:
        """Store one task with a number above all that the server ever gave, and its suggestion with it."""
        people = self.annotators_per_task
        created: Any = self._call(
            lambda: self._client.tasks.create(project=project_id, data=task["data"], overlap=people)
        )
        self._suggest({self._call(lambda: count_of(created.id)): task["predictions"]})

    def _suggest(self, predictions: Mapping[int, Sequence[Json]]) -> None:
        """Give tasks their suggestions by number, and have the page show suggestions."""
        for number, given in predictions.items():
            for said in given:
                self._call(lambda number=number, said=said: self._client.predictions.create(task=number, **said))
        if any(predictions.values()):  # an import of a project's first suggestions does this by itself
            self._call(lambda: self._client.projects.update(id=self._id(), model_version=SUGGESTIONS))

    def complete(self, tasks: Mapping[str, Task]) -> None:
        """Give the task that a push stored by itself its suggestion, where it died before; see `AnnotationService`."""
        suggested = {task_id: said for task_id, task in tasks.items() if (said := _predictions(task.to_label_studio()))}
        lacking: dict[int, Sequence[Json]] = {}
        for some in _lookups([tasks[task_id].item_id for task_id in suggested]):
            these = condition("data.item_id", "in_list", "String", some)
            for found in self._tasks([these], "id,data,total_predictions"):
                has = self._call(lambda found=found: count_of(found["total_predictions"]))
                if not has and (said := suggested.get(str(found["id"]))):
                    lacking[found["id"]] = said
        self._suggest(lacking)

    def find(self, item_ids: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """Task ids by item id, in ascending order; see `AnnotationService.find`."""
        found: dict[str, list[str]] = {}
        for task_id, item_id in self.changed_at(item_ids):
            found.setdefault(item_id, []).append(task_id)
        return found

    def changed_at(self, item_ids: Sequence[str]) -> Mapping[tuple[str, str], datetime]:
        """When the tasks of these items or their answers were changed last; see `AnnotationService.changed_at`."""
        found: dict[tuple[str, str], datetime] = {}
        for some in _lookups(item_ids):
            wanted = set(some)
            these = condition("data.item_id", "in_list", "String", some)
            for task in self._tasks([these], "id,data,updated_at"):
                item_id = item_id_of(task["data"])
                # The look-up is the server's; what counts is the id that the task really carries.
                if item_id is not None and item_id in wanted:
                    found[str(task["id"]), item_id] = self._changed_at(task)
        return found

    def _changed_at(self, task: Json) -> datetime:
        return self._call(lambda: time_of(task["updated_at"]))

    def gave(self, item_id: str, task_id: str) -> bool:
        """Whether a task id is a number, as those of a server are."""
        return task_id.isdecimal()

    def pull(self) -> Sequence[Answer]:
        """Every annotation of the project's tasks that carry an item id, by task; see `AnnotationService.pull`."""
        return self.pull_since("").answers

    def pull_since(self, cursor: str) -> Pulled:
        """Every annotation of the tasks that were touched since an earlier call; see `AnnotationService.pull_since`.

        The server notes the time at a task whenever one of its annotations is made, edited, skipped or deleted. The
        newest of these times is asked for before anything is read, so what changes meanwhile is read the next time.
        """
        self._problems = {}
        project = self._find_project()
        if project is None:
            self._problems = {ALL_TASKS: f"{self.describe()} does not exist, or this key cannot see it"}
            return Pulled(answers=(), tasks=None, cursor="")
        if not classes_of(project):  # an answer would be taken for a skip, or for none of the classes
            self._problems = {ALL_TASKS: f"{self.describe()}: {NO_CHOICE}"}
            return Pulled(answers=(), tasks=None, cursor="")
        now = datetime.now(UTC)
        made_at = self._call(lambda: time_of(project["created_at"]))
        # Another server may have given the project the same number: the time tells them apart.
        place = f"{project['id']} {made_at.isoformat()}"
        newest = self._newest_change()
        since = _cursor_time(cursor, place)
        if newest is None or (since is not None and newest < since):  # the server went back to an earlier state
            since = None
        if since is None:
            conditions = [condition(count, "greater", "Number", 0) for count in _COUNTS]
        else:
            after = (since - MARGIN).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            conditions = [condition("updated_at", "greater", "Datetime", after)]
        include = "id,data,annotations,completed_by,updated_by,result,was_cancelled,lead_time,created_at,updated_at"
        people = People(several=self.annotators_per_task > 1, name_of=self._email, is_own=self._is_own)
        answers: list[Answer] = []
        read: dict[tuple[str, str], datetime] = {}
        for task in self._tasks(conditions, include, everything=True):
            item_id = item_id_of(task["data"])
            if item_id is None:
                continue
            read[str(task["id"]), item_id] = self._changed_at(task)
            answers += answers_of(task, self.describe(), multi_label=self.multi_label, people=people)
        if newest is not None and newest > now + SKEW:
            newest = now - AHEAD  # once its clock is put right, what is answered has earlier times than that
        return Pulled(
            answers=answers,
            tasks=None if since is None else read,
            cursor="" if newest is None else f"{place} {newest.isoformat()}",
            made_at=made_at,
        )

    def _newest_change(self) -> datetime | None:
        """When a task was touched last, by the server's clock; None where there are no tasks."""
        query = json_of({"ordering": ["-tasks:updated_at"]})
        project_id = self._id()

        def newest() -> datetime | None:
            pager = self._client.tasks.list(
                project=project_id, page=1, page_size=1, include="id,updated_at", fields="task_only", query=query
            )
            return next((time_of(task["updated_at"]) for task in rows_of(pager.items)), None)

        return self._call(newest)

    def register_webhook(self, url: str, *, headers: Mapping[str, str], actions: Sequence[str]) -> None:
        """Enter a webhook of the project on the server, or bring the one with this address up to date.

        Raises:
            ServiceRefused: the server does not take the address; by default it refuses loopback and private ones.
        """
        project_id = self._id()
        known = self._call(lambda: self._client.webhooks.list(project=str(project_id)))
        wanted: dict[str, Any] = {
            "url": url,
            "headers": dict(headers),
            "actions": list(actions),
            "send_payload": False,
            "send_for_all_actions": False,
            "is_active": True,
        }
        same = [hook.id for hook in known if hook.url == url and hook.id is not None]
        if same:
            self._call(lambda: self._client.webhooks.update(id=same[0], **wanted))
        else:
            self._call(lambda: self._client.webhooks.create(project=project_id, **wanted))

    def names_of(self, annotations: Mapping[str, Sequence[tuple[str, ...]]]) -> Mapping[str, str]:
        """What `pull` calls the accounts with these numbers; those left out of which nothing shows that they are here.

        Args:
            annotations: by the account's number some annotations that an export has of it: number and time of making.
                Other servers count alike, and the time tells them apart.
        """
        # A key that is not taken must not look like annotations that are gone.
        self._call(lambda: count_of(self._client.users.whoami().id))
        return {
            number: self._email(int(number))
            for number, said in annotations.items()
            if any(self._has(number, *one) for one in said)
        }

    def _has(self, account: str, annotation_id: str, made_at: str) -> bool:
        """Whether an annotation is on this server, by this account and made at this time."""
        with suppress(ServiceRefused, ValueError, OverflowError):  # not there any more, or no number and no time
            number, time = int(annotation_id), time_of(made_at)
            found: Any = self._call(lambda: self._client.annotations.get(id=number))
            return self._call(lambda: str(found.completed_by) == account and time_of(found.created_at) == time)
        return False

    def stored(self) -> Iterator[StoredTask]:
        """Every task of the project that carries an item id, in ascending order of task id; none without a project."""
        if self._find_project() is None:
            return
        for task in self._tasks([condition("id", "greater", "Number", 0)], ",".join(("id", "data", *_COUNTS))):
            item_id = item_id_of(task["data"])
            if item_id is not None:
                answered = self._call(lambda task=task: any([count_of(task[count]) for count in _COUNTS]))
                yield StoredTask(task_id=str(task["id"]), item_id=item_id, data=task["data"], answered=answered)

    def withdraw(self, task_ids: Sequence[str]) -> None:
        """Delete these tasks, except those that somebody has answered, skipped or begun meanwhile."""
        project_id = self._id()
        for start in range(0, len(task_ids), PAGE):
            some = [int(task_id) for task_id in task_ids[start : start + PAGE]]
            selected: Any = {"all": False, "included": some}
            # The server itself looks for answers and drafts right before it deletes.
            untouched = [condition(count, "equal", "Number", 0) for count in _COUNTS]
            untouched.append(condition("draft_exists", "equal", "Boolean", False))
            filters: Any = {"conjunction": "and", "items": untouched}
            self._call(
                lambda selected=selected, filters=filters: self._client.actions.create(
                    id="delete_tasks", project=project_id, filters=filters, selected_items=selected
                )
            )

    def show(self, data: Mapping[str, Mapping[str, Any]]) -> Collection[str]:
        """Put other data into tasks, by task id; each keeps its place in the order. Returns all of them."""
        for task_id, shown in data.items():
            self._call(lambda task_id=task_id, shown=shown: self._client.tasks.update(id=task_id, data=dict(shown)))
        return data.keys()

    def annotate(self, task_id: str, *, labels: Sequence[str], annotator: str, seconds: float) -> None:
        """Answer a task in the name of a simulated annotator.

        On the server the key's user is the author; the simulated annotator's name stands beside the choice, and `pull`
        returns it while it has a key of that user.
        """
        result = {**choice(labels), "meta": {"annotator": annotator}}
        self._call(
            lambda: self._client.annotations.create(
                id=int(task_id), result=[result], lead_time=seconds, was_cancelled=False
            )
        )

    def check(self) -> None:
        """Refuse a key that the server does not take, and a project of somebody's own that has the name."""
        self._find_project()

    def _id(self) -> int:
        if self._project_id is None and self._find_project() is None:
            raise ServiceRefused(
                f"{self.url} has no project '{self.project}' that this key can see. `siftline run` creates it; if it "
                "was renamed or deleted there, give it its name back."
            )
        assert self._project_id is not None
        return self._project_id

    def _find_project(self) -> Json | None:
        """The project with exactly this title, and its id from now on."""
        found = find_project(self._connection)
        self._project_id = int(found["id"]) if found else None
        return found

    def _tasks(self, conditions: Sequence[Json], include: str, *, everything: bool = False) -> Iterator[Json]:
        """Tasks that meet one of the conditions, in ascending order of id, with the fields in `include`."""
        project_id, last = self._id(), 0
        while True:
            items = [{**condition("id", "greater", "Number", last), "child_filter": c} for c in conditions]
            query = json_of({"filters": {"conjunction": "or", "items": items}, "ordering": ["tasks:id"]})

            def page(query: str = query) -> tuple[list[Json], int]:
                pager = self._client.tasks.list(
                    project=project_id,
                    page=1,
                    page_size=PAGE,
                    include=include,
                    fields="all" if everything else "task_only",
                    query=query,
                    resolve_uri=False,  # a text that looks like an address stays a text
                )
                return tasks_of(pager.items), count_of(pager.response.total)

            tasks, total = self._call(page)
            yield from tasks
            if len(tasks) >= total:
                return
            if not tasks:
                raise ServiceError(f"{self.describe()} lists {total} tasks but returns none of them")
            if tasks[-1]["id"] <= last:
                raise ServiceError(f"{self.describe()} {AGAIN.format('tasks')}")
            last = tasks[-1]["id"]

    def _is_own(self, user_id: int) -> bool:
        """Whether a number is that of the key's own user."""
        if self._own_user is None:
            self._own_user = self._call(lambda: count_of(self._client.users.whoami().id))
        return user_id == self._own_user

    def _email(self, user_id: int) -> str:
        if user_id not in self._emails:
            with suppress(ServiceRefused):  # some keys may not list users; the number then stands for the person
                self._emails.update(
                    self._call(lambda: {u.id: u.email for u in self._client.users.list() if u.id and u.email})
                )
            self._emails.setdefault(user_id, f"user {user_id}")
        return self._emails[user_id]


def _predictions(task: Json) -> list[Json]:
    """A task's suggestions under the one version that the page shows."""
    return [{**said, "model_version": SUGGESTIONS} for said in task.get("predictions", [])]


def _lookups(item_ids: Sequence[str]) -> Iterator[list[str]]:
    """Item ids in groups that fit into an address."""
    group: list[str] = []
    used = 0
    for item_id in dict.fromkeys(item_ids):
        size = len(quote(json_of(item_id), safe="")) + 6
        if group and used + size > LOOKUP_BYTES:
            yield group
            group, used = [], 0
        group.append(item_id)
        used += size
    if group:
        yield group


def _cursor_time(cursor: str, place: str) -> datetime | None:
    """The time in a cursor of the project with this number and birth; None where there is none."""
    there, _, time = cursor.rpartition(" ")
    try:
        return datetime.fromisoformat(time) if there == place else None
    except ValueError:
        return None
