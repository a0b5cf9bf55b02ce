"""Commands, options, settings and sections of pages that messages and pages name are there, under these names."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from flows.cli import docs
from flows.cli.main import app, run_command
from flows.settings.settings import Settings
from flows.settings.settings_file import _tables
from tests.projects import ROOT

CODE = [
    file
    for name in ("active", "engine", "features", "flows", "warehouse", "weak_labels")
    for file in (ROOT / name).rglob("*.py")
]
PAGES = [
    *ROOT.glob("*/README.md"),
    *ROOT.glob("docs/*.md"),
    ROOT / "README.md",
    *ROOT.glob("flows/cli/*.t*"),
    *ROOT.glob("deploy/*"),
]
NAMED = re.compile(r"(?:^|`|(?<!name): |then |\()siftline ((?:[a-z][a-z-]* ?)+)([^`\n|;#]*)", re.MULTILINE)
OPTION = re.compile(r"(?<![\w-])--?[a-z][\w-]*")
SETTING = re.compile(r"\[([a-z_.]+)\] ([a-z_]+)(?= = |`| names| is | needs)")
SECTION = re.compile(r"docs/([a-z-]+)\.md, ([A-Z][\w ']*\w)")
PRINTED = re.compile(r"siftline docs ([a-z-]+)(?: '([^']+)')?")


@cache
def commands() -> dict[tuple[str, ...], set[str]]:
    """The options of each command, by its words."""
    found: dict[tuple[str, ...], set[str]] = {}

    def walk(command: Any, path: tuple[str, ...]) -> None:
        found[path] = {"--help", "-h", *(name for option in command.params for name in option.opts)}
        for name, below in getattr(command, "commands", {}).items():
            walk(below, (*path, name))

    walk(typer.main.get_command(app), ())
    return found


def is_group(path: tuple[str, ...]) -> bool:
    return any(found[:-1] == path for found in commands())


def text_of(node: ast.AST) -> str:
    """A text in code; what stands in braces is a word that names nothing."""
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(value) for value in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else "{}"


def texts(file: Path) -> Iterator[str]:
    if file.suffix != ".py":
        yield file.read_text("utf-8")
        return
    inside: set[int] = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Constant | ast.JoinedStr) and id(node) not in inside:
            inside |= {id(part) for part in ast.walk(node)}
            yield text_of(node)


def not_there(text: str) -> list[str]:
    """What a text names and is not there."""
    wrong: list[str] = []
    for words, rest in NAMED.findall(text):
        path: tuple[str, ...] = ()
        for word in words.split():
            if (*path, word) not in commands():
                break
            path = (*path, word)
        if not path or (is_group(path) and len(path) < len(words.split())):
            wrong.append(f"siftline {words}")
        else:
            shown = re.split(r" && |, then |\. ", rest)[0]
            wrong += [f"siftline {' '.join(path)} {o}" for o in OPTION.findall(shown) if o not in commands()[path]]
    tables = dict(_tables(Settings))
    for table, name in SETTING.findall(text):
        if table in tables and name not in tables[table].model_fields:
            wrong.append(f"[{table}] {name}")
    for page, heading in [*SECTION.findall(text), *PRINTED.findall(text)]:
        file = ROOT / "docs" / f"{page}.md"
        if not file.is_file() or (heading and f" {heading}\n" not in file.read_text("utf-8")):
            wrong.append(f"{page}, {heading}")
    return wrong


@pytest.mark.parametrize("files", [CODE, PAGES], ids=["code", "pages"])
def test_what_is_named_is_there(files: list[Path]) -> None:
    named = {
        str(file.relative_to(ROOT)): [wrong for text in texts(file) for wrong in not_there(text)] for file in files
    }
    assert {file: wrong for file, wrong in named.items() if wrong} == {}


def test_pages_are_printed_by_their_headings(capsys: pytest.CaptureFixture[str]) -> None:
    for page in ROOT.glob("docs/*.md"):
        text = page.read_text("utf-8")
        assert run_command(["docs", page.stem]) == 0
        assert capsys.readouterr().out == text
    assert run_command(["docs", "operations", "updates"]) == 0
    part = capsys.readouterr().out
    assert part.startswith("## Updates\n")
    assert "\npip install --constraint" in part, "a comment in code is no heading"
    assert part.count("\n#") == 1
    assert run_command(["docs", "label-studio", "Other classes"]) == 0
    assert "### Renamed, merged" in capsys.readouterr().out
    assert run_command(["docs"]) == 0
    assert "label-studio\tLabel Studio\n" in capsys.readouterr().out
    assert run_command(["docs", "label-studio", "Other"]) == 2
    assert "It has: A local server, A server of your own, " in capsys.readouterr().err
    assert run_command(["docs", "studio"]) == 2
    assert "The pages are: architecture, " in capsys.readouterr().err


def test_an_installation_without_its_pages_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "siftline-1.dist-info"  # as `pip install --target` leaves it: they are elsewhere
    installed.mkdir()
    (installed / "METADATA").write_text("Name: siftline\nVersion: 1\n")
    (installed / "RECORD").write_text("../share/doc/siftline/operations.md,,\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(docs, "__file__", str(tmp_path / "flows" / "cli" / "docs.py"))
    for page in ([], ["operations"]):
        assert run_command(["docs", *page]) == 2
        assert "This installation came without its pages" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "Look at them: siftline lf raport",
        "Make it by `siftline lf suggest --outptu x.py` and go on",
        "raise [select] bugdet = 3",
        "docs/label-studio.md, Another classes",
        "Who may: siftline docs operations 'More accounts'",
        "see siftline docs operation",
    ],
)
def test_what_is_not_there_is_found(text: str) -> None:
    assert len(not_there(text)) == 1
