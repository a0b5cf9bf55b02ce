"""The project on a Label Studio server: found by its title, made when it is missing, kept in step with the settings.

Changed classes change the page of the project that is there, so tasks and answers stay. The server checks each page
before it is taken, and refuses one without a class that somebody chose.
"""

import re
from typing import Any

from active.annotation.service import LABEL, TEXT
from active.label_studio.connection import Connection, Json, condition, count_of, json_of, rows_of, text_of
from active.label_studio.labeling_page import Page, fits, label_config, updated
from warehouse import ServiceError, ServiceRefused

# The first release that guards webhooks against server-side request forgery and keeps its secret key private.
OLDEST_VERSION = (1, 23, 2)
SAMPLING = "Sequential sampling"
# A skip is an answer, as the queue counts it: by its default the server would ask everybody else about a skipped text.
SKIPPED = "IGNORE_SKIPPED"
# Label Studio shows the suggestions of one model version per project, and keeps to the first it has seen.
SUGGESTIONS = "siftline"
MADE = "Made by Siftline"
"""How the description of a project begins that was made here."""
_OWN_KEYS = ("item_id", "cycle", "rank")
"""What the data of every task has that was sent from here."""

NO_CHOICE = (
    f"its labeling page has no Choices named '{LABEL}' for a Text named '{TEXT}', so answers given there cannot be "
    "read. If it is a project of your own, give Siftline's another `name` under [project] of siftline.toml, and take "
    "your answers in with `siftline import`. If Siftline made it, delete the answers that were given on this page; the "
    "next run then puts it right."
)

AGAIN = (
    "lists the same {} again: it, or a cache before it, does not look at what is asked. Have what stands before it "
    "pass requests on as they are, and run again"
)
"""Of a listing whose next page brings nothing new, so that it would never end."""


def find_project(connection: Connection) -> Json | None:
    """The project with exactly this title.

    Raises:
        ServiceRefused: there are several, or it is somebody's own: Siftline made neither it nor one of its tasks.
        ServiceError: the server lists the same ones again and again.
    """
    title = connection.place.project

    def named() -> list[Json]:
        page, found, seen = 1, [], set[int]()
        while True:
            pager = connection.client.projects.list(title=title, page=page, page_size=100)
            projects, total = rows_of(pager.items), count_of(pager.response.count)
            fresh = {count_of(project["id"]) for project in projects} - seen
            if projects and not fresh:
                raise ServiceError(f"{connection.url} {AGAIN.format('projects')}")
            found += [project for project in projects if project["title"] == title and project["id"] in fresh]
            page, seen = page + 1, seen | fresh
            if not projects or len(seen) >= total:
                return found

    found = connection.call(named)
    if len(found) > 1:
        ids = ", ".join(str(project["id"]) for project in found)
        raise ServiceRefused(f"{connection.url} has {len(found)} projects '{title}' (ids {ids}); rename all but one")
    if found and not _is_ours(connection, found[0]):
        raise ServiceRefused(
            f"Label Studio project '{title}' at {connection.url} was not made by Siftline, and none of the tasks that "
            f"it has ({found[0]['task_number']:,}) was: it is a project of your own, and stays as it is. Give Siftline "
            "another `name` under [project] of siftline.toml, or that project another title in Label Studio. Answers "
            "that were given there come in with `siftline import`."
        )
    return found[0] if found else None


def _is_ours(connection: Connection, project: Json) -> bool:
    """Whether the project was made here, has a task from here, or has none and may have been made for Siftline."""
    if str(project.get("description") or "").startswith(MADE):
        return True
    if not connection.call(lambda: count_of(project["task_number"])):
        return True
    sent = [condition(f"data.{key}", "empty", "String", False) for key in _OWN_KEYS]
    query = json_of({"filters": {"conjunction": "and", "items": sent}})

    def total() -> int:
        pager = connection.client.tasks.list(
            project=project["id"], page=1, page_size=1, include="id", fields="task_only", query=query
        )
        return count_of(pager.response.total)

    return connection.call(total) > 0


def ensure_project(connection: Connection, page: Page, *, annotators_per_task: int = 1) -> tuple[int, bool]:
    """Find the project or create it; bring its page, its order of tasks and its suggestions up to date.

    A page that offers the classes already is left as it is, also when a person has redesigned it.

    Returns:
        The project's id, and whether it was made.

    Raises:
        ServiceRefused: the server is too old, or answers exist for a class that is no longer there.
        ServiceError: the server did not answer as it should.
    """
    _check_version(connection)
    found = find_project(connection)
    if found is None:
        created: Any = connection.call(
            lambda: connection.client.projects.create(
                title=connection.place.project,
                label_config=label_config(page),
                sampling=SAMPLING,
                show_collab_predictions=True,
                maximum_annotations=annotators_per_task,
                skip_queue=SKIPPED,
                description=f"{MADE}: it adds tasks in descending value and collects the answers.",
            )
        )
        return connection.call(lambda: count_of(created.id)), True
    changes: Json = {}
    old = found.get("label_config")
    offered = classes_of(found)
    if not offered or not isinstance(old, str):
        changes["label_config"] = label_config(page)
    elif not fits(old, offered, page):
        changes["label_config"] = updated(old, page)
    if found.get("sampling") != SAMPLING:
        changes["sampling"] = SAMPLING
    if found.get("skip_queue") != SKIPPED:
        changes["skip_queue"] = SKIPPED
    if found.get("maximum_annotations") != annotators_per_task:
        changes["maximum_annotations"] = annotators_per_task
    if not found.get("show_collab_predictions"):
        changes["show_collab_predictions"] = True
    if found.get("model_version") not in (None, "", SUGGESTIONS):
        changes["model_version"] = ""  # the server sets it to that of the next tasks
    if changes:
        if "label_config" in changes:
            gone = [name for name in offered if name not in page.classes]
            _check_page(connection, found, changes["label_config"], gone)
        connection.call(lambda: connection.client.projects.update(id=found["id"], **changes))
    return int(found["id"]), False


def _check_page(connection: Connection, project: Json, config: str, gone: list[str]) -> None:
    """Let the server check a page against the answers that it has: a change alone would let answers lose their class.

    Args:
        connection: to the server.
        project: the project that the page is for, as it is.
        config: the page.
        gone: classes that the page before had and this one has not.

    Raises:
        ServiceRefused: people chose one of these classes, or the page is not one.
    """
    try:
        connection.call(lambda: connection.client.projects.validate_label_config(id=project["id"], label_config=config))
    except ServiceRefused as refusal:
        if not classes_of(project):
            raise ServiceRefused(f"Project '{connection.place.project}': {NO_CHOICE} {refusal}") from None
        if not gone:
            raise
        raise ServiceRefused(
            f"The classes of project '{connection.place.project}' cannot be changed: {', '.join(map(repr, gone))} is "
            "not in [project] classes, but answers or drafts chose it. If it was there before, put it back at its "
            "place. If somebody wrote it on the labeling page, as an alias may be, or it is to go, delete these in "
            f"Label Studio first. {refusal}"
        ) from None


def _check_version(connection: Connection) -> None:
    release = connection.call(lambda: text_of(connection.client.versions.get().release))
    version = tuple(int(number) for number in re.findall(r"\d{1,9}", release)[:3])
    if version < OLDEST_VERSION:
        needed = ".".join(map(str, OLDEST_VERSION))
        raise ServiceRefused(
            f"{connection.url} runs Label Studio {release}; Siftline needs {needed} or newer: upgrade it"
        )


def classes_of(project: Json) -> list[str]:
    """Classes that the project's labeling page offers for our choice; empty when it has none."""
    controls = project.get("parsed_label_config")
    control = controls.get(LABEL) if isinstance(controls, dict) else None
    labels = control.get("labels") if isinstance(control, dict) and control.get("to_name") == [TEXT] else None
    return [str(label) for label in labels] if isinstance(labels, list) else []
