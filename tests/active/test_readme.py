"""What active/README.md shows for a program runs as it stands, and gives what it says."""

import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tests.active.pools import unit

README = (Path(__file__).parents[2] / "active" / "README.md").read_text("utf-8")


def ran(marker: str, folder: Path, **known: Any) -> dict[str, Any]:
    (source,) = (code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if marker in code)
    (folder / "program.py").write_text(source, encoding="utf-8")
    return runpy.run_path(str(folder / "program.py"), init_globals=known)


def test_strategies_and_suspicion_take_arrays_of_ones_own(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    truth = np.arange(60) % 2
    vectors = unit(np.eye(8)[truth] + 0.3 * generator.standard_normal((60, 8)))
    labelled, gold = np.arange(20), truth[:20].copy()
    gold[7] = 1 - gold[7]
    given = {"vectors": vectors, "probs": generator.dirichlet([1, 1], 60), "labelled": labelled, "gold": gold}
    before = {name: values.copy() for name, values in given.items()}
    known = ran("PoolGraph.build(", tmp_path, **given)
    assert len(set(known["picked"].tolist()) - set(range(20))) == 5
    assert known["doubtful"][0] == 7
    assert all(np.array_equal(values, before[name]) and values.flags.writeable for name, values in given.items())


def test_people_are_judged_on_a_table_of_answers(tmp_path: Path) -> None:
    rows = [(f"i{n}", who, n % 2 ^ (who == "bob" and n % 3 == 0)) for n in range(30) for who in ("ann", "bob", "cy")]
    answers = pd.DataFrame([*rows, ("alone", "ann", 1)], columns=["item", "annotator", "class_id"])
    known = ran("Opinions(", tmp_path, answers=answers)
    assert known["accuracy"]["bob"] < 0.75 < known["accuracy"]["ann"] == known["accuracy"]["cy"]
    assert 0 < known["alpha"] < 1
