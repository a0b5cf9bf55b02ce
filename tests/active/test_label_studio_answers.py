"""Answers on the server: labels, skips, edits and deletions come back as they are now, with who and how long."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import active.label_studio.service
from active.label_studio.service import LabelStudioService
from active.queue.collect import collect, refusals
from active.queue.outbox import QueueConfig
from active.queue.push import push
from flows.servers.label_studio import StudioInfo
from tests.active.plans import plan, states
from tests.studio import CLASSES, api, choose, make_tasks, project_of, sign_up
from warehouse import Lake

pytestmark = pytest.mark.studio


@pytest.fixture
def project(service: LabelStudioService) -> LabelStudioService:
    service.ensure_project(CLASSES)
    return service


def result(label: str) -> list[dict[str, Any]]:
    return [{"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": [label]}}]


def test_a_label_comes_back_with_who_when_and_how_long(studio: StudioInfo, project: LabelStudioService) -> None:
    ids = project.push(make_tasks(2))
    body = {"result": result("crude"), "lead_time": 7.25}
    made = api(studio, "POST", f"/api/tasks/{ids['item-1']}/annotations/", json=body).json()
    (answer,) = project.pull()
    assert (answer.item_id, answer.task_id, answer.annotation_id) == ("item-1", ids["item-1"], str(made["id"]))
    assert (answer.action, answer.labels, answer.seconds) == ("labelled", ("crude",), 7.25)
    assert answer.annotator == studio.username
    assert abs(datetime.now(UTC) - answer.created_at) < timedelta(minutes=10)


def test_a_time_that_no_clock_shows_is_unknown_and_costs_no_label(
    studio: StudioInfo, project: LabelStudioService
) -> None:
    ids = project.push(make_tasks(1))
    api(
        studio,
        "POST",
        f"/api/tasks/{ids['item-0']}/annotations/",
        json={"result": result("crude"), "lead_time": -5},
    )
    (answer,) = project.pull()
    assert (answer.labels, answer.seconds) == (("crude",), 0.0)


def test_the_simulated_annotator_is_named(project: LabelStudioService) -> None:
    ids = project.push(make_tasks(1))
    project.annotate(ids["item-0"], labels=["earn"], annotator="simulated", seconds=4.5)
    (answer,) = project.pull()
    assert (answer.annotator, answer.labels, answer.seconds) == ("simulated", ("earn",), 4.5)


def test_accounts_of_an_export_are_known_by_its_annotations(studio: StudioInfo, project: LabelStudioService) -> None:
    ids = project.push(make_tasks(2))
    bob = sign_up(studio)
    for item in ("item-0", "item-1"):
        choose(bob, ids[item], "crude")
    project_id = project_of(studio, project)["id"]
    path = f"/api/projects/{project_id}/export"
    first, second = api(studio, "GET", path, params={"exportType": "JSON_MIN"}).json()
    number = str(first["annotator"])
    one, other = [(str(row["annotation_id"]), row["created_at"]) for row in (first, second)]
    assert project.names_of({number: [one]}) == {number: bob.username} == {number: project.pull()[0].annotator}
    deleted, later = ("99999", one[1]), (one[0], other[1])
    assert project.names_of({number: [deleted, later, ("x", "y")], str(int(number) + 1): [one]}) == {}
    assert project.names_of({number: [deleted, other]}) == {number: bob.username}


def test_nobody_answers_in_the_name_of_others(studio: StudioInfo, project: LabelStudioService) -> None:
    ids = project.push(make_tasks(1))
    bob, own = sign_up(studio), api(studio, "GET", "/api/current-user/whoami").json()["id"]
    for name, author in (("ann@example.org", {}), ("simulated", {}), ("ann@example.org", {"completed_by": own})):
        body = {"result": [{**result("earn")[0], "meta": {"annotator": name}}], "lead_time": 1, **author}
        api(bob, "POST", f"/api/tasks/{ids['item-0']}/annotations/", json=body)
    # The server lets anybody name an author; who saved it is nobody's to choose.
    assert [answer.annotator for answer in project.pull()] == 3 * [bob.username]


@pytest.mark.parametrize("people", [1, 2])
def test_an_answer_in_somebody_elses_name_is_of_whose_account_gave_it(
    lake: Lake, studio: StudioInfo, service: LabelStudioService, people: int
) -> None:
    ann, bob = sign_up(studio), sign_up(studio)
    ann_id = api(ann, "GET", "/api/current-user/whoami").json()["id"]
    asked = LabelStudioService(studio.url, studio.api_key, service.project, annotators_per_task=people)
    config = QueueConfig(project=service.project, classes=CLASSES, annotators_per_task=people)
    first, second = plan(lake, service.project, [0.9, 0.8])
    push(lake, asked, config)
    body = {"result": result("earn"), "completed_by": ann_id}
    for user, item in ((bob, first), (studio, second)):
        api(user, "POST", f"/api/tasks/{asked.find([item])[item][0]}/annotations/", json=body)
    told = refusals(collect(lake, asked, config))
    assert told == [
        "answers given in somebody else's name, which count as whose account gave them: "
        f"{bob.username}'s of item '{first}' in the name of {ann.username}"
    ]
    with lake.read() as reader:
        said = reader.rows("SELECT item_id, annotator FROM opinions")
    # Who has the key that Siftline has may bring other people's answers.
    assert sorted(said) == sorted([(first, bob.username), (second, ann.username)])


@pytest.mark.parametrize("beside", [{}, {"meta": {"annotator": "simulated"}}])
def test_of_an_import_that_names_no_importer_people_are_told(
    lake: Lake, studio: StudioInfo, service: LabelStudioService, beside: dict[str, Any]
) -> None:
    bob, own = sign_up(studio), api(studio, "GET", "/api/current-user/whoami").json()["id"]
    config = QueueConfig(project=service.project, classes=CLASSES)
    [item] = plan(lake, service.project, [0.9])
    push(lake, service, config)
    annotation = {"result": [{**result("earn")[0], **beside}], "completed_by": own}
    task = {"data": {"item_id": item, "text": "x"}, "annotations": [annotation]}
    api(bob, "POST", f"/api/projects/{project_of(studio, service)['id']}/import", json=[task])
    told = refusals(collect(lake, service, config))
    name = "simulated" if beside else studio.username
    assert told == [
        "answers of which Label Studio does not say whose account gave them, as those of an import: "
        f"{name}'s of item '{item}'"
    ]


def test_a_task_of_somebody_elses_with_a_list_for_its_id_is_none_of_ours(
    studio: StudioInfo, project: LabelStudioService
) -> None:
    ids = project.push(make_tasks(1))
    task = {"project": project_of(studio, project)["id"], "data": {"item_id": ["item-0"], "text": "x"}}
    api(studio, "POST", "/api/tasks/", json=task)
    assert project.find(["item-0", '["item-0"]']) == {"item-0": [ids["item-0"]]}


def test_a_skip_has_no_label(studio: StudioInfo, project: LabelStudioService) -> None:
    ids = project.push(make_tasks(1))
    api(
        studio,
        "POST",
        f"/api/tasks/{ids['item-0']}/annotations/",
        json={"result": result("earn"), "was_cancelled": True},
    )
    (answer,) = project.pull()
    assert (answer.action, answer.labels) == ("skipped", ())


def test_an_edit_replaces_the_label_under_the_same_id(studio: StudioInfo, project: LabelStudioService) -> None:
    ids = project.push(make_tasks(1))
    project.annotate(ids["item-0"], labels=["earn"], annotator="simulated", seconds=1)
    (before,) = project.pull()
    api(studio, "PATCH", f"/api/annotations/{before.annotation_id}/", json={"result": result("trade")})
    (after,) = project.pull()
    assert (after.annotation_id, after.labels) == (before.annotation_id, ("trade",))
    assert after.updated_at > before.updated_at
    assert after.created_at == before.created_at


def test_a_deleted_answer_is_gone(studio: StudioInfo, project: LabelStudioService) -> None:
    ids = project.push(make_tasks(2))
    for item in ids:
        project.annotate(ids[item], labels=["earn"], annotator="simulated", seconds=1)
    first, second = project.pull()
    api(studio, "DELETE", f"/api/annotations/{first.annotation_id}/")
    assert [answer.annotation_id for answer in project.pull()] == [second.annotation_id]


def test_two_annotators_who_disagree_are_told_apart(studio: StudioInfo, project: LabelStudioService) -> None:
    ids = project.push(make_tasks(1))
    email = f"second-{uuid.uuid4().hex[:8]}@siftline.local"
    user = api(studio, "POST", "/api/users/", json={"email": email, "username": email[:30]}).json()
    path = f"/api/tasks/{ids['item-0']}/annotations/"
    api(studio, "POST", path, json={"result": result("earn")})
    api(studio, "POST", path, json={"result": result("acq"), "completed_by": user["id"]})
    assert {(a.annotator, *a.labels) for a in project.pull()} == {(studio.username, "earn"), (email, "acq")}


def test_many_answers_take_several_pages(project: LabelStudioService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(active.label_studio.service, "PAGE", 4)
    ids = project.push(make_tasks(12))
    for item in list(ids)[::-1][:9]:
        project.annotate(ids[item], labels=["earn"], annotator="simulated", seconds=1)
    assert [answer.item_id for answer in project.pull()] == [f"item-{number}" for number in range(3, 12)]


def test_tasks_that_people_added_themselves_are_none_of_ours(studio: StudioInfo, project: LabelStudioService) -> None:
    project.push(make_tasks(1))
    project_id = api(studio, "GET", "/api/projects/", params={"title": project.project}).json()["results"][0]["id"]
    own = {"text": "typed in", "reason": "", "value": 0}
    task = api(studio, "POST", "/api/tasks/", json={"project": project_id, "data": own}).json()
    api(studio, "POST", f"/api/tasks/{task['id']}/annotations/", json={"result": result("earn")})
    assert project.pull() == []
    assert project.problems == {}


def test_an_item_id_that_is_a_number_is_one_of_an_item_that_we_do_not_know(
    lake: Lake, studio: StudioInfo, project: LabelStudioService
) -> None:
    [item] = plan(lake, project.project, [0.9])
    config = QueueConfig(project=project.project, classes=CLASSES)
    push(lake, project, config)
    project_id = project_of(studio, project)["id"]
    own = {"item_id": 7, "text": "typed in", "reason": "", "value": 0}
    task = api(studio, "POST", "/api/tasks/", json={"project": project_id, "data": own}).json()
    for task_id in (task["id"], *project.find([item])[item]):
        choose(studio, task_id, "earn")
    assert {answer.item_id for answer in project.pull()} == {"7", item}
    [(told, words)] = collect(lake, project, config).detail.items()
    assert told == "answers for unknown items"
    assert words.startswith("1, such as '7'; ids are those")
    assert states(lake) == {"answered": 1}


def test_a_missing_project_is_a_problem_and_not_a_deletion(service: LabelStudioService) -> None:
    assert not service.pull()
    assert "does not exist" in service.problems["all tasks"]
    service.ensure_project(CLASSES)
    assert service.pull() == []
    assert service.problems == {}
