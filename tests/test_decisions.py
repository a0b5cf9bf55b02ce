"""Each decision record is short, has the three sections, and is in the index. Links are checked by test_page_links."""

from pathlib import Path

import pytest

from tests.projects import ROOT

FOLDER = ROOT / "docs" / "decisions"
RECORDS = sorted(FOLDER.glob("[a-z]*.md"))
SECTIONS = ["## Decision", "## Measured", "## What would change it"]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.stem)
def test_record_is_short_and_has_its_sections(record: Path) -> None:
    lines = record.read_text("utf-8").splitlines()
    assert [line for line in lines if line.startswith("#")] == [lines[0], *SECTIONS]
    assert len(lines) <= 40
    assert f"- [{lines[0].removeprefix('# ')}]({record.name})" in (FOLDER / "README.md").read_text("utf-8")


def test_there_are_at_most_25_records() -> None:
    assert 0 < len(RECORDS) <= 25
