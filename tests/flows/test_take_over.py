"""The record of a run that is at work: where Prefect runs the same run a second time, and where several runs died."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from flows.cli.main import run_command
from flows.project.project import Project
from flows.project.recovery import FILE, RunRecord, in_words, recorded, unfinished
from warehouse import SettingsError


def test_a_run_that_is_tried_again_does_not_take_over_itself(project: Project) -> None:
    project.state_path.mkdir()
    taken: list[RunRecord] = []

    def fail() -> None:
        with recorded(project, "cycle", "run-1", taken.extend) as note:
            note("embed")
            raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        fail()
    [left] = unfinished(project.state_path)
    assert (left.run, left.stage) == ("run-1", "embed")
    with recorded(project, "cycle", "run-1", taken.extend):
        assert [record.run for record in unfinished(project.state_path)] == ["run-1"]
    assert not taken
    assert not unfinished(project.state_path)


def test_dead_runs_are_told_once_each_by_a_run_that_does_their_work(project: Project) -> None:
    project.state_path.mkdir()
    file = project.state_path / FILE
    flows = ("collect", "cycle", "refresh")
    dead = [RunRecord(run=f"dead-{flow}", flow=flow, pid=1, host="h", began="2026-01-01") for flow in flows]
    for flow, does in (("collect", ("collect",)), ("refresh", ("refresh",)), ("cycle", flows)):
        file.write_text(json.dumps([asdict(record) for record in dead]))  # who told them died before it noted so
        taken: list[RunRecord] = []
        with recorded(project, flow, f"by-{flow}", taken.extend):
            pass
        assert [record.flow for record in taken] == list(does)
        assert [record.flow for record in unfinished(project.state_path)] == [
            name for name in flows if name not in does
        ]
    with project.lake.read() as reader:
        told = reader.rows("SELECT detail->'taken_over'->>'run' FROM runs WHERE stage = 'take_over' ORDER BY 1")
    assert told == [("dead-collect",), ("dead-cycle",), ("dead-refresh",)]


def test_who_ends_before_the_dead_are_told_leaves_them_to_the_next_run(project: Project) -> None:
    project.state_path.mkdir()
    dead = RunRecord(run="dead", flow="cycle", pid=1, host="h", began="2026-01-01")
    (project.state_path / FILE).write_text(json.dumps([asdict(dead)]))

    def names() -> list[str]:
        return [record.run for record in unfinished(project.state_path)]

    def fail(_: Sequence[RunRecord]) -> None:
        assert names() == ["dead", "run-1"], "as a kill would leave it"
        raise OSError("nobody can be told")

    def run() -> None:
        with recorded(project, "cycle", "run-1", fail):
            pass

    with pytest.raises(OSError, match="nobody"):
        run()
    assert names() == ["dead", "run-1"]


@pytest.mark.parametrize("held", ["", "[{", "1", '[{"run": "of another version"}]'])
def test_a_record_that_cannot_be_read_stops_no_run(project: Project, held: str) -> None:
    project.state_path.mkdir()
    (project.state_path / FILE).write_text(held)
    with recorded(project, "cycle", "run-1", lambda _: None):
        assert [record.run for record in unfinished(project.state_path)] == ["run-1"]
    assert not unfinished(project.state_path)


def test_a_run_that_cannot_open_the_warehouse_leaves_why_it_ended(project: Project, tmp_path: Path) -> None:
    project.state_path.mkdir()
    dead = RunRecord(run="run-0", flow="cycle", pid=1, host="h", began="2020-01-01", ended="mended since")
    (project.state_path / FILE).write_text(json.dumps([asdict(dead)]))
    (tmp_path / "lake").write_text("a file where the warehouse's folder should be")
    taken: list[RunRecord] = []

    def run(name: str) -> None:
        with recorded(Project(tmp_path), "cycle", name, taken.extend):
            pass

    with pytest.raises(OSError, match="lake"):
        run("run-1")
    (tmp_path / "lake").unlink()
    run("run-2")
    assert [record.run for record in taken] == ["run-0", "run-1"], "people are told of the last one"
    assert "lake" in taken[-1].ended, "it was not killed"


def test_why_a_run_ended_is_told_where_it_cannot_be_written_down(tmp_path: Path) -> None:
    root = tmp_path / "project"
    root.mkdir()
    (root / "siftline.toml").write_text(
        '[project]\nname = "p"\nclasses = ["a", "b"]\n[[sources]]\nname = "s"\npath = "s.jsonl"\n'
    )
    project = Project(root)
    project.state_path.mkdir()

    def fail() -> None:
        with recorded(project, "cycle", "run-1", lambda _: None):
            shutil.move(root, tmp_path / "moved")
            raise ValueError("what ended it")

    with pytest.raises(ValueError, match="what ended it"):
        fail()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (KeyboardInterrupt(), "interrupted by hand"),
        (SettingsError("classes are missing"), "classes are missing"),
        (ValueError("no number"), "ValueError: no number"),
    ],
)
def test_why_a_run_ended_is_written_down_for_people(project: Project, error: BaseException, told: str) -> None:
    project.state_path.mkdir()

    def end() -> None:
        with recorded(project, "cycle", "run-1", lambda _: None):
            raise error

    with pytest.raises(type(error)):
        end()
    assert [record.ended for record in unfinished(project.state_path)] == [told]


def test_how_a_run_ended_is_part_of_a_longer_sentence() -> None:
    dead = RunRecord(run="r", flow="cycle", pid=1, host="h", began="2026-01-01", ended="No such file. Name another.")
    assert dead.words().endswith(": No such file. Name another")


def test_status_tells_who_is_at_work_and_who_did_not_end_well(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project.state_path.mkdir()
    _ = project.lake
    with project.only_run(), recorded(project, "cycle", "run-1", lambda _: None) as note:
        [begins] = in_words(project.state_path)
        assert begins.startswith("A cycle run is at work, before its first stage (process ")
        [mine] = unfinished(project.state_path)
        ended = [replace(mine, ended="no answer"), replace(mine, ended="no answer", host="another")]
        (project.state_path / FILE).write_text(json.dumps([asdict(record) for record in ended]))
        for told in in_words(project.state_path):  # whoever wrote it is at work on another run now
            assert "which ended before its first stage: no answer. The next one " in told
        note("embed")
        assert run_command(["status", "--project", str(tmp_path)]) == 0
        record = (project.state_path / FILE).read_bytes()
    assert "A cycle run is at work, at embed (process " in capsys.readouterr().out
    assert in_words(project.state_path) == []
    (project.state_path / FILE).write_bytes(record)  # as if it had been killed
    [dead] = in_words(project.state_path)
    assert "which died in stage embed without a word" in dead
    assert dead.endswith("The next one that does the same work goes on with it.")
    (project.state_path / FILE).write_text(
        json.dumps([asdict(RunRecord(run="run-2", flow="collect", pid=1, host="another", began="2026-01-01"))])
    )
    [away] = in_words(project.state_path)
    assert "on another (process 1); whether it is still at work cannot be seen from here." in away


def test_what_a_run_would_stop_at_is_refused_before_it_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each mistake cost the start of a server, and the next run told it again as that of a run that it goes on with."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    (tmp_path / "a.csv").write_text("text\none\n", "utf-8")
    (tmp_path / "siftline.toml").write_text(
        '[project]\nname = "p"\nclasses = ["a", "b"]\n[[sources]]\nname = "s"\npath = "a.csv"\n', "utf-8"
    )
    assert run_command(["run", "--project", str(tmp_path)]) == 2
    assert "There is no file of labeling functions" in capsys.readouterr().err
    assert unfinished(tmp_path / ".siftline") == []
