"""The record of a run that is at work, where Prefect runs the same run a second time."""

from pathlib import Path

import pytest

from flows.project import Project
from flows.take_over import RunRecord, recorded, unfinished


def test_a_run_that_is_tried_again_does_not_take_over_itself(tmp_path: Path) -> None:
    (tmp_path / "siftline.toml").write_text(
        '[project]\nname = "p"\nclasses = ["a", "b"]\n[[sources]]\nname = "s"\npath = "s.jsonl"\n'
    )
    project = Project(tmp_path)
    project.state_path.mkdir()
    taken: list[RunRecord] = []

    def fail() -> None:
        with recorded(project, "cycle", "run-1", taken.append) as note:
            note("embed")
            raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        fail()
    [left] = unfinished(project.state_path)
    assert (left.run, left.stage) == ("run-1", "embed")
    with recorded(project, "cycle", "run-1", taken.append):
        assert [record.run for record in unfinished(project.state_path)] == ["run-1"]
    assert not taken
    assert not unfinished(project.state_path)
