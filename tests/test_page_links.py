"""Every relative link of every page leads to a file that is there, and every `#anchor` to a heading of its page."""

import re
from pathlib import Path

import pytest

from tests.projects import ROOT

PAGES = sorted(
    page for found in ("*.md", "*/README.md", "docs/**/*.md", "examples/*/*.md") for page in set(ROOT.glob(found))
)
LINK = re.compile(r"\]\(<?([^)\s>]+)>?\)|^\[[^\]]+\]:\s*(\S+)", re.MULTILINE)
ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:")


def prose(page: Path) -> str:
    """The page without its code, which may hold what looks like a link or a heading."""
    return re.sub(r"^(```|~~~).*?^\1", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    found: list[str] = []
    for heading in re.findall(r"^#{1,6} +(.*?) *#*$", prose(page), re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        found.append(f"{slug}-{found.count(slug)}" if slug in found else slug)
    return {*found}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    dead: list[str] = []
    for link in (inside or below for inside, below in LINK.findall(prose(page))):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if ELSEWHERE.match(link):
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    assert dead == []
