"""The project on the server: made once, kept up to date, left alone where a person has changed it."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from active.label_studio.labeling_page import Page, label_config
from active.label_studio.service import LabelStudioService
from active.queue.collect import collect
from active.queue.outbox import QueueConfig
from active.queue.push import push
from flows.cli.main import run_command
from flows.pipelines.flows import words_of
from flows.pipelines.stages import check_ahead
from flows.project.project import Project
from flows.servers.label_studio import StudioInfo
from tests.active.plans import plan
from tests.studio import CLASSES, api, choose, free_port, http_server, make_tasks, personal_token, project_of
from warehouse import Lake, ServiceRefused, SettingsError

pytestmark = pytest.mark.studio


def labels(studio: StudioInfo, service: LabelStudioService) -> list[str]:
    config: Any = project_of(studio, service)["parsed_label_config"]
    return config["label"]["labels"]


def test_it_is_created_once_with_tasks_in_order_and_suggestions_shown(
    studio: StudioInfo, service: LabelStudioService
) -> None:
    service.ensure_project(CLASSES)
    LabelStudioService(studio.url, studio.api_key, service.project).ensure_project(CLASSES)
    project = project_of(studio, service)  # fails when there are two
    assert project["sampling"] == "Sequential sampling"
    assert project["show_collab_predictions"] is True
    assert labels(studio, service) == list(CLASSES)


def test_a_name_with_a_blank_at_its_end_is_one_project(studio: StudioInfo, service: LabelStudioService) -> None:
    spaced = LabelStudioService(studio.url, studio.api_key, f" {service.project} ")
    assert [spaced.ensure_project(CLASSES) for _ in range(2)] == [True, False]
    assert not service.ensure_project(CLASSES)


def test_a_title_that_only_contains_ours_is_another_project(studio: StudioInfo, service: LabelStudioService) -> None:
    longer = LabelStudioService(studio.url, studio.api_key, service.project + " 2")
    longer.ensure_project(CLASSES)
    service.ensure_project(("yes", "no"))
    assert labels(studio, longer) == list(CLASSES)


def test_a_project_of_ones_own_with_the_name_is_refused_and_stays_as_it_is(
    studio: StudioInfo,
    service: LabelStudioService,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = label_config(Page(classes=CLASSES))
    own = {"title": service.project, "label_config": page, "sampling": "Uniform sampling", "maximum_annotations": 3}
    project_id = api(studio, "POST", "/api/projects/", json=own).json()["id"]
    # Its tasks may have the column names of a source, and so ids and texts of Siftline's items.
    task = {"data": {"item_id": "item-0", "text": "Oil prices rose on Monday. (0)"}}
    task_id = api(studio, "POST", "/api/tasks/", json={**task, "project": project_id}).json()["id"]
    choose(studio, task_id, "acq")
    before = project_of(studio, service)
    for access in (
        lambda: service.ensure_project(CLASSES),
        service.pull,
        lambda: list(service.stored()),
        lambda: service.push(make_tasks(1)),
    ):
        with pytest.raises(ServiceRefused, match=r"not made by Siftline.*tasks that it has \(1\)"):
            access()
    settings = f'[project]\nname = "{service.project}"\nclasses = ["a", "b"]\n[[sources]]\nname = "s"\npath = "s.csv"\n'
    (tmp_path / "siftline.toml").write_text(settings, "utf-8")
    monkeypatch.setenv("LABEL_STUDIO_URL", studio.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", studio.api_key)
    assert run_command(["doctor", "--project", str(tmp_path)]) == 2
    assert "was not made by Siftline" in " ".join(capsys.readouterr().out.split())
    (tmp_path / "s.csv").write_text("text\nhello\n", "utf-8")
    (tmp_path / "labeling_functions.py").write_text("functions = []\n", "utf-8")
    assert run_command(["run", "--project", str(tmp_path)]) == 2
    assert "was not made by Siftline" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "lake").exists(), "it is told before the first record is read"
    monkeypatch.setenv("LABEL_STUDIO_URL", f"http://127.0.0.1:{free_port()}")
    check_ahead(Project(tmp_path))  # one that is away may be back when tasks are sent
    assert project_of(studio, service) == before
    # One that has a task of Siftline's is known by it, whatever its description says.
    sent = make_tasks(1)[0].to_label_studio()
    api(studio, "POST", "/api/tasks/", json={"data": sent["data"], "project": project_id})
    assert not service.ensure_project(CLASSES)


def test_a_project_without_tasks_may_have_been_made_for_siftline(
    studio: StudioInfo, service: LabelStudioService
) -> None:
    api(studio, "POST", "/api/projects/", json={"title": service.project})
    assert not service.ensure_project(CLASSES)
    assert labels(studio, service) == list(CLASSES)


def test_changed_classes_reach_the_labeling_page(studio: StudioInfo, service: LabelStudioService) -> None:
    service.ensure_project(CLASSES)
    more = (*CLASSES, "a class with a name of many words")
    service.ensure_project(more)
    assert labels(studio, service) == list(more)
    assert str(project_of(studio, service)["label_config"]).strip() == label_config(Page(classes=more)).strip()
    service.ensure_project((*more, "another"))
    assert labels(studio, service) == [*more, "another"]


def test_changed_classes_change_a_page_that_a_person_redesigned_and_nothing_else(
    studio: StudioInfo, service: LabelStudioService
) -> None:
    service.ensure_project(CLASSES)
    project_id = project_of(studio, service)["id"]
    own = label_config(Page(classes=CLASSES)).replace("Which class fits?", "Our own words")
    own = own.replace('<Choice value="acq"/>', '<Choice value="acq" hotkey="a" hint="mergers"/>')
    api(studio, "PATCH", f"/api/projects/{project_id}/", json={"label_config": own})
    service.push(make_tasks(2))
    service.ensure_project(("grain", "acq", "earn"))
    assert labels(studio, service) == ["earn", "acq", "grain"], "in their order there, and behind them the new one"
    project = project_of(studio, service)
    assert project["id"] == project_id
    assert "Our own words" in str(project["label_config"])
    assert 'hint="mergers"' in str(project["label_config"])
    assert len(service.find(["item-0", "item-1"])) == 2


def test_aliases_are_known_for_classes(studio: StudioInfo, service: LabelStudioService) -> None:
    """An answer has a choice's alias: a person may show a class by other words, but not store it by others."""
    service.ensure_project(CLASSES)
    own = label_config(Page(classes=CLASSES)).replace('value="acq"', 'value="Mergers and purchases" alias="acq"')
    own = own.replace('value="crude"', 'value="crude" alias="OIL"')
    api(studio, "PATCH", f"/api/projects/{project_of(studio, service)['id']}/", json={"label_config": own})
    ids = service.push(make_tasks(2))
    choose(studio, ids["item-0"], "acq")
    choose(studio, ids["item-1"], "crude")
    more = (*CLASSES, "grain")
    service.ensure_project(more)
    assert sorted(labels(studio, service)) == sorted(more)
    page = str(project_of(studio, service)["label_config"])
    assert 'value="Mergers and purchases" alias="acq"' in page
    assert "OIL" not in page
    assert sorted(answer.labels for answer in service.pull()) == [("acq",), ("crude",)]


def test_a_class_that_people_chose_cannot_be_taken_away(studio: StudioInfo, service: LabelStudioService) -> None:
    service.ensure_project(CLASSES)
    ids = service.push(make_tasks(2))
    choose(studio, ids["item-0"], "acq")
    with pytest.raises(ServiceRefused, match=r"'acq' is not in \[project\] classes.*answers or drafts chose it"):
        service.ensure_project(("earn", "crude", "trade"))
    assert labels(studio, service) == list(CLASSES)
    service.ensure_project(("earn", "acq", "crude"))  # nobody chose 'trade'
    assert labels(studio, service) == ["earn", "acq", "crude"]


def test_pairs_and_images_are_shown_and_the_server_takes_the_page(
    studio: StudioInfo, service: LabelStudioService
) -> None:
    assert service.ensure_project(CLASSES)
    assert not service.ensure_project(CLASSES, texts=("question", "answer"), image=True)
    config = str(project_of(studio, service)["label_config"])
    assert all(part in config for part in ('value="$text"', 'value="$text_2"', 'value="$image"', 'value="question"'))
    assert labels(studio, service) == list(CLASSES)
    pair = replace(make_tasks(1)[0], further=("The answer.",), image="https://images.example.org/a%20b.png")
    (task_id,) = service.push([pair]).values()
    data = api(studio, "GET", f"/api/tasks/{task_id}/").json()["data"]
    assert (data["text_2"], data["image"]) == ("The answer.", "https://images.example.org/a%20b.png")


def test_a_page_that_a_person_redesigned_is_left_alone(studio: StudioInfo, service: LabelStudioService) -> None:
    service.ensure_project(CLASSES)
    project_id = project_of(studio, service)["id"]
    own = label_config(Page(classes=CLASSES)).replace("Which class fits?", "Our own words")
    api(studio, "PATCH", f"/api/projects/{project_id}/", json={"label_config": own})
    service.ensure_project(CLASSES)
    assert "Our own words" in str(project_of(studio, service)["label_config"])


def test_answers_on_a_page_without_our_choice_are_told_and_neither_skips_nor_labels_without_a_class(
    studio: StudioInfo, service: LabelStudioService, lake: Lake
) -> None:
    config = QueueConfig(project=service.project, classes=CLASSES)
    [item] = plan(lake, service.project, [0.5])
    push(lake, service, config)
    [task_id] = service.find([item])[item]
    project_id = project_of(studio, service)["id"]
    own = label_config(Page(classes=CLASSES)).replace('name="label"', 'name="topic"')
    api(studio, "PATCH", f"/api/projects/{project_id}/", json={"label_config": own})
    part = {"from_name": "topic", "to_name": "text", "type": "choices", "value": {"choices": ["acq"]}}
    answer = api(studio, "POST", f"/api/tasks/{task_id}/annotations/", json={"result": [part]}).json()
    told = r"Choices named 'label'.*of your own, give Siftline's another `name`.*made it, delete the answers"
    collected = collect(lake, service, config)
    assert not collected.committed
    assert re.search(told, words_of(collected))  # a run on a schedule has no other place for it
    with pytest.raises(ServiceRefused, match=told):
        push(lake, service, config)
    api(studio, "DELETE", f"/api/annotations/{answer['id']}/")
    push(lake, service, config)
    assert labels(studio, service) == list(CLASSES)
    assert not collect(lake, service, config).detail


def test_an_order_and_hidden_suggestions_that_a_person_changed_are_put_right(
    studio: StudioInfo, service: LabelStudioService
) -> None:
    service.ensure_project(CLASSES)
    project_id = project_of(studio, service)["id"]
    changed = {"sampling": "Uniform sampling", "show_collab_predictions": False}
    api(studio, "PATCH", f"/api/projects/{project_id}/", json=changed)
    assert {name: project_of(studio, service)[name] for name in changed} == changed
    service.ensure_project(CLASSES)
    right = {"sampling": "Sequential sampling", "show_collab_predictions": True}
    assert {name: project_of(studio, service)[name] for name in changed} == right


def test_class_names_are_taken_literally(studio: StudioInfo, service: LabelStudioService) -> None:
    names = ["<img src=x onerror=alert(1)>", "a & b", "\"quoted\" 'twice'", "{{7*7}}", "größer als 5 €", "50 $", "a\nb"]
    service.ensure_project(names)
    assert labels(studio, service) == names


def test_suggestions_of_every_later_model_are_shown(studio: StudioInfo, service: LabelStudioService) -> None:
    service.ensure_project(CLASSES)
    project_id = project_of(studio, service)["id"]
    own = {"text": "typed in", "reason": "", "value": 0}
    part = {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": ["earn"]}}
    other = {"data": own, "predictions": [{"model_version": "another model", "result": [part]}]}
    api(studio, "POST", f"/api/projects/{project_id}/import", json=[other])
    assert project_of(studio, service)["model_version"] == "another model"  # only its suggestions would be shown
    service.ensure_project(CLASSES)
    service.push([replace(task, model_version=f"end-model-{task.rank}") for task in make_tasks(3)])
    assert project_of(studio, service)["model_version"] == "siftline"


@pytest.mark.parametrize("name", ["", "  ", "bell\x07", "$reason"])
def test_class_names_that_cannot_be_shown_are_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="class"):
        label_config(Page(classes=(name,)))


def test_personal_access_tokens_work(studio: StudioInfo, service: LabelStudioService) -> None:
    token = personal_token(studio)
    service.ensure_project(CLASSES)
    by_token = LabelStudioService(studio.url, token, service.project)
    assert list(by_token.push(make_tasks(2))) == ["item-0", "item-1"]


def test_a_server_that_is_too_old_is_refused() -> None:
    def old(handler: Any, body: bytes) -> None:
        content = b'{"release": "1.22.0"}'
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    with http_server(old) as url, pytest.raises(ServiceRefused, match=r"1\.22\.0.*1\.23\.2 or newer"):
        LabelStudioService(url, "key", "some project").ensure_project(CLASSES)
