"""Labels of a Label Studio export are given by the people whose later answers are collected from the same server."""

from pathlib import Path

import pytest

from active.label_studio.errors import KEY_VARIABLE, URL_VARIABLE
from active.label_studio.service import LabelStudioService
from flows.cli.main import run_command
from flows.servers.label_studio import StudioInfo
from tests.studio import CLASSES, api, choose, make_tasks, project_of, sign_up
from warehouse import Lake

pytestmark = pytest.mark.studio

SETTINGS = f"""
[project]
name = "my tasks"
classes = {list(CLASSES)}
[[sources]]
name = "s"
path = "s.csv"
"""


def annotators(folder: Path) -> list[tuple[str, str]]:
    with Lake(folder / "lake", read_only=True) as lake, lake.read() as reader:
        return reader.rows("SELECT DISTINCT action, annotator FROM current_annotations ORDER BY action DESC")


def test_an_export_of_ones_own_project_names_people_as_a_collect_does(
    studio: StudioInfo,
    service: LabelStudioService,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    service.ensure_project(CLASSES)
    [task, *_] = tasks = make_tasks(2)
    bob = sign_up(studio)
    choose(bob, service.push(tasks)[task.item_id], "crude")
    path = f"/api/projects/{project_of(studio, service)['id']}/export"
    (tmp_path / "export.csv").write_bytes(api(studio, "GET", path, params={"exportType": "CSV"}).content)
    (tmp_path / "s.csv").write_text(f'text\n"{task.text}"\n')
    (tmp_path / "siftline.toml").write_text(SETTINGS)
    command = ["import", str(tmp_path / "export.csv"), "--project", str(tmp_path)]
    for variable in (URL_VARIABLE, KEY_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    assert run_command(command) == 0
    told = capsys.readouterr().out
    assert "named by a number" in told
    assert f"{URL_VARIABLE}" in told
    [(_, number)] = annotators(tmp_path)
    assert number.isdecimal()

    monkeypatch.setenv(URL_VARIABLE, studio.url)
    monkeypatch.setenv(KEY_VARIABLE, "of-a-removed-account")
    assert run_command(command) == 0
    assert "could not be asked who they are: Label Studio at" in " ".join(capsys.readouterr().out.split())
    monkeypatch.setenv(KEY_VARIABLE, studio.api_key)
    assert run_command(command) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert told.startswith("1 new or changed label from ")
    assert "named by their e-mail in Label Studio: 1 Labels that were here by the number of an account" in told
    assert annotators(tmp_path) == [("labelled", bob.username), ("deleted", number)]
