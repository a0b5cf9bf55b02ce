"""What every test may use: an open warehouse in a fresh folder, and no network but loopback and PyPI's client."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from warehouse import Lake


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    with Lake(tmp_path / "lake") as opened:
        yield opened


pytest_plugins = ["tests.projects", "tests.studio"]
