"""Many processes at one project at once: what is promised of its state holds, whoever works, asks or dies meanwhile."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.projects import ROOT


def crowd(folder: Path, seed: int, seconds: float, at_once: int) -> dict[str, int]:
    command = [sys.executable, "-m", "tests.journeys.crowd", str(folder), str(seed), str(seconds), str(at_once)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # no result depends on it, and a fork must not inherit a pool
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(ended.stdout.splitlines()[-1])


def test_a_small_crowd(tmp_path: Path) -> None:
    ends = crowd(tmp_path, 0, 10.0, 3)
    assert sum(ends.values()) > 5, ends


@pytest.mark.heavy
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(100, 110))
def test_a_large_crowd(tmp_path: Path, seed: int) -> None:
    ends = crowd(tmp_path, seed, 180.0, 5)
    assert ends["run: 0"], ends
    assert any(end.endswith("killed") for end in ends), ends
