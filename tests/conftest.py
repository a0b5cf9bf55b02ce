"""What every test may use: an open warehouse in a fresh folder, and no network but loopback and PyPI's client."""

import os
import signal
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from tests.lakes import copy_of
from warehouse import Lake

# Threads of torch, scikit-learn and faiss that wait give their core away: the workers of a parallel run, and what their
# tests start, share the cores. Set before any of them is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A shell starts its background jobs deaf to Ctrl-C, and all that they start is deaf too: tests press it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# `make test` tells a make inside of it that it is one, which then writes other lines and asks the outer one for jobs.
for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
    os.environ.pop(name, None)


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    """An open warehouse in which nothing is yet."""
    with copy_of(Lake, tmp_path / "lake") as opened:
        yield opened


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `-n 3` a file stays on one worker, and all that needs Label Studio shares one server on one worker.

    What takes minutes begins first, so that no worker ends with it alone. Tests marked cuda are skipped where there is
    no such device.
    """
    items.sort(key=lambda item: item.path.parent.name not in ("faults", "journeys"))
    marked = [item for item in items if item.get_closest_marker("cuda")]
    if marked and not import_module("torch").cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="torch finds no CUDA device on this machine"))
    for item in items:
        group = "studio" if item.get_closest_marker("studio") else item.nodeid.split("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))


def pytest_collection_finish(session: pytest.Session) -> None:
    """A plugin that ignores the groups would start servers twice and split files, silently."""
    if session.config.option.__dict__.get("loadgroup") and not all("@" in item.nodeid for item in session.items):
        raise pytest.UsageError("pytest-xdist did not group the tests: see the versions of pytest in pyproject.toml.")


pytest_plugins = [
    "tests.projects",
    "tests.prefect_runs",
    "tests.studio",
    "tests.engine_servers",
    "tests.warehouse.servers",
]
