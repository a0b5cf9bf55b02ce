"""Pages, pictures and what stands between marks in READMEs are what the code makes of the JSON of the benchmarks."""

import json
from pathlib import Path

import pytest

from benchmarks.readme import PAGES, apply_filled, engine_filled, selection_filled
from benchmarks.selection_report import plots
from tests.projects import ROOT

FOLDER = ROOT / "docs" / "benchmarks"


def figures(name: str) -> dict[str, object]:
    """What a benchmark measured."""
    return json.loads((FOLDER / f"{name}.json").read_text("utf-8"))


@pytest.mark.parametrize("name", PAGES)
def test_each_page_is_what_its_figures_make(name: str) -> None:
    assert (FOLDER / f"{name}.md").read_text("utf-8") == PAGES[name](figures(name)), "run: python -m benchmarks.readme"


def test_the_selections_picture_is_what_its_figures_make() -> None:
    for name, picture in plots(figures("selection")).items():
        assert (FOLDER / name).read_text("utf-8") == picture, "run: python -m benchmarks.readme"


def test_no_page_lacks_its_writer() -> None:
    assert {path.stem for path in FOLDER.glob("*.md")} == set(PAGES)


@pytest.mark.parametrize(
    ("readme", "name", "fill"),
    [
        ("weak_labels/README.md", "apply", apply_filled),
        ("engine/README.md", "engine", engine_filled),
        ("README.md", "selection", selection_filled),
    ],
)
def test_the_readmes_have_the_figures(readme: str, name: str, fill: object) -> None:
    text = Path(ROOT / readme).read_text("utf-8")
    assert callable(fill)
    assert fill(text, figures(name)) == text, "run: python -m benchmarks.readme"
