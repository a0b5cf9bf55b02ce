"""A warehouse in a folder that may not be written to: told as that, never as damage that a backup must mend."""

import subprocess
import sys
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


def test_a_folder_that_may_not_be_written_to_is_not_called_damaged(tmp_path: Path) -> None:
    place = tmp_path / "lake"
    with Lake(place).stage("ingest", version=1, inputs=()) as stage:
        stage.commit([Append("classes", classes("a"))])
    mount = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && exec "$2" -c "$3" "$1"'
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", mount, "sh", str(place), sys.executable, LOOK]
    if subprocess.run([*command[:3], "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a folder of their own (user namespaces are off)")
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    to_read, to_write, to_make = ended.stdout.splitlines()
    assert "no sign of damage: ask for the right to write" in to_read
    assert "cannot be written to by this user (Read-only file system)" in to_write
    assert "Ask for the right to write" in to_write
    assert f"{place / 'new'} cannot be written to by this user (Read-only file system)" in to_make
    assert "backup" not in ended.stdout
    with Lake(place).read() as reader:
        assert reader.rows("SELECT name FROM classes") == [("a",)]
