"""A project that moves between a folder of tasks and Label Studio: nothing goes on in silence, no answer is lost."""

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from active.queue.push import push
from flows.cli.main import run_command
from flows.project.project import Project
from flows.servers.label_studio import StudioInfo
from tests.active.plans import plan, states
from tests.studio import choose
from warehouse import SettingsError

pytestmark = pytest.mark.studio

SETTINGS = """
[project]
name = "{name}"
classes = ["earn", "acq"]

[[sources]]
name = "s"
path = "s.jsonl"
"""

Opened = Callable[[], Project]


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Opened:
    """Opens the project as another command does; at first in a terminal that knows of no server."""
    (tmp_path / "siftline.toml").write_text(SETTINGS.format(name=f"move {uuid.uuid4().hex[:12]}"), "utf-8")
    for variable in ("LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY", "SIFTLINE_ANNOTATE__SERVICE"):
        monkeypatch.delenv(variable, raising=False)
    return lambda: Project(tmp_path)


@pytest.fixture
def exports(studio: StudioInfo, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Names the server in this terminal."""

    def export() -> None:
        monkeypatch.setenv("LABEL_STUDIO_URL", studio.url)
        monkeypatch.setenv("LABEL_STUDIO_API_KEY", studio.api_key)

    return export


def test_a_terminal_without_the_exports_sends_no_tasks_to_files(
    opened: Opened, exports: Callable[[], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    exports()
    project = opened()
    plan(project.lake, project.settings.project.name, [0.9, 0.8])
    push(project.lake, project.service, project.queue_config)
    project.lake.close()
    monkeypatch.delenv("LABEL_STUDIO_URL")
    monkeypatch.delenv("LABEL_STUDIO_API_KEY")
    for command in ("run", "collect", "answer"):
        assert run_command([command, "--project", str(project.root)]) == 2
        told = capsys.readouterr().err
        assert "were sent to Label Studio" in told
        assert "LABEL_STUDIO_URL" in told
        assert 'service = "folder"' in told
    assert not project.folder.path.exists()
    monkeypatch.setenv("SIFTLINE_ANNOTATE__SERVICE", "folder")
    moved = opened()
    push(moved.lake, moved.service, moved.queue_config)
    assert len(list(moved.folder.path.glob("*.json"))) == 2
    monkeypatch.delenv("SIFTLINE_ANNOTATE__SERVICE")
    assert opened().service.describe() == moved.folder.describe()


def test_a_move_to_label_studio_loses_no_answer_and_names_the_files_that_are_left(
    studio: StudioInfo,
    opened: Opened,
    exports: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    project = opened()
    first, second = plan(project.lake, project.settings.project.name, [0.9, 0.8])
    push(project.lake, project.service, project.queue_config)
    folder = project.folder
    folder.annotate(folder.task_id(first), labels=["acq"], annotator="ann", seconds=1)
    project.lake.close()
    exports()
    with pytest.raises(SettingsError, match=r"not collected yet \(1\).*siftline collect"):
        _ = opened().service
    monkeypatch.setenv("SIFTLINE_ANNOTATE__SERVICE", "folder")
    assert run_command(["collect", "--project", str(project.root)]) == 0
    monkeypatch.delenv("SIFTLINE_ANNOTATE__SERVICE")
    capsys.readouterr()
    moved = opened()
    push(moved.lake, moved.service, moved.queue_config)
    assert states(moved.lake) == {"answered": 1, "confirmed": 1}
    choose(studio, moved.service.find([second])[second][0], "earn")
    moved.lake.close()
    assert run_command(["collect", "--project", str(project.root)]) == 0
    said = capsys.readouterr()
    assert "1 new or changed answer from Label Studio" in said.out
    assert "2 task files from before this project moved" in " ".join(said.err.split())
    with project.read_lake() as lake, lake.read() as reader:
        assert dict(reader.rows("SELECT item_id, class_id FROM gold_labels")) == {first: 1, second: 0}
