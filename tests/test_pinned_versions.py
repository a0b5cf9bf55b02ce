"""pyproject.toml asks for what the code imports, in versions that serve, constraints.txt's among them; our own one."""

import ast
import re
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import packages_distributions
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.projects import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
CONSTRAINTS = (ROOT / "constraints.txt").read_text("utf-8")
UNPINNED = {"torch"}  # CPU and CUDA builds both fit
ROOMS = ("active", "engine", "features", "flows", "warehouse", "weak_labels")
BROUGHT = {"markupsafe": "jinja2", "pydantic-core": "pydantic"}  # by what is named, as a part of it
IF_THERE = {"polars"}  # the one function that needs it says so
FLOORS = {"h11"}  # uvicorn's: named for its lowest version


def contradictions(pyproject: dict[str, Any], constraints: str) -> Iterator[str]:
    """What pyproject.toml asks for and constraints.txt leaves open or forbids, requirement by requirement."""
    lines = [Requirement(line) for line in constraints.splitlines() if line.strip() and not line.startswith("#")]
    pins = {canonicalize_name(pin.name): pin.specifier for pin in lines}
    project = pyproject["project"]
    asked = project["dependencies"] + [r for extra in project["optional-dependencies"].values() for r in extra]
    for requirement in map(Requirement, asked):
        pin = pins.get(canonicalize_name(requirement.name))
        if pin is None:
            yield f"{requirement}: not in constraints.txt"
        elif requirement.name in UNPINNED:
            if pin != requirement.specifier:
                yield f"{requirement}: constraints.txt says {pin}"
        elif [p.operator for p in pin] != ["=="]:
            yield f"{requirement}: constraints.txt says {pin or 'any version'}, which is no pin"
        elif not requirement.specifier.contains(next(iter(pin)).version, prereleases=True):
            yield f"{requirement}: constraints.txt says {pin}"


def test_the_pins_are_allowed() -> None:
    assert list(contradictions(PYPROJECT, CONSTRAINTS)) == []


@pytest.mark.parametrize(
    ("constraint", "said"),
    [
        ("pytest==9.2.0", "pytest<9.2,>=8.3: constraints.txt says ==9.2.0"),
        ("pytest", "pytest<9.2,>=8.3: constraints.txt says any version, which is no pin"),
        ("pytest>=8.3", "pytest<9.2,>=8.3: constraints.txt says >=8.3, which is no pin"),
        ("py.test==9.0.3", "pytest<9.2,>=8.3: not in constraints.txt"),
    ],
)
def test_a_wrong_pin_is_found(constraint: str, said: str) -> None:
    project = {"dependencies": ["torch>=2.6,<3"], "optional-dependencies": {"dev": ["pytest>=8.3,<9.2"]}}
    assert list(contradictions({"project": project}, f"# why\n{constraint}\ntorch>=2.6,<3\n")) == [said]
    assert list(contradictions({"project": project}, "PyTest==9.0.3\ntorch>=2.6,<3\n")) == []
    assert len(list(contradictions({"project": project}, "pytest==9.0.3\ntorch==2.6\n"))) == 1


@pytest.mark.parametrize(
    "library",
    [
        "filelock==3.20.0",
        "h11==0.14.0",
        "label-studio-sdk==2.0.23",
        "orjson==3.9.14",
        "prefect==3.9.0",
        "typer==0.18.0",
    ],
)
def test_no_version_is_allowed_that_a_request_or_a_link_can_hurt_or_that_the_code_cannot_use(library: str) -> None:
    name, _, version = library.partition("==")
    [asked] = [r for r in map(Requirement, PYPROJECT["project"]["dependencies"]) if r.name == name]
    assert not asked.specifier.contains(version)


def modules(source: str) -> Iterator[str]:
    """Top names of what a source imports, by a statement or by a name that stands as text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module).partition(".")[0]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "_" in node.value:
            yield node.value


def differences(dependencies: list[str], sources: Iterable[str]) -> list[str]:
    """What is imported and not named among the dependencies, and what is named and not imported."""
    named = {canonicalize_name(Requirement(line).name) for line in dependencies}
    owners = packages_distributions()
    found = {canonicalize_name(o) for source in sources for m in modules(source) for o in owners.get(m, [])}
    imported = {BROUGHT.get(name, name) for name in found} - IF_THERE - {"siftline"}
    return [f"{name}: not named" for name in sorted(imported - named)] + [
        f"{name}: not imported" for name in sorted(named - imported - FLOORS)
    ]


def test_the_dependencies_are_what_the_packages_import() -> None:
    sources = [file.read_text("utf-8") for room in ROOMS for file in (ROOT / room).rglob("*.py")]
    assert differences(PYPROJECT["project"]["dependencies"], sources) == []


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import scipy.sparse", "scipy"),
        ("from sklearn import svm", "scikit-learn"),
        ('import_module("duckdb_extension_ui")', "duckdb-extension-ui"),
    ],
)
def test_a_dependency_that_is_not_named_is_found(source: str, name: str) -> None:
    assert differences(["h11>=0.16"], [source, "import os, polars"]) == [f"{name}: not named"]
    assert differences([name], [source, "import markupsafe"]) == ["jinja2: not named"]
    assert differences([name, "jinja2>=3"], [source]) == ["jinja2: not imported"]


def test_the_newest_list_of_changes_is_of_the_version() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert re.findall(r"^## (\S+)", changes, re.MULTILINE)[0] == PYPROJECT["project"]["version"]


def test_the_template_of_deployments_asks_for_the_same_prefect() -> None:
    [asked] = [Requirement(r) for r in PYPROJECT["project"]["dependencies"] if Requirement(r).name == "prefect"]
    [stands] = re.findall(r'^prefect-version: "(.*?)"', (ROOT / "prefect.yaml").read_text("utf-8"), re.MULTILINE)
    assert Requirement(f"prefect{stands}").specifier == asked.specifier
