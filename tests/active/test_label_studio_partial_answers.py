"""The server's answer is no error and lacks what decides: nobody's answer is lost, and the next collect goes on."""

import json
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import httpx
import pytest

from active.label_studio.service import LabelStudioService
from active.queue.collect import collect
from active.queue.outbox import QueueConfig
from active.queue.push import push
from flows.servers.label_studio import StudioInfo
from tests.active.plans import plan, states
from tests.lakes import copy_of
from tests.studio import CLASSES, Answer, choose, make_tasks, proxy
from warehouse import Lake, ServiceError

pytestmark = pytest.mark.studio

Json = dict[str, Any]


def changed(studio: StudioInfo, change: Callable[[Json], object]) -> Answer:
    """What the server answers, with something changed in it."""

    def answer(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        headers = {"Authorization": handler.headers["Authorization"]}
        page = httpx.get(studio.url + handler.path, headers=headers, timeout=60, trust_env=False).json()
        change(page)
        content = json.dumps(page).encode()
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def first(page: Json) -> Json:
    return page["tasks"][0]


def said(page: Json) -> Json:
    return first(page)["annotations"][0]


CHANGES: dict[str, Callable[[Json], object]] = {
    "no annotations": lambda page: first(page).pop("annotations"),
    "annotations: null": lambda page: first(page).update(annotations=None),
    "annotations: a count": lambda page: first(page).update(annotations=1),
    "an annotation that is a number": lambda page: first(page).update(annotations=[7]),
    "no result": lambda page: said(page).pop("result"),
    "result: texts": lambda page: said(page).update(result=["acq"]),
    "no choices": lambda page: said(page)["result"][0]["value"].pop("choices"),
    "choices: a text": lambda page: said(page)["result"][0]["value"].update(choices="acq"),
    "no was_cancelled": lambda page: said(page).pop("was_cancelled"),
    "was_cancelled: null": lambda page: said(page).update(was_cancelled=None),
    "no annotation id": lambda page: said(page).pop("id"),
    "no author": lambda page: said(page).pop("completed_by"),
    "no time": lambda page: said(page).update(updated_at=None),
    "seconds without end": lambda page: said(page).update(lead_time=10**400),
    "no task id": lambda page: first(page).pop("id"),
    "no data": lambda page: first(page).pop("data"),
    "no tasks": lambda page: page.pop("tasks"),
    "no total": lambda page: page.pop("total"),
}


Answered = tuple[Lake, LabelStudioService, QueueConfig]


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory, studio: StudioInfo) -> Iterator[Answered]:
    """A warehouse with two answered tasks and the project on the server, for tests after which it is as it was."""
    service = LabelStudioService(studio.url, studio.api_key, f"test {uuid.uuid4().hex[:12]}")
    config = QueueConfig(project=service.project, classes=CLASSES)
    with copy_of(Lake, tmp_path_factory.mktemp("answered") / "lake") as lake:
        ids = plan(lake, service.project, [0.9, 0.8])
        push(lake, service, config)
        for item in ids:
            choose(studio, service.find([item])[item][0], "acq")
        collect(lake, service, config)
        assert states(lake) == {"answered": 2}
        yield lake, service, config


@pytest.mark.parametrize("change", CHANGES)
def test_what_lacks_what_decides_is_an_error_and_changes_nothing(
    answered: Answered, studio: StudioInfo, change: str
) -> None:
    lake, service, config = answered

    def listing(method: str, path: str) -> Answer | None:
        return changed(studio, CHANGES[change]) if "fields=all" in path else None

    with proxy(studio, swap=listing) as url, pytest.raises(ServiceError):
        collect(lake, LabelStudioService(url, studio.api_key, service.project), config)
    with lake.read() as reader:
        assert reader.rows("SELECT action, class_id FROM annotations") == [("labelled", 1)] * 2
    assert states(lake) == {"answered": 2}
    assert not collect(lake, service, config).committed


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda page: said(page)["result"][0].update(meta={"annotator": "\ud800"}), []),
        (lambda page: said(page)["result"][0]["value"].update(choices=["\ud800"]), ["unknown labels"]),
    ],
    ids=["a name", "a class"],
)
def test_half_a_surrogate_pair_costs_no_other_answer(
    lake: Lake, studio: StudioInfo, service: LabelStudioService, change: Callable[[Json], object], told: list[str]
) -> None:
    """Label Studio itself answers 500 where an answer holds one; one that escapes it is told apart."""
    config = QueueConfig(project=service.project, classes=CLASSES)
    items = plan(lake, service.project, [0.9, 0.8])
    push(lake, service, config)
    for item in items:
        choose(studio, service.find([item])[item][0], "acq")

    def listing(method: str, path: str) -> Answer | None:
        return changed(studio, change) if "fields=all" in path else None

    with proxy(studio, swap=listing) as url:
        result = collect(lake, LabelStudioService(url, studio.api_key, service.project), config)
    assert list(result.detail) == told
    with lake.read() as reader:
        read = reader.rows("SELECT item_id, annotator FROM opinions")
    assert sorted(read) == sorted((item, studio.username) for item in items[len(told) :])


def test_a_task_whose_answers_are_not_counted_is_not_taken_for_an_open_one(
    studio: StudioInfo, service: LabelStudioService
) -> None:
    service.ensure_project(CLASSES)
    service.push(make_tasks(1))

    def listing(method: str, path: str) -> Answer | None:
        if "fields=task_only" not in path:
            return None
        return changed(studio, lambda page: first(page).pop("total_annotations"))

    with proxy(studio, swap=listing) as url, pytest.raises(ServiceError):
        list(LabelStudioService(url, studio.api_key, service.project).stored())
