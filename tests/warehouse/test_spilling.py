"""What DuckDB's memory does not hold goes where no other process writes and nobody else reads."""

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from warehouse import Location
from warehouse.catalog.disk_full import disk_full
from warehouse.files.spill import PREFIX
from warehouse.session.duckdb import open_in_utc

SPILLING = """
import sys
from warehouse.session.duckdb import open_in_utc
connection = open_in_utc({"memory_limit": "30MB", "threads": "1"})
connection.execute("SET enable_progress_bar = false")
connection.execute("CREATE TABLE t AS SELECT repeat(range::VARCHAR, 9) AS text FROM range(300000) ORDER BY hash(range)")
print(connection.execute("SELECT current_setting('temp_directory')").fetchone()[0], flush=True)
sys.stdin.read()
assert connection.execute("SELECT count(DISTINCT text) FROM t").fetchone()[0] == 300000
"""


@contextmanager
def spilling(folder: Path, temporary: Path) -> Generator[tuple[subprocess.Popen[str], Path]]:
    """A process in a folder whose DuckDB has spilled, and where to."""
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(
        [sys.executable, "-c", SPILLING],
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield process, folder / process.stdout.readline().strip()


def test_two_processes_of_one_folder_spill_beside_each_other(tmp_path: Path) -> None:
    work, temporary = tmp_path / "work", tmp_path / "tmp"
    work.mkdir()
    temporary.mkdir()
    with spilling(work, temporary) as (one, place), spilling(work, temporary) as (other, another):
        assert place != another
        for found in (place, another):
            assert any(file.stat().st_size for file in found.iterdir())
            assert found.parent.stat().st_mode & 0o777 == 0o700
        assert not list(work.iterdir())
        for process in (one, other):
            process.communicate()
            assert process.returncode == 0
    assert not list(temporary.iterdir())


def test_what_a_killed_process_spilled_goes_with_the_next(tmp_path: Path) -> None:
    with spilling(tmp_path, tmp_path) as (process, place):
        process.kill()
    assert place.is_dir()
    with spilling(tmp_path, tmp_path) as (process, _):
        assert not place.exists()
        process.communicate()
    assert not list(tmp_path.glob(f"{PREFIX}*"))


def test_each_duckdb_of_a_process_has_a_place_of_its_own() -> None:
    with open_in_utc() as one, open_in_utc() as other:
        asked = "SELECT current_setting('temp_directory')"
        places = {connection.execute(asked).fetchall()[0][0] for connection in (one, other)}
    assert len(places) == 2


FULL = [
    'IO Error: Could not write file "siftline-spill-ctl84l0t/1/duckdb_temp_storage_S32K-0.tmp": No space left',
    "Out of Memory Error: failed to offload data block of size 256.0 KiB (2.6 MiB/2.6 MiB used).",
]


@pytest.mark.parametrize("said", FULL)
def test_a_full_disk_below_it_is_told_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    told = str(disk_full(said, Location(folder=tmp_path / "lake")))
    assert str(tmp_path) in told.partition(" is full")[0]
    assert "TMPDIR" in told


def test_without_a_temporary_folder_nothing_is_spilled(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    script = "import tempfile; tempfile.tempdir = 'file'\nfrom warehouse.session.duckdb import open_in_utc\n"
    script += "print([open_in_utc().execute(\"SELECT current_setting('temp_directory')\").fetchone()[0]])"
    asked = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert asked.stdout == "['']\n"


WHERE = "from warehouse.files.scratch import roomy_folder\nprint(roomy_folder())"


@pytest.mark.skipif(not os.access("/var/tmp", os.W_OK), reason="nobody may write to /var/tmp here")
def test_large_files_go_to_a_disk_where_nothing_else_is_named(tmp_path: Path) -> None:
    """In a folder that may be in memory they would save none."""
    unnamed = {name: value for name, value in os.environ.items() if name not in ("TMPDIR", "TEMP", "TMP")}
    small = os.path.join("/tmp", "")
    named = {None: "/var/tmp", str(tmp_path): str(tmp_path), str(tmp_path / "gone"): "/var/tmp", small: "/tmp"}
    for name, folder in named.items():
        environment = unnamed if name is None else {**unnamed, "TMPDIR": name}
        command = [sys.executable, "-c", WHERE]
        asked = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert asked.stdout == f"{folder}\n"
