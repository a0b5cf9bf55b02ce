"""What weak_labels/README.md shows for a program runs as it stands, and gives what it says."""

import re
import runpy
from pathlib import Path

import numpy as np

README = (Path(__file__).parents[2] / "weak_labels" / "README.md").read_text("utf-8")


def code_with(marker: str) -> str:
    (source,) = (code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if marker in code)
    return source


def test_functions_vote_on_a_frame_without_a_warehouse(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(code_with("call_function("), encoding="utf-8")
    known = runpy.run_path(str(program))
    assert known["votes"].tolist() == [[1, -1], [-1, 0]]


def test_the_program_runs_as_it_stands(tmp_path: Path) -> None:
    source = code_with("fit_multi_label(")
    program = tmp_path / "program.py"
    lines = source.rstrip().splitlines()
    program.write_text("\n".join([*lines[:-1], f"predicted = {lines[-1]}"]), encoding="utf-8")
    known = runpy.run_path(str(program))
    np.testing.assert_allclose(known["fitted"].probs.sum(axis=1), 1.0)
    assert known["fitted"].votes.tolist() == [2, 2, 0]
    assert known["predicted"].argmax(axis=1)[:2].tolist() == [0, 1]
