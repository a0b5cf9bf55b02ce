"""Commands, options, settings and sections of pages that messages and pages name are there, under these names."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from flows.cli.main import app
from flows.settings import Settings
from flows.settings_file import _tables
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
SECTION = re.compile(r"(docs/[a-z-]+\.md), ([A-Z][\w ']*\w)")


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
    for page, heading in SECTION.findall(text):
        if f" {heading}\n" not in (ROOT / page).read_text("utf-8"):
            wrong.append(f"{page}, {heading}")
    return wrong


@pytest.mark.parametrize("files", [CODE, PAGES], ids=["code", "pages"])
def test_what_is_named_is_there(files: list[Path]) -> None:
    named = {
        str(file.relative_to(ROOT)): [wrong for text in texts(file) for wrong in not_there(text)] for file in files
    }
    assert {file: wrong for file, wrong in named.items() if wrong} == {}


@pytest.mark.parametrize(
    "text",
    [
        "Look at them: siftline lf raport",
        "Make it by `siftline lf suggest --outptu x.py` and go on",
        "raise [select] bugdet = 3",
        "docs/label-studio.md, Another classes",
    ],
)
def test_what_is_not_there_is_found(text: str) -> None:
    assert len(not_there(text)) == 1
