"""A disk that is full at every point of a commit: a typed error, the old snapshot reads, the next commit works."""

import subprocess
import sys
from pathlib import Path

import pytest

from warehouse.catalog.disk_full import disk_full
from warehouse.catalog.location import Location

ROOT = Path(__file__).parents[2]

# On a disk of its own. The filler leaves less and less room, so that each kind of file is the one that does not fit.
FULL = """
import os, sys
from pathlib import Path
import numpy as np
import pyarrow as pa
from tests.warehouse.test_commit_is_atomic import classes, count, items
from warehouse import Append, CommitFailed, Lake, Upsert
from warehouse.errors import DiskFull
from warehouse.maintenance.compaction import maintain

place = Path(sys.argv[1])
filler = place / "filler"
rng = np.random.default_rng(0)
lake = Lake(place / "lake")


def free():
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


def fill(leaving):
    with filler.open("wb", buffering=0) as file:
        try:
            while free() > leaving:
                file.write(b"x" * min(4096, free() - leaving))
        except OSError:
            pass


def commit(number):
    rows = items(1500)
    random = pa.array([rng.bytes(100).hex() for _ in range(1500)])
    ids = pa.array([f"{number}-{k}" for k in range(1500)])
    rows = rows.set_column(1, "content", random).set_column(0, "item_id", ids)
    with lake.stage("ingest", version=number, inputs=()) as stage:
        return stage.commit([Append("classes", classes("a")), Upsert("items", rows)]).committed


assert commit(0)
refused = landed = 0
for number, kib in enumerate([0, 16, 40, 80, 120, 160, 200, 240, 280, 340, 400], start=1):
    runs = landed + 1
    left = {p for p in place.rglob("*.parquet")}
    fill(kib * 1024)
    try:
        landed += commit(number)
    except DiskFull as error:
        refused += 1
        assert "is full" in str(error) and "Free space" in str(error), error
        if kib >= 80:  # room for SQLite, which reading needs too
            assert count(lake, "runs") == runs
            assert {p for p in place.rglob("*.parquet")} == left, "an unfinished file keeps the disk full"
    filler.unlink()
    runs = landed + 1
    assert (count(lake, "runs"), count(lake, "items"), count(lake, "classes")) == (runs, 1500 * runs, runs), kib
    assert commit(1000 + number)
    landed += 1
with Lake(place / "lake", read_only=True) as again:
    assert count(again, "items") == 1500 * (landed + 1)
fill(0)
try:
    maintain(lake, grace_h=0)
except DiskFull:
    refused += 1
filler.unlink()
assert maintain(lake, grace_h=0).files_merged
assert count(lake, "items") == 1500 * (landed + 1)
print("refused", refused)
"""

# Space enough for all, and no room for one file more than it makes.
FULL_OF_FILES = """
import os, sys
from pathlib import Path
from tests.warehouse.test_commit_is_atomic import items
from warehouse import Lake, Upsert
from warehouse.errors import DiskFull

place = Path(sys.argv[1])
lake = Lake(place / "lake")
for number in range(os.statvfs(place).f_favail - 2):
    (place / f"small{number}").touch()
try:
    with lake.stage("ingest", version=1, inputs=()) as stage:
        stage.commit([Upsert("items", items(1500))])
except DiskFull as error:
    assert "more files" in str(error), error
    print("refused 1")
"""


def on_a_small_disk(tmp_path: Path, options: str, code: str) -> int:
    """How many commits a child refused on a disk of its own."""
    mount = f'mount -t tmpfs -o {options} tmpfs "$1" && exec "$2" -c "$3" "$1"'
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", mount, "sh", str(tmp_path), sys.executable, code]
    if subprocess.run([*command[:3], "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a disk of their own (user namespaces are off)")
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return int(ended.stdout.split()[-1])


def test_a_full_disk_is_told_and_nothing_is_lost(tmp_path: Path) -> None:
    refused = on_a_small_disk(tmp_path, "size=16m", FULL)
    assert refused >= 5, f"only {refused} commits met a full disk"


def test_a_disk_that_is_full_of_files_is_told_as_such(tmp_path: Path) -> None:
    assert on_a_small_disk(tmp_path, "size=64m,nr_inodes=200", FULL_OF_FILES) == 1


# What SQLite says is seen on a btrfs with `btrfs qgroup limit`; on a disk with room it means something else.
@pytest.mark.parametrize(
    ("said", "full"),
    [
        ('IO Error: Could not write file "a.parquet": Disk quota exceeded', True),
        ('Failed to execute query "COMMIT": disk I/O error', False),
        ('Failed to execute query "PRAGMA journal_mode=WAL": unable to open database file', False),
    ],
)
def test_a_quota_that_is_used_up_is_told_as_such(tmp_path: Path, said: str, full: bool) -> None:
    told = disk_full(said, Location(folder=tmp_path))
    assert (told is not None) == full
    assert "or your quota on it" in str(told) or not full


# The first is seen with a real one on a small tmpfs.
@pytest.mark.parametrize(
    "said",
    [
        "Failed to flush changes into DuckLake: Failed to execute query: No space left on device\nHINT:  Check",
        'Failed to prepare query "COPY": ERROR:  could not extend file "base/1/2": No space left on device',
    ],
)
def test_a_full_disk_of_the_catalogues_server_is_not_the_folders(tmp_path: Path, said: str) -> None:
    location = Location(folder=tmp_path, catalog="postgres:dbname=x")
    told = str(disk_full(said, location))
    assert "catalogue's server" in told
    assert "KiB free" not in told
    own = disk_full('IO Error: Could not write file "a.parquet": No space left on device', location)
    assert "KiB free" in str(own)


@pytest.mark.parametrize("said", ["disk I/O error", "unable to open database file"])
def test_what_sqlite_says_where_it_cannot_make_its_files(tmp_path: Path, said: str) -> None:
    code = f"""
import sys
from pathlib import Path
from warehouse.catalog.location import Location
from warehouse.catalog.disk_full import disk_full

place = Path(sys.argv[1])
try:
    (place / "filler").write_bytes(bytes(8 << 20))
except OSError:
    print("refused", int(disk_full({said!r}, Location(folder=place)) is not None))
"""
    assert on_a_small_disk(tmp_path, "size=4m", code) == 1
