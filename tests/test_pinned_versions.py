"""The versions in constraints.txt are ones that pyproject.toml allows, else pip installs nothing; and our own one."""

import re
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.projects import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
CONSTRAINTS = (ROOT / "constraints.txt").read_text("utf-8")
UNPINNED = {"torch"}  # CPU and CUDA builds both fit


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


@pytest.mark.parametrize("library", ["filelock==3.20.0", "h11==0.14.0", "orjson==3.9.14"])
def test_no_version_is_allowed_that_a_request_or_a_link_can_hurt(library: str) -> None:
    name, _, version = library.partition("==")
    [asked] = [r for r in map(Requirement, PYPROJECT["project"]["dependencies"]) if r.name == name]
    assert not asked.specifier.contains(version)


def test_the_newest_list_of_changes_is_of_the_version() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert re.findall(r"^## (\S+)", changes, re.MULTILINE)[0] == PYPROJECT["project"]["version"]
