"""The queue over a real server that loses responses: every item is there at most once always, and once in the end."""

from collections.abc import Sequence

import pyarrow as pa
import pytest

import active.label_studio
from active.label_studio import LabelStudioService
from active.outbox import QueueConfig
from active.push import push
from active.queue import collect
from active.reconcile import reconcile
from flows.studio import StudioInfo
from tests.studio import CLASSES, api, proxy
from warehouse import Lake, ServiceError, Upsert

pytestmark = pytest.mark.studio


def plan(lake: Lake, project: str, count: int) -> list[str]:
    """Store items and plan tasks for them, as `select` does."""
    ids = [f"news-{number}" for number in range(count)]
    items = [
        {
            "item_id": item_id,
            "content": f"Text of {item_id}",
            "content_hash": item_id,
            "modality": "text",
            "source": "test",
            "position": number,
            "metadata": "{}",
            "split": "train",
        }
        for number, item_id in enumerate(ids)
    ]
    queue = [
        {
            "item_id": item_id,
            "project": project,
            "state": "planned",
            "cycle": 1,
            "rank": number + 1,
            "value": 1 - number / 100,
            "reason": "unsure",
            "prediction": number % len(CLASSES),
            "confidence": 0.5,
            "content_hash": item_id,
            "task_id": "",
        }
        for number, item_id in enumerate(ids)
    ]
    for table, rows in (("items", items), ("queue", queue)):
        with lake.stage(f"plan {table}", version=1, inputs=(), params={}) as stage:
            stage.commit([Upsert(table, pa.Table.from_pylist(rows))], rows_read=count)
    return ids


def states(lake: Lake) -> dict[str, int]:
    with lake.read() as reader:
        return dict(reader.rows("SELECT state, count(*) FROM queue GROUP BY state"))


def assert_each_once(service: LabelStudioService, ids: Sequence[str]) -> None:
    assert {item: len(tasks) for item, tasks in service.find(ids).items()} == dict.fromkeys(ids, 1)


def through(url: str, studio: StudioInfo, service: LabelStudioService) -> LabelStudioService:
    return LabelStudioService(url, studio.api_key, service.project)


def test_a_batch_that_was_stored_but_not_confirmed_is_not_sent_again(
    lake: Lake, studio: StudioInfo, service: LabelStudioService
) -> None:
    config = QueueConfig(project=service.project, classes=CLASSES)
    ids = plan(lake, service.project, 20)
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
    monkeypatch.setattr(active.label_studio, "IMPORT_CHUNK", 10)
    config = QueueConfig(project=service.project, classes=CLASSES)
    ids = plan(lake, service.project, 30)
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
    ids = plan(lake, service.project, 3)
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
    ids = plan(lake, service.project, 4)
    push(lake, service, config)
    tasks = service.find(ids)
    for item in ids[:3]:
        service.annotate(tasks[item][0], label="acq", annotator="simulated", seconds=2)
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
    ids = plan(lake, service.project, 5)
    push(lake, service, config)
    tasks = service.find(ids)
    project_id = api(studio, "GET", "/api/projects/", params={"title": service.project}).json()["results"][0]["id"]
    copy = {"item_id": ids[1], "text": "copy", "reason": "", "value": 0}
    api(studio, "POST", f"/api/projects/{project_id}/import", json=[{"data": copy}])
    api(studio, "DELETE", f"/api/tasks/{tasks[ids[0]][0]}/")
    report = reconcile(lake, service, config)
    assert (report.sent_again, report.withdrawn, report.agreed) == (1, 1, 4)
    assert_each_once(service, ids)
    assert service.find(ids)[ids[1]] == tasks[ids[1]]
