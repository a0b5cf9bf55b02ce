"""Another account of the machine, as that of a data scientist where the schedule has one of its own."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

GROUP = 4711
"""Of nobody on this machine."""
_NOBODY = 65_534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another account")


def open_to_group(folder: Path) -> None:
    """Do what docs/operations.md, Other accounts, says to do once."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, -1, GROUP)
        path.chmod(0o2770 if path.is_dir() else 0o660)


def as_another_account(look: Callable[[], str], *groups: int) -> str:
    """What `look` returns, or the error that it raises in words, in an account of these groups that owns nothing.

    It runs in a fork, as the interpreter may lie where only root may look; so what it imports has to be imported here.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(60)  # what a thread of ours held at the fork nobody gives back: better dead than waiting
        try:
            os.setgroups(groups)
            os.setgid(_NOBODY)
            os.setuid(_NOBODY)
            found = look()
        except BaseException as error:  # noqa: BLE001 - pytest must not go on in two processes
            found = f"{type(error).__name__}: {error}"
        os.write(writing, found.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as said:
        found = said.read().decode()
    os.waitpid(child, 0)
    return found
