"""The queue over a real server that loses responses: every item is there at most once always, and once in the end."""

from collections.abc import Sequence
from pathlib import Path

import pytest

import active.label_studio.service
from active.label_studio.service import LabelStudioService
from active.queue.collect import collect
from active.queue.outbox import QueueConfig
from active.queue.push import push
from active.queue.reconcile import reconcile
from active.task_folder.service import TaskFolder
from flows.servers.label_studio import StudioInfo
from tests.active.plans import plan, states
from tests.lakes import copy_of
from tests.studio import CLASSES, api, choose, project_of, proxy, sign_up
from warehouse import Delete, Lake, ServiceError, ServiceRefused, Upsert

pytestmark = pytest.mark.studio


def planned(lake: Lake, project: str, count: int) -> list[str]:
    return plan(lake, project, [1 - number / 100 for number in range(count)])


def assert_each_once(service: LabelStudioService, ids: Sequence[str]) -> None:
    assert {item: len(tasks) for item, tasks in service.find(ids).items()} == dict.fromkeys(ids, 1)


def through(url: str, studio: StudioInfo, service: LabelStudioService) -> LabelStudioService:
    return LabelStudioService(url, studio.api_key, service.project)


def test_a_batch_that_was_stored_but_not_confirmed_is_not_sent_again(
    lake: Lake, studio: StudioInfo, service: LabelStudioService
) -> None:
    config = QueueConfig(project=service.project, classes=CLASSES)
    ids = planned(lake, service.project, 20)
    lost_import = proxy(studio, lambda method, path: method == "POST" and "/import" in path)
    with lost_import as url, pytest.raises(ServiceError, match="cannot be reached"):
        push(lake, through(url, studio, service), config)
    assert states(lake) == {"sent": 20}
    assert_each_once(service, ids)  # stored, though nobody was told
    push(lake, service, config)
    assert states(lake) == {"confirmed": 20}
    assert_each_once(service, ids)


def test_half_a_stored_batch_is_completed(
    lake: Lake, studio: StudioInfo, service: LabelStudioService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(active.label_studio.service, "IMPORT_CHUNK", 10)
    config = QueueConfig(project=service.project, classes=CLASSES)
    ids = planned(lake, service.project, 30)
    imports: list[str] = []

    def second(method: str, path: str) -> bool:
        if method == "POST" and "/import" in path:
            imports.append(path)
        return len(imports) == 2

    with proxy(studio, second) as url, pytest.raises(ServiceError):
        push(lake, through(url, studio, service), config)
    assert len(service.find(ids)) == 20
    push(lake, service, config)
    assert states(lake) == {"confirmed": 30}
    assert_each_once(service, ids)


def test_a_project_that_was_made_but_not_confirmed_is_made_once(
    lake: Lake, studio: StudioInfo, service: LabelStudioService
) -> None:
    config = QueueConfig(project=service.project, classes=CLASSES)
    ids = planned(lake, service.project, 3)
    lost_creation = proxy(studio, lambda method, path: method == "POST" and path == "/api/projects/")
    with lost_creation as url, pytest.raises(ServiceError):
        push(lake, through(url, studio, service), config)
    assert states(lake) == {"planned": 3}
    push(lake, service, config)
    assert_each_once(service, ids)  # fails when the server has two projects of this name


def test_answers_edits_and_deletions_reach_the_warehouse(
    lake: Lake, studio: StudioInfo, service: LabelStudioService
) -> None:
    config = QueueConfig(project=service.project, classes=CLASSES)
    ids = planned(lake, service.project, 4)
    push(lake, service, config)
    tasks = service.find(ids)
    for item in ids[:3]:
        service.annotate(tasks[item][0], labels=["acq"], annotator="simulated", seconds=2)
    collect(lake, service, config)
    assert states(lake) == {"answered": 3, "confirmed": 1}
    edited, deleted, _ = service.pull()
    other = [{"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": ["trade"]}}]
    api(studio, "PATCH", f"/api/annotations/{edited.annotation_id}/", json={"result": other})
    api(studio, "DELETE", f"/api/annotations/{deleted.annotation_id}/")
    collect(lake, service, config)
    again = collect(lake, service, config)
    assert not again.committed
    with lake.read() as reader:
        assert dict(reader.rows("SELECT item_id, class_id FROM gold_labels")) == {ids[0]: 3, ids[2]: 1}
        assert reader.scalar("SELECT count(*) FROM annotations") == 5
    assert states(lake) == {"answered": 2, "confirmed": 2}


def test_reconcile_sends_what_was_deleted_there_and_withdraws_copies(
    lake: Lake, studio: StudioInfo, service: LabelStudioService
) -> None:
    config = QueueConfig(project=service.project, classes=CLASSES)
    ids = planned(lake, service.project, 6)
    push(lake, service, config)
    tasks = service.find(ids)
    project_id = project_of(studio, service)["id"]
    copies = [{"data": {"item_id": item, "text": "copy", "reason": "", "value": 0}} for item in ids[1:4]]
    api(studio, "POST", f"/api/projects/{project_id}/import", json=copies)
    api(studio, "DELETE", f"/api/tasks/{tasks[ids[0]][0]}/")
    for task in service.find([ids[2]])[ids[2]]:
        choose(studio, task, "earn")
    copy = service.find([ids[3]])[ids[3]][1]
    choose(studio, copy, "earn")
    report = reconcile(lake, service, config)
    assert (report.sent_again, report.withdrawn, report.renumbered, report.agreed) == (1, 2, 1, 4)
    assert list(report.doubled) == [ids[2]]
    assert {item: len(held) for item, held in service.find(ids).items()} == {**dict.fromkeys(ids, 1), ids[2]: 2}
    assert service.find(ids)[ids[1]] == tasks[ids[1]]
    assert service.find(ids)[ids[3]] == [copy], "of two tasks the answered one stays"
    assert "more than one answered task" in "\n".join(report.lines())


def test_reconcile_takes_in_tasks_that_the_warehouse_forgot_and_leaves_strangers(
    lake: Lake, studio: StudioInfo, service: LabelStudioService
) -> None:
    """The warehouse was restored from an older copy: its queue does not know what it sent since."""
    config = QueueConfig(project=service.project, classes=CLASSES)
    ids = planned(lake, service.project, 4)
    push(lake, service, config)
    choose(studio, service.find(ids)[ids[3]][0], "acq")
    with lake.stage("set back", version=1, inputs=()) as stage:
        stage.commit([Delete("queue", stage.arrow("SELECT project FROM queue LIMIT 1"))])
    project_id = project_of(studio, service)["id"]
    others = [{"data": {"item_id": "of another warehouse", "text": "t", "reason": "", "value": 0}}]
    others.append({"data": {"text": "typed in", "reason": "", "value": 0}})
    api(studio, "POST", f"/api/projects/{project_id}/import", json=others)
    report = reconcile(lake, service, config)
    assert (report.adopted, report.strangers, report.withdrawn, report.sent_again) == (4, 1, 0, 0)
    with lake.read() as reader:
        assert reader.rows("SELECT item_id, value, rank, reason, state FROM queue ORDER BY rank LIMIT 2") == [
            ("news-0", 1.0, 1, "unsure", "confirmed"),
            ("news-1", 0.99, 2, "unsure", "confirmed"),
        ]
    collect(lake, service, config)
    assert states(lake) == {"answered": 1, "confirmed": 3}
    assert reconcile(lake, service, config).lines() == [
        "3 tasks agree with the service",
        "1 task of an item that this warehouse does not hold, left alone",
    ]


def test_a_project_of_another_warehouse_is_left_alone(
    lake: Lake, studio: StudioInfo, service: LabelStudioService, tmp_path: Path
) -> None:
    config = QueueConfig(project=service.project, classes=CLASSES)
    ids = planned(lake, service.project, 3)
    push(lake, service, config)
    choose(studio, service.find(ids)[ids[0]][0], "earn")
    stored = list(service.stored())
    with copy_of(Lake, tmp_path / "other") as other:
        ids = planned(other, service.project, 3)
        push(other, TaskFolder(tmp_path / "tasks", service.project), config)
        with other.stage("other records", version=1, inputs=()) as stage:
            others = "* EXCLUDE (run_id, committed_at, changed_at) REPLACE ('other ' || content AS content)"
            stage.commit([Upsert("items", stage.arrow(f"SELECT {others} FROM items"))])
        for step in (push, collect, reconcile):
            with pytest.raises(ServiceRefused, match=r"3 of this .* 3 of them show another .*\[project\] name"):
                step(other, service, QueueConfig(project=service.project, classes=("other", "classes")))
        with other.read() as reader:
            assert reader.scalar("SELECT count(*) FROM annotations") == 0
        assert states(other) == {"confirmed": 3}  # in the folder that the project was in before
        assert list(service.stored()) == stored
        # As where a warehouse begins anew and one record was edited since.
        with other.stage("the same records", version=1, inputs=()) as stage:
            again = "* EXCLUDE (run_id, committed_at, changed_at) REPLACE (content[7:] AS content)"
            items = stage.arrow(f"SELECT {again} FROM items WHERE item_id <> ?", [ids[1]])
            stage.commit([Upsert("items", items)])
        assert push(other, service, config).detail["sent"] == 0
        collect(other, service, config)
        assert states(other) == {"confirmed": 2, "answered": 1}


def test_reconcile_puts_edited_tasks_right_and_leaves_answered_ones(
    lake: Lake, studio: StudioInfo, service: LabelStudioService
) -> None:
    config = QueueConfig(project=service.project, classes=CLASSES)
    ids = planned(lake, service.project, 3)
    push(lake, service, config)
    tasks = service.find(ids)
    choose(studio, tasks[ids[1]][0], "acq")
    for item in ids[:2]:
        shown = api(studio, "GET", f"/api/tasks/{tasks[item][0]}/").json()["data"]
        api(studio, "PATCH", f"/api/tasks/{tasks[item][0]}/", json={"data": {**shown, "text": "edited"}})
    report = reconcile(lake, service, config)
    assert (report.restored, list(report.edited)) == (1, [ids[1]])
    assert api(studio, "GET", f"/api/tasks/{tasks[ids[0]][0]}/").json()["data"]["text"] == "Text of news-0"
    assert api(studio, "GET", f"/api/tasks/{tasks[ids[1]][0]}/").json()["data"]["text"] == "edited"
    assert service.find(ids) == tasks


def test_more_annotators_and_other_classes_reach_the_server_also_when_nothing_is_planned(
    lake: Lake, studio: StudioInfo, service: LabelStudioService
) -> None:
    [item] = planned(lake, service.project, 1)
    push(lake, service, QueueConfig(project=service.project, classes=CLASSES))
    [task_id] = service.find([item])[item]
    choose(studio, task_id, "acq")
    collect(lake, service, QueueConfig(project=service.project, classes=CLASSES))
    assert states(lake) == {"answered": 1}
    two = QueueConfig(project=service.project, classes=(*CLASSES, "grain"), annotators_per_task=2)
    raised = LabelStudioService(studio.url, studio.api_key, service.project, annotators_per_task=2)
    collect(lake, raised, two)
    assert states(lake) == {"confirmed": 1}  # it waits for a second answer
    assert not push(lake, raised, two).committed
    project = project_of(studio, service)
    assert project["maximum_annotations"] == 2
    assert "grain" in str(project["label_config"])
    second = sign_up(studio)
    assert api(second, "GET", f"/api/projects/{project['id']}/next").json()["id"] == int(task_id)
    choose(second, task_id, "grain")
    collect(lake, raised, two)
    assert states(lake) == {"answered": 1}


@pytest.mark.parametrize("mend", ["reconcile", "push", "push of nothing new"])
def test_a_project_deleted_there_is_made_again_with_all_open_tasks(
    lake: Lake, studio: StudioInfo, service: LabelStudioService, mend: str
) -> None:
    config = QueueConfig(project=service.project, classes=CLASSES)
    ids = planned(lake, service.project, 5)
    push(lake, service, config)
    choose(studio, service.find(ids)[ids[0]][0], "acq")
    collect(lake, service, config)
    api(studio, "DELETE", f"/api/projects/{project_of(studio, service)['id']}/")
    again = LabelStudioService(studio.url, studio.api_key, service.project)
    if mend == "reconcile":
        assert reconcile(lake, again, config).sent_again == 4
    else:
        if mend == "push":
            ids += plan(lake, service.project, [0.5], cycle=2, name="later")
        assert "it was made anew" in push(lake, again, config).detail["advice"]
    assert_each_once(again, ids[1:])
    assert not again.find(ids[:1])
    assert collect(lake, again, config).detail == {"answers from before the project there was made, all kept": 1}
    with lake.read() as reader:
        assert reader.rows("SELECT item_id, class_id FROM gold_labels") == [(ids[0], 1)]


def test_a_project_made_again_by_a_push_that_was_cut_off_then_gets_all_open_tasks(
    lake: Lake, studio: StudioInfo, service: LabelStudioService
) -> None:
    config = QueueConfig(project=service.project, classes=CLASSES)
    ids = planned(lake, service.project, 5)
    push(lake, service, config)
    api(studio, "DELETE", f"/api/projects/{project_of(studio, service)['id']}/")
    lost_creation = proxy(studio, lambda method, path: method == "POST" and path == "/api/projects/")
    with lost_creation as url, pytest.raises(ServiceError):
        push(lake, through(url, studio, service), config)
    again = LabelStudioService(studio.url, studio.api_key, service.project)
    push(lake, again, config)
    assert_each_once(again, ids)


def test_reconcile_tells_second_tasks_that_stay_because_somebody_has_begun_them(
    lake: Lake, studio: StudioInfo, service: LabelStudioService
) -> None:
    config = QueueConfig(project=service.project, classes=CLASSES)
    ids = planned(lake, service.project, 2)
    push(lake, service, config)
    project_id = project_of(studio, service)["id"]
    copies = [{"data": {"item_id": item, "text": "copy", "reason": "", "value": 0}} for item in ids]
    api(studio, "POST", f"/api/projects/{project_id}/import", json=copies)
    begun = service.find(ids)[ids[0]][1]
    api(studio, "POST", f"/api/tasks/{begun}/drafts", json={"result": [], "lead_time": 1.0})
    report = reconcile(lake, service, config)
    assert (report.withdrawn, report.begun) == (1, 1)
    assert "1 task more of an item that has one, kept" in "\n".join(report.lines())


EARLY, LATE = "before the server hears of it", "after the server has done it"


@pytest.mark.parametrize(
    ("when", "first", "step"),
    [
        (EARLY, 2, 3),
        (LATE, 1, 3),
        pytest.param(EARLY, 1, 1, marks=pytest.mark.heavy),
        pytest.param(LATE, 1, 1, marks=pytest.mark.heavy),
    ],
)
def test_a_push_that_is_cut_off_at_any_request_loses_and_doubles_nothing(
    lake: Lake, studio: StudioInfo, service: LabelStudioService, when: str, first: int, step: int
) -> None:
    """Each batch is worth more than all before, so every push also takes back what it overtakes.

    At every request where it is heavy; else at some of them.
    """
    config = QueueConfig(project=service.project, classes=CLASSES)
    service.ensure_project(CLASSES)
    ids: list[str] = []
    cut = batches = 0
    finished = False
    while not finished:
        cut = cut + step if cut else first
        batches += 1
        ids += plan(lake, service.project, [cut / 100, cut / 100 - 0.001], cycle=batches, name=f"batch{cut}")
        seen = 0

        def nth(_method: str, _path: str, cut: int = cut) -> bool:
            nonlocal seen
            seen += 1
            return seen == cut

        with proxy(studio, cut=_never if when == EARLY else nth, drop=nth if when == EARLY else _never) as url:
            try:
                push(lake, through(url, studio, service), config)
                finished = True
            except ServiceError:
                held = service.find(ids)
                assert all(len(tasks) == 1 for tasks in held.values()), "doubled"
                push(lake, service, config)
        assert_each_once(service, ids)
        assert states(lake) == {"confirmed": 2 * batches}
        assert project_of(studio, service)["total_predictions_number"] == 2 * batches, "one has no suggestion"
    assert cut > 7, "a push has more requests than that"


def _never(_method: str, _path: str) -> bool:
    return False
