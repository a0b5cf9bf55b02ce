"""The index of the decisions names each of them once, by its own title."""

import re

from tests.projects import ROOT

FOLDER = ROOT / "docs" / "decisions"


def test_the_index_names_every_decision_once_by_its_title() -> None:
    there = [(path.name, path.read_text("utf-8").splitlines()[0]) for path in sorted(FOLDER.glob("[0-9]*.md"))]
    index = (FOLDER / "README.md").read_text("utf-8")
    named = [(file, f"# {number} {title}") for number, file, title in re.findall(r"- \[(\d+)\]\((.+)\) (.+)", index)]
    assert sorted(named) == there
    assert all(title.startswith(f"# {name[:4]} ") for name, title in there)
