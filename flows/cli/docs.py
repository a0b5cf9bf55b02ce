"""`siftline docs`: the pages that messages name, which also a wheel brings along, outside its packages."""

import re
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from flows.cli.terminal.console import out, print_table
from warehouse import SettingsError


def show_page(name: str, heading: str) -> None:
    """Print a page or one part of it; without a name list the pages.

    Raises:
        SettingsError: there is no such page or heading, or no page at all.
    """
    pages = {page.stem: page.read_text("utf-8") for page in _pages() if page.is_file()}
    if not pages:
        raise SettingsError("This installation came without its pages; they are in docs/ of the repository.")
    if not name:
        print_table(["page", "about"], [(page, text.partition("\n")[0].strip("# ")) for page, text in pages.items()])
        return
    if name not in pages:
        raise SettingsError(f"There is no page {name!r}. The pages are: {', '.join(pages)}.")
    out.print(_part(name, pages[name], heading) if heading else pages[name].rstrip())


def _part(name: str, text: str, heading: str) -> str:
    """What stands below a heading, with it, up to the next one of its rank."""
    rows = text.splitlines()
    headings: list[tuple[int, int, str]] = []  # row, rank, words
    in_code = False
    for row, line in enumerate(rows):
        in_code ^= line.startswith("```")
        if not in_code and (found := re.fullmatch("(#+) (.+)", line)):
            headings.append((row, len(found[1]), found[2]))
    for number, (row, rank, words) in enumerate(headings):
        if words.casefold() == heading.casefold():
            end = next((row for row, other, _ in headings[number + 1 :] if other <= rank), None)
            return "\n".join(rows[row:end]).rstrip()
    known = ", ".join(words for _, rank, words in headings if rank > 1)
    raise SettingsError(f"The page {name!r} has no heading {heading!r}. It has: {known}.")


def _pages() -> list[Path]:
    checkout = Path(__file__).parents[2]
    if (checkout / "pyproject.toml").is_file():
        return sorted((checkout / "docs").glob("*.md"))
    try:
        installed = files("siftline") or []
    except PackageNotFoundError:
        return []
    return sorted(Path(str(file.locate())) for file in installed if file.match("share/doc/siftline/*.md"))
