"""Whose words nobody reads any more goes on with its work: behind `| head`, or in a terminal that was closed."""

import os
import pty
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.projects import ROOT

WORK = """
import sys
from flows.cli.console import say, stage_progress
sys.stdin.readline()
with stage_progress() as progress:
    show = progress.of("embed")
    for n in range(1000):  # more than a buffer holds
        say("what it is at")
        show(n, 1000)
print("done")
"""


@pytest.mark.parametrize("opened", [os.pipe, pty.openpty])
def test_a_run_whose_reader_left_goes_on(opened: Callable[[], tuple[int, int]]) -> None:
    reader, writer = opened()
    command = [sys.executable, "-c", WORK]
    with subprocess.Popen(command, cwd=ROOT, stdin=-1, stdout=-1, stderr=writer, text=True) as run:
        os.close(writer)
        os.close(reader)
        assert run.communicate("\n")[0] == "done\n"
    assert run.returncode == 0
