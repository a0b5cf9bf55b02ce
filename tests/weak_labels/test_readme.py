"""What weak_labels/README.md shows for a program runs as it stands, and gives what it says."""

import re
import runpy
from pathlib import Path

import numpy as np

README = (Path(__file__).parents[2] / "weak_labels" / "README.md").read_text("utf-8")


def test_the_program_runs_as_it_stands(tmp_path: Path) -> None:
    (source,) = (code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "fit_multi_label(" in code)
    program = tmp_path / "program.py"
    lines = source.rstrip().splitlines()
    program.write_text("\n".join([*lines[:-1], f"predicted = {lines[-1]}"]), encoding="utf-8")
    known = runpy.run_path(str(program))
    np.testing.assert_allclose(known["fitted"].probs.sum(axis=1), 1.0)
    assert known["fitted"].votes.tolist() == [2, 2, 0]
    assert known["predicted"].argmax(axis=1)[:2].tolist() == [0, 1]
