"""What one person does to a task that another one answered or skipped: who is named, who is asked, what is told."""

from datetime import timedelta
from pathlib import Path
from time import sleep
from typing import Any

import pytest

import active.label_studio.service
from active.label_studio.answers import EDITED_AFTER
from active.label_studio.service import LabelStudioService
from active.queue.collect import collect, refusals
from active.queue.cursor import Cursor
from active.queue.outbox import QueueConfig
from active.queue.push import push
from flows.servers.label_studio import StudioInfo
from tests.active.plans import plan, states
from tests.studio import CLASSES, api, choose, make_tasks, project_of, sign_up
from warehouse import Lake

pytestmark = pytest.mark.studio


def edit(editor: StudioInfo, service: LabelStudioService, label: str) -> None:
    """Change the label of the only answer, as the labeling page does it for who opens somebody's annotation."""
    [answer] = service.pull()
    sleep(EDITED_AFTER.total_seconds() + 0.1)
    part = {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": [label]}}
    api(editor, "PATCH", f"/api/annotations/{answer.annotation_id}/", json={"result": [part]})


def skip(annotator: StudioInfo, task_id: str) -> None:
    body = {"result": [], "was_cancelled": True, "lead_time": 2.0}
    api(annotator, "POST", f"/api/tasks/{task_id}/annotations/", json=body)


def next_task(annotator: StudioInfo, project_id: Any) -> str:
    """The task that the labeling page would show to this annotator."""
    return str(api(annotator, "GET", f"/api/projects/{project_id}/next").json()["id"])


def said(lake: Lake) -> list[tuple[str, int]]:
    with lake.read() as reader:
        return reader.rows("SELECT annotator, class_id FROM annotations ORDER BY committed_at")


def test_an_edit_is_of_who_made_it(lake: Lake, studio: StudioInfo, service: LabelStudioService) -> None:
    ann, bob = sign_up(studio), sign_up(studio)
    config = QueueConfig(project=service.project, classes=CLASSES)
    [item] = plan(lake, service.project, [0.9])
    push(lake, service, config)
    choose(ann, service.find([item])[item][0], "earn")
    collect(lake, service, config)
    edit(bob, service, "acq")
    collect(lake, service, config)
    assert said(lake) == [(ann.username, 0), (bob.username, 1)]
    with lake.read() as reader:
        assert reader.rows("SELECT annotator, class_id FROM opinions") == [(bob.username, 1)]
    assert states(lake) == {"answered": 1}


def test_an_edit_of_one_of_several_answers_keeps_its_place_and_is_told(
    lake: Lake, studio: StudioInfo, service: LabelStudioService
) -> None:
    ann, bob = sign_up(studio), sign_up(studio)
    config = QueueConfig(project=service.project, classes=CLASSES, annotators_per_task=2)
    two = LabelStudioService(studio.url, studio.api_key, service.project, annotators_per_task=2)
    [item] = plan(lake, service.project, [0.9])
    push(lake, two, config)
    choose(ann, two.find([item])[item][0], "earn")
    edit(bob, two, "acq")
    told = refusals(collect(lake, two, config))
    assert told == [f"answers that somebody else edited: {ann.username}'s of item '{item}' by {bob.username}"]
    choose(bob, two.find([item])[item][0], "acq")
    assert not refusals(collect(lake, two, config))
    assert said(lake) == [(ann.username, 1), (bob.username, 1)]
    assert states(lake) == {"answered": 1}, "two people were at it, and the server asks no third"


@pytest.mark.parametrize("user_of_the_key", [False, True])
def test_a_simulated_answer_that_a_person_edited_is_the_persons(
    studio: StudioInfo, service: LabelStudioService, user_of_the_key: bool
) -> None:
    person = studio if user_of_the_key else sign_up(studio)
    service.ensure_project(CLASSES)
    [task] = service.push(make_tasks(1)).values()
    service.annotate(task, labels=["earn"], annotator="simulated", seconds=1)
    assert [answer.annotator for answer in service.pull()] == ["simulated"]
    edit(person, service, "acq")
    assert [(answer.annotator, answer.labels) for answer in service.pull()] == [(person.username, ("acq",))]


def test_a_skipped_text_is_answered_and_nobody_else_is_asked(
    lake: Lake, studio: StudioInfo, service: LabelStudioService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(active.label_studio.service, "MARGIN", timedelta(0))
    ann, bob = sign_up(studio), sign_up(studio)
    config = QueueConfig(project=service.project, classes=CLASSES)
    first, second = plan(lake, service.project, [0.9, 0.8])
    push(lake, service, config)
    project_id = project_of(studio, service)["id"]
    api(studio, "PATCH", f"/api/projects/{project_id}/", json={"skip_queue": "REQUEUE_FOR_OTHERS"})
    service.ensure_project(CLASSES)  # puts it right
    tasks = {item: held[0] for item, held in service.find([first, second]).items()}
    assert next_task(ann, project_id) == tasks[first]
    skip(ann, tasks[first])
    assert next_task(bob, project_id) == tasks[second]
    cursor = Cursor(tmp_path / "collect.json")
    collect(lake, service, config, cursor=cursor)
    assert states(lake) == {"answered": 1, "confirmed": 1}
    [answer] = service.pull()
    api(ann, "POST", f"/api/annotations/{answer.annotation_id}/convert-to-draft")  # the button Cancel skip
    collect(lake, service, config, cursor=cursor)
    assert states(lake) == {"confirmed": 2}
    choose(ann, tasks[first], "acq")
    collect(lake, service, config, cursor=cursor)
    with lake.read() as reader:
        assert reader.rows("SELECT annotator, class_id FROM opinions") == [(ann.username, 1)]
    assert states(lake) == {"answered": 1, "confirmed": 1}
