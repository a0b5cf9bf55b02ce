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
from flows.cli.terminal.console import say, stage_progress
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


def print_to(output: int, *command: str) -> tuple[int, str]:
    """The exit code of a command that keeps what it prints until its end, and what it says on standard error."""
    ended = subprocess.run(
        [sys.executable, "-m", "flows.cli.main", *command],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
    )
    return ended.returncode, ended.stderr


@pytest.mark.parametrize("command", [["questions"], ["--help"]], ids=" ".join)
def test_what_a_command_prints_last_goes_to_nobody_without_a_word(command: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    assert print_to(writer, *command) == (0, "")
    os.close(writer)


@pytest.mark.parametrize("command", [["questions"], ["--help"]], ids=" ".join)
def test_what_a_command_prints_last_onto_a_full_disk_is_told_once(command: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        code, told = print_to(full.fileno(), *command)
    assert code == 2
    assert told.startswith("siftline: [Errno 28] No space left on device. ")
    assert told.count("\n") == 1


def test_the_end_of_a_command_says_nothing_of_its_own_parts() -> None:
    # From Python 3.13 on what goes wrong as a file is given up is always told, and before that with -X dev.
    kept = "import sys, flows.cli.terminal.console as console; sys.kept = console"
    ended = subprocess.run([sys.executable, "-X", "dev", "-W", "ignore", "-c", kept], cwd=ROOT, stderr=-1, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
