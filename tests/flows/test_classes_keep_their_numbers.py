"""Classes that change in siftline.toml: what the warehouse holds by their numbers is never read as something else."""

import json
from pathlib import Path

import pytest

from flows.cli.main import run_command
from flows.pipelines.stages import REFRESH, run_stage_in_process, run_stages
from flows.project.project import Project
from warehouse import Lake, SettingsError

SETTINGS = """
[project]
name = "mail"
classes = ["ham", "spam"]

[[sources]]
name = "s"
path = "mail.jsonl"
id = "id"
"""
CHANGED = {"moved": '["spam", "ham"]', "renamed": '["ham", "junk"]', "removed": '["spam", "other"]'}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project whose warehouse knows two classes, and an answer that waits to be collected."""
    (tmp_path / "siftline.toml").write_text(SETTINGS)
    (tmp_path / "labeling_functions.py").write_text(
        "from weak_labels import keywords\n\npills = keywords('spam', ['pills'])\n"
    )
    lines = [json.dumps({"id": f"m{i}", "text": ("cheap pills", "dear friend")[i % 2] + f" {i}"}) for i in range(8)]
    (tmp_path / "mail.jsonl").write_text("\n".join(lines))
    project = Project(tmp_path)
    run_stages(run_stage_in_process(project), ["ingest", "vote"])
    project.lake.close()
    choice = {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": ["spam"]}}
    task = {"data": {"text": "cheap pills 0", "item_id": "m0"}, "annotations": [{"id": 1, "result": [choice]}]}
    (tmp_path / "tasks" / "import").mkdir(parents=True)
    (tmp_path / "tasks" / "import" / "one.json").write_text(json.dumps([task]))
    return tmp_path


def change(root: Path, classes: str) -> None:
    path = root / "siftline.toml"
    path.write_text(path.read_text().replace('["ham", "spam"]', classes))


def stored(root: Path) -> list[tuple[str, str]]:
    """Votes and people's labels of the warehouse, each with the name of its class."""
    with Lake(root / "lake", read_only=True) as lake, lake.read() as reader:
        return reader.rows(
            "SELECT item_id, name FROM lf_votes JOIN classes ON class_id = vote "
            "UNION ALL SELECT item_id, label FROM gold_labels ORDER BY ALL"
        )


@pytest.mark.parametrize("classes", CHANGED.values(), ids=CHANGED)
def test_no_command_and_no_flow_takes_other_classes(
    root: Path, classes: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = stored(root)
    change(root, classes)
    for command in (["collect"], ["queue", "reconcile"], ["lf", "report"], ["suspects"]):
        assert run_command([*command, "--project", str(root)]) == 2, command
        said = capsys.readouterr().err
        assert "added at the end" in said, (command, said)
        assert said.startswith("siftline: Class "), (command, said)
    with pytest.raises(SettingsError, match=r"Class \d is .* added at the end"):
        run_stages(run_stage_in_process(Project(root)), REFRESH)
    assert stored(root) == before


def test_a_class_that_is_added_and_the_names_put_back_are_taken(root: Path) -> None:
    change(root, CHANGED["moved"])
    assert run_command(["collect", "--project", str(root)]) == 2
    (root / "siftline.toml").write_text(SETTINGS)
    change(root, '["ham", "spam", "other"]')
    assert run_command(["collect", "--project", str(root)]) == 0
    assert ("m0", "spam") in stored(root)


def test_a_new_class_that_is_like_another_is_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(root, '["ham", "spam", " Spam"]')
    assert run_command(["collect", "--project", str(root)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("siftline: The classes 'spam' and ' Spam' differ only in case or in blanks")
    assert "Leave one of them out" in said


def test_a_warehouse_that_holds_classes_that_are_alike_still_opens(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(root, '["ham", "spam", "Spam"]')
    with monkeypatch.context() as before:
        before.setattr("features.ingest.classes.check_apart", lambda *_, **__: None)
        project = Project(root)
        run_stages(run_stage_in_process(project), ["ingest"])
        project.lake.close()
    assert run_command(["collect", "--project", str(root)]) == 0
    assert ("m0", "spam") in stored(root)


def test_what_only_reads_names_of_the_warehouse_still_answers(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The engineer who was woken must be able to look."""
    change(root, CHANGED["moved"])
    for command in (["status"], ["queue"], ["sql", "-c", "select name from classes order by class_id"]):
        assert run_command([*command, "--project", str(root)]) == 0, command
    assert capsys.readouterr().out.split()[-2:] == ["ham", "spam"]
