"""Commands that ask of a project: without a warehouse they say so and make none; `status` tells what is from before."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from features.ingest.stage import ingest
from flows.cli.main import run_command
from flows.cli.run import Announcer
from flows.cli.summary import print_summary
from flows.pipelines.stages import RunSummary, run_stage_in_process, run_stages
from flows.project.project import Project
from warehouse import Lake, SettingsError

SETTINGS = """
[project]
name = "p"
classes = ["a", "b"]
[[sources]]
name = "s"
path = "{path}"
text = "text"
"""


def project(folder: Path, path: str = "records.jsonl") -> Path:
    (folder / "siftline.toml").write_text(SETTINGS.format(path=path))
    (folder / "labeling_functions.py").write_text('from weak_labels import keywords\nk = keywords("a", ["x"])\n')
    return folder


@pytest.mark.parametrize(
    "command",
    [
        ["status"],
        ["report"],
        ["sql", "from items"],
        ["sql", "--attach"],
        ["questions", "label-balance"],
        ["snapshots"],
        ["diff", "1"],
        ["suspects"],
        ["queue"],
        ["queue", "reconcile"],
        ["collect"],
        ["maintain"],
        ["verify"],
        ["lf", "report"],
        ["lf", "suggest"],
        ["export", "training-set", "-o", "out"],
    ],
    ids=" ".join,
)
def test_a_command_that_asks_makes_no_warehouse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    before = sorted(project(tmp_path).iterdir())
    monkeypatch.chdir(tmp_path)
    assert run_command(command) == 2
    assert "There is no warehouse" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("named", [["--project", "p"], ["-pp"], ["--project=p"]], ids=" ".join)
def test_beside_a_first_run_a_command_says_that_the_warehouse_is_being_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], named: list[str]
) -> None:
    (tmp_path / "p").mkdir()
    root = project(tmp_path / "p")
    monkeypatch.chdir(tmp_path)
    with Project(root).only_run():
        assert run_command(["status", *named]) == 3
    assert "the first run is at work and makes it" in capsys.readouterr().err
    assert run_command(["status", *named]) == 2


def status(root: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert run_command(["status", "--project", str(root)]) == 0
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith(("quarantined", "ingest"))]


def test_status_tells_the_quarantine_of_what_is_gone_from_that_of_the_last_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\nno json\nnor this\n')
    (tmp_path / "good.jsonl").write_text('{"text": "b"}\n')
    root = project(tmp_path, "bad.jsonl")
    with Lake(root / "lake") as lake:
        ingest(lake, Project(root).ingest_config)
        first, stage = status(root, capsys)
        assert first == "quarantined\t2"
        assert stage.endswith("\t2 classes, 1 item, 2 quarantine")
        ingest(lake, Project(project(tmp_path, "good.jsonl")).ingest_config)
    assert status(root, capsys)[:2] == ["quarantined\t0", "quarantined by all reads\t2"]


def test_a_run_that_puts_records_aside_names_the_question_about_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\nno json\n')
    (tmp_path / "good.jsonl").write_text('{"text": "b"}\n')
    with Lake(tmp_path / "lake") as lake:
        for source, told in (("bad.jsonl", True), ("good.jsonl", False)):
            Announcer(tmp_path)(ingest(lake, Project(project(tmp_path, source)).ingest_config))
            words = f"siftline questions what-was-not-read --project {tmp_path}\n"
            assert (words in capsys.readouterr().err) == told


def test_a_run_whose_functions_never_vote_names_the_file_to_edit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.csv").write_text("text\none\ntwo\n")
    root = tmp_path / "p"
    assert run_command(["init", str(root), "--source", str(tmp_path / "own.csv"), "--classes", "a,b"]) == 0
    opened = Project(root)
    told = f"votes on any item. Edit {root / 'labeling_functions.py'}, then: siftline lf preview --project {root}\n"

    def said(stages: Sequence[str]) -> str:
        run_stages(run_stage_in_process(opened), stages)
        capsys.readouterr()
        print_summary(opened, RunSummary(passes=1, results=[]), seconds=1.0)
        return capsys.readouterr().out

    assert told not in said(["ingest"]), "no function was asked yet"
    assert told in said(["vote"])
    (root / "labeling_functions.py").write_text('from weak_labels import keywords\nk = keywords("a", ["one"])\n')
    opened = Project(root)
    assert told not in said(["vote"])


def test_the_question_about_them_says_in_words_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"text": " "}\n{"text": ""}\n')
    with Lake(tmp_path / "lake") as lake:
        ingest(lake, Project(project(tmp_path, "bad.jsonl")).ingest_config)
    assert run_command(["questions", "what-was-not-read", "--project", str(tmp_path), "--format", "json"]) == 0
    [row] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (row["reason"], row["n"]) == ("empty_text", 2)
    assert row["example"] == "bad.jsonl: 'text' is empty or only white space (at 2)"


def test_a_class_taken_out_is_called_missing(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    config = Project(project(tmp_path, "a.jsonl")).ingest_config
    with Lake(tmp_path / "lake") as lake:
        ingest(lake, config)
        with pytest.raises(SettingsError, match=r"in the warehouse and missing in siftline\.toml"):
            ingest(lake, replace(config, classes=config.classes[:-1]))


def test_where_no_label_can_be_judged_it_is_said_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    root = project(tmp_path, "a.jsonl")
    with Lake(root / "lake") as lake:
        ingest(lake, Project(root).ingest_config)
    assert run_command(["suspects", "--project", str(root)]) == 0
    told = capsys.readouterr()
    assert told.out == "", "no table without a row"
    assert "There is no label of an embedded train item to judge yet." in told.err
