"""Tasks on the server: in order, with suggestions, found again exactly, never taken away from an annotator."""

from collections.abc import Iterator
from typing import Any

import pytest

import active.label_studio.service
from active.annotation.service import Task
from active.label_studio.connection import condition
from active.label_studio.service import LabelStudioService
from flows.servers.label_studio import StudioInfo
from tests.studio import CLASSES, api, make_tasks, project_of
from warehouse import ServiceRefused

pytestmark = pytest.mark.studio

# Ids that JSON, SQL, XML, an address or the server's own decoding could turn into something else.
STRANGE_IDS = (
    "123", "0", "1.0", "1e5", "true", "null", "NaN", "", " padded ", 'a"b', "'q'", "a,b", "[1]", "a\nb", "a\\b", "$x",
    "%41", "%2541", "a%20b", "a+b", "a&b=c", "é", "😀", "\u202e", "<img src=x>", "{{7*7}}", "x" * 300,
)  # fmt: skip
STRANGE_TEXTS = (
    "<img src=x onerror=alert(1)>",
    "{{7*7}} ${7*7} $reason",
    "bidi \u202e marks \u200f and \x1b[31mANSI\x1b[0m",
    "http://example.com/a.png",
    "s3://bucket/key.txt",
    "gs://bucket/key.txt",
    "line one\r\nline two\n\ttabbed  ",
)


@pytest.fixture
def project(service: LabelStudioService) -> LabelStudioService:
    service.ensure_project(CLASSES)
    return service


def task(item_id: str, text: str = "text") -> Task:
    return Task(item_id=item_id, text=text, cycle=1, rank=1, value=0.5, reason="reason")


def test_a_hundred_tasks_arrive_with_their_suggestions(
    studio: StudioInfo, project: LabelStudioService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(active.label_studio.service, "IMPORT_CHUNK", 40)
    tasks = make_tasks(100)
    ids = project.push(tasks)
    assert list(ids) == [task.item_id for task in tasks]
    assert project.find([task.item_id for task in tasks]) == {item: [task_id] for item, task_id in ids.items()}
    stored = api(studio, "GET", f"/api/tasks/{ids['item-7']}/").json()
    assert stored["data"] == tasks[7].to_label_studio()["data"]
    (prediction,) = stored["predictions"]
    assert prediction["result"][0]["value"] == {"choices": [tasks[7].prediction]}
    assert (prediction["score"], prediction["model_version"]) == (0.6, "siftline")


def test_annotators_get_the_tasks_in_descending_value(studio: StudioInfo, project: LabelStudioService) -> None:
    tasks = make_tasks(6)
    project.push(tasks)
    project_id = project_of(studio, project)["id"]
    given: list[str] = []
    for _ in tasks:
        following = api(studio, "GET", f"/api/projects/{project_id}/next").json()
        given.append(following["data"]["item_id"])
        project.annotate(str(following["id"]), labels=["earn"], annotator="simulated", seconds=1)
    assert given == [task.item_id for task in tasks]


def test_strange_ids_are_found_exactly(project: LabelStudioService) -> None:
    ids = project.push([task(item_id) for item_id in STRANGE_IDS])
    assert project.find(STRANGE_IDS) == {item_id: [ids[item_id]] for item_id in STRANGE_IDS}
    assert project.find(["1", "12", "false", "none", "A", "padded", "x" * 299, "10", "a b"]) == {}


def test_strange_texts_are_stored_byte_for_byte(studio: StudioInfo, project: LabelStudioService) -> None:
    ids = project.push([task(f"t{number}", text) for number, text in enumerate(STRANGE_TEXTS)])
    stored = [api(studio, "GET", f"/api/tasks/{task_id}/").json()["data"]["text"] for task_id in ids.values()]
    assert stored == list(STRANGE_TEXTS)


def test_tasks_of_other_projects_are_not_found(studio: StudioInfo, project: LabelStudioService) -> None:
    project.push(make_tasks(2))
    other = LabelStudioService(studio.url, studio.api_key, project.project + " b")
    other.ensure_project(CLASSES)
    assert other.find(["item-0", "item-1"]) == {}


def test_every_copy_of_a_task_is_found(project: LabelStudioService) -> None:
    project.push(make_tasks(1))
    project.push(make_tasks(1))
    (copies,) = project.find(["item-0"]).values()
    assert len(set(copies)) == 2


def test_a_task_deleted_between_two_pages_hides_no_other(
    project: LabelStudioService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(active.label_studio.service, "PAGE", 5)
    tasks = make_tasks(17)
    ids = project.push(tasks)
    listing: Iterator[dict[str, Any]] = project._tasks(  # pyright: ignore[reportPrivateUsage]
        [condition("id", "greater", "Number", 0)], "id,data"
    )
    seen = [str(next(listing)["id"])]
    project.withdraw([ids["item-0"], ids["item-1"]])
    seen += [str(found["id"]) for found in listing]
    assert set(seen) >= {ids[task.item_id] for task in tasks[2:]}


def test_withdrawn_tasks_are_gone_and_answered_ones_stay(project: LabelStudioService) -> None:
    ids = project.push(make_tasks(3))
    project.annotate(ids["item-1"], labels=["acq"], annotator="simulated", seconds=1)
    project.withdraw([ids["item-0"], ids["item-1"]])
    assert set(project.find(["item-0", "item-1", "item-2"])) == {"item-1", "item-2"}
    assert len(project.pull()) == 1
    project.withdraw([ids["item-0"]])  # once more changes nothing
    project.withdraw([])
    assert set(project.find(["item-0", "item-1", "item-2"])) == {"item-1", "item-2"}


def test_no_number_is_given_to_two_tasks(studio: StudioInfo, project: LabelStudioService) -> None:
    """A page that still shows a withdrawn task sends its answer to the number that this one had."""
    before = project.push(make_tasks(4))
    project.withdraw([before["item-2"], before["item-3"]])
    after = project.push(make_tasks(3, first=4))
    assert min(map(int, after.values())) > max(map(int, before.values()))
    assert [int(number) for number in after.values()] == sorted(map(int, after.values()))


def test_a_task_that_is_stored_alone_has_all_that_others_have(studio: StudioInfo, service: LabelStudioService) -> None:
    two = LabelStudioService(studio.url, studio.api_key, service.project, annotators_per_task=2)
    two.ensure_project(CLASSES)
    alone, other = (api(studio, "GET", f"/api/tasks/{number}/").json() for number in two.push(make_tasks(2)).values())
    assert alone["data"] == make_tasks(1)[0].to_label_studio()["data"]
    differs = {"id", "data", "inner_id", "created_at", "updated_at", "updated_by", "predictions"}
    assert {k: v for k, v in alone.items() if k not in differs} == {k: v for k, v in other.items() if k not in differs}
    assert alone["overlap"] == 2
    assert other["inner_id"] == alone["inner_id"] + 1
    ours, theirs = alone["predictions"][0], other["predictions"][0]
    assert ours["result"][0]["value"] == {"choices": [CLASSES[0]]}
    assert (ours["score"], ours["model_version"]) == (theirs["score"], theirs["model_version"]) == (0.6, "siftline")


def test_suggestions_of_a_project_that_has_one_task_are_those_shown(
    studio: StudioInfo, project: LabelStudioService
) -> None:
    project.push(make_tasks(1))
    assert project_of(studio, project)["model_version"] == "siftline"


def test_without_a_project_push_says_what_to_do(service: LabelStudioService) -> None:
    with pytest.raises(ServiceRefused, match="siftline run"):
        service.push(make_tasks(1))
