"""What an account sees that may read a project's warehouse and not its task files."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from active.task_folder.service import TaskFolder
from flows.cli.status import show_queue, show_status
from tests.accounts import GROUP, as_another_account, needs_root, open_to_group
from tests.flows import report_lake


@pytest.fixture
def project() -> Iterator[Path]:
    """A project whose third batch waits, in a folder that other accounts may pass, as pytest's is not."""
    with tempfile.TemporaryDirectory(prefix="siftline-test-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        settings = (
            f"[project]\nname = 'p'\nclasses = {list(report_lake.CLASSES)}\n[[sources]]\nname = 's'\npath = 's.csv'\n"
        )
        (root / "siftline.toml").write_text(settings, "utf-8")
        report_lake.full_lake(root / "lake").close()
        TaskFolder(root / "tasks", "p").ensure_project(report_lake.CLASSES)
        yield root


@needs_root
def test_task_files_that_are_closed_do_not_end_what_shows_the_warehouse(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def look() -> str:
        show_status(project)
        show_queue(project, 3)
        return capsys.readouterr().out

    assert "siftline answer" in look()
    open_to_group(project / "lake")
    found = as_another_account(look, GROUP)
    assert "tasks wait for annotators" in found
    assert "# next tasks" in found
    assert "siftline answer" not in found  # they could not
