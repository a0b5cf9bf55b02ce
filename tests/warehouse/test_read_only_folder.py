"""Folders that may not be written to: a warehouse's is told as that, never as damage that a backup must mend."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.warehouse.test_commit_is_atomic import classes
from warehouse import Append, Lake

ROOT = Path(__file__).parents[2]
LOOK = """
import sys
from warehouse import Lake, WarehouseError, connect

for open_it, place in ((connect, ""), (Lake, ""), (Lake, "/new")):
    try:
        with open_it(sys.argv[1] + place):
            print("read")
    except WarehouseError as error:
        print(error)
"""

DOCTOR = """
from pathlib import Path
from flows.cli.doctor import _extensions, _guarded

[finding] = _guarded(_extensions, Path.cwd())
print(finding.words)
"""
# With the mounts below them, such as a container's: without these Linux refuses.
READ_ONLY = 'mount --rbind "{0}" "{0}" && mount -o remount,ro,bind "{0}" && '


def with_read_only(folders: Sequence[Path | str], code: str, *arguments: str) -> str:
    """What a Python prints that sees these folders as read-only, and has none where it may write for its own."""
    mounts = "".join(map(READ_ONLY.format, folders))
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", mounts + 'cd /proc && exec "$@"', "sh"]
    if subprocess.run([*command[:3], "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a folder of their own (user namespaces are off)")
    environment = {name: value for name, value in os.environ.items() if name not in ("TMPDIR", "TEMP", "TMP")}
    environment["PYTHONPATH"] = str(ROOT)
    asked = [*command, sys.executable, "-c", code, *arguments]
    ended = subprocess.run(asked, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_a_folder_that_may_not_be_written_to_is_not_called_damaged(tmp_path: Path) -> None:
    place = tmp_path / "lake"
    with Lake(place).stage("ingest", version=1, inputs=()) as stage:
        stage.commit([Append("classes", classes("a"))])
    told = with_read_only([place], LOOK, str(place))
    to_read, to_write, to_make = told.splitlines()
    assert "no sign of damage: let its owner open it to your group" in to_read
    assert "cannot be written to by this user (Read-only file system)" in to_write
    assert "Ask for the right to write" in to_write
    assert f"{place / 'new'} cannot be written to by this user (Read-only file system)" in to_make
    assert "backup" not in told
    with Lake(place).read() as reader:
        assert reader.rows("SELECT name FROM classes") == [("a",)]


def test_doctor_says_what_to_do_where_no_temporary_folder_can_be_written_to() -> None:
    told = with_read_only(["/tmp", "/var/tmp"], DOCTOR)
    assert "No usable temporary directory" in told
    assert "Set the environment variable TMPDIR" in told
