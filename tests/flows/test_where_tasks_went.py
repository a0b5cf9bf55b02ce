"""Where the tasks of a project went last is known without a server, also of a warehouse from before an update."""

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from active.queue.outbox import QueueConfig, commit_sent, commit_states, queue_rows
from active.queue.service_migration import take_over_planned
from flows.cli.main import run_command
from flows.pipelines import stages
from flows.pipelines.stages import STAGES, check_ahead
from flows.project.project import Project
from tests.active.plans import plan
from tests.lakes import copy_of
from warehouse import Lake, SettingsError, silent

SETTINGS = """
[project]
name = "p"
classes = ["a", "b"]
[[sources]]
name = "s"
path = "s.jsonl"
"""


def made_older(lake: Lake) -> None:
    """Take the last step of the schema back."""
    cursor = lake.new_cursor(begin=True)
    cursor.execute("ALTER TABLE items DROP COLUMN changed_at")
    cursor.execute("UPDATE schema_migrations SET version = 5")
    cursor.execute("COMMIT")
    cursor.close()


@pytest.mark.parametrize("older", [False, True], ids=["of today", "of an older schema"])
def test_tasks_on_a_server_are_not_sent_to_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, older: bool) -> None:
    for variable in ("LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY", "SIFTLINE_ANNOTATE__SERVICE"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "siftline.toml").write_text(SETTINGS)
    config = QueueConfig(project="p", classes=("a", "b"))
    with copy_of(Lake, tmp_path / "lake") as lake:
        plan(lake, "p", [0.9])
        with lake.read() as reader:
            rows = queue_rows(reader, config, "planned")
        commit_states(lake, config, "confirmed", [{**row, "state": "confirmed", "task_id": "7"} for row in rows])
        if older:
            made_older(lake)
    with pytest.raises(SettingsError, match="were sent to Label Studio"):
        _ = Project(tmp_path).service


def test_who_asks_for_a_folder_gets_it_beside_a_label_studio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "0123456789")
    (tmp_path / "siftline.toml").write_text(SETTINGS.replace('"p"', '"pro"') + '[annotate]\nservice = "folder"\n')
    project = Project(tmp_path)
    assert project.service is project.folder
    assert project.accounts({"7": [("1", "2026-11-30T10:00:00Z")]}) == {}, "nobody is asked"
    monkeypatch.setenv("SIFTLINE_ANNOTATE__SERVICE", "auto")
    assert Project(tmp_path).service.describe() == "Label Studio project 'pro' at http://127.0.0.1:9"


def test_a_name_under_which_nobody_was_asked_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Lake(tmp_path / "lake") as lake:
        plan(lake, "p", [0.9])
        with lake.read() as reader:
            rows = queue_rows(reader, QueueConfig(project="p", classes=("a", "b")), "planned")
        commit_sent(lake, QueueConfig(project="p", classes=("a", "b")), rows, {})
    (tmp_path / "labeling_functions.py").write_text("")
    (tmp_path / "siftline.toml").write_text(SETTINGS.replace('"p"', '"q"'))
    for command in ("collect", "run", "answer"):
        assert run_command([command, "--project", str(tmp_path)]) == 2
        told = capsys.readouterr().err
        assert "[project] name is 'q', and the tasks and answers in the warehouse are those of 'p'" in told
        assert "Put the former name back" in told
    with Lake(tmp_path / "lake") as lake:
        plan(lake, "q", [0.9], name="more")  # as of a project that was renamed before this was refused
    assert Project(tmp_path).lake.snapshot()


def test_a_name_can_be_changed_as_long_as_nothing_was_sent(tmp_path: Path) -> None:
    """As one that the service refused, because somebody's own project has it."""
    (tmp_path / "siftline.toml").write_text(SETTINGS.replace('"p"', '"q"'))
    with Lake(tmp_path / "lake") as lake:
        plan(lake, "p", [0.9, 0.8])
        with lake.read() as reader:
            planned = queue_rows(reader, QueueConfig(project="p", classes=("a", "b")), "planned")
    project = Project(tmp_path)
    with project.lake as lake:
        for _ in range(2):
            STAGES["select"](project, silent)
        with lake.read() as reader:
            there = queue_rows(reader, QueueConfig(project="q", classes=("a", "b")), "planned")
            assert reader.scalar("SELECT count(*) FROM queue") == 2
    assert there == [{**row, "project": "q"} for row in planned]


def test_what_was_planned_under_one_of_two_names_stays_there(tmp_path: Path) -> None:
    config = QueueConfig(project="p", classes=("a", "b"))
    with Lake(tmp_path / "lake") as lake:
        plan(lake, "p", [0.9, 0.8])
        with lake.read() as reader:
            first, second = queue_rows(reader, config, "planned")
        commit_sent(lake, config, [first], {})
        take_over_planned(lake, "q")
        with lake.read() as reader:
            assert [row["item_id"] for row in queue_rows(reader, config, "planned")] == [second["item_id"]]


def test_a_label_studio_that_hangs_holds_no_run_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = SETTINGS.replace('"p"', '"pro"') + '[engine]\nurl = "http://127.0.0.1:9"\n'
    (tmp_path / "siftline.toml").write_text(named)
    (tmp_path / "s.jsonl").write_text('{"text": "a"}')
    (tmp_path / "labeling_functions.py").write_text("functions = []\n")
    monkeypatch.setattr(stages, "LOOK_S", 0.1)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "0123456789")
    with socket.create_server(("127.0.0.1", 0)) as silent_one, ThreadPoolExecutor(1) as beside:
        monkeypatch.setenv("LABEL_STUDIO_URL", f"http://127.0.0.1:{silent_one.getsockname()[1]}")

        def left() -> bool:
            silent_one.settimeout(30)  # where nobody looks, nobody comes
            door, _ = silent_one.accept()
            with door:
                door.settimeout(3)
                while door.recv(4096):
                    pass
            return True

        leaves = beside.submit(left)
        check_ahead(Project(tmp_path))
        assert leaves.result()


def test_a_run_into_a_folder_looks_for_no_warehouse_ahead(tmp_path: Path) -> None:
    (tmp_path / "siftline.toml").write_text(SETTINGS + '[engine]\nurl = "http://127.0.0.1:9"\n')
    (tmp_path / "s.jsonl").write_text('{"text": "a"}')
    (tmp_path / "labeling_functions.py").write_text("functions = []\n")
    project = Project(tmp_path)
    project.location.folder.mkdir()
    project.location.catalog_file.write_bytes(b"who opens it is told that it is no database" * 100)
    check_ahead(project)
