"""Damaged files: named, with the way out, and found even where DuckDB reads on and gives wrong rows."""

import random
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from tests.warehouse.test_commit_is_atomic import classes, items
from warehouse import Append, Lake, Upsert, WarehouseError, connect
from warehouse.export.training_set import export_training_set
from warehouse.maintenance.compaction import maintain
from warehouse.storage.checksums import verify


@pytest.fixture
def filled(lake: Lake) -> Lake:
    """Files of two commits, rows of a small one in the catalogue, and a file of deletes."""
    for number, rows in enumerate((items(800), items(1600).slice(800))):
        with lake.stage("ingest", version=number, inputs=()) as stage:
            stage.commit([Append("items", rows), Append("classes", classes(f"c{number}"))])
    with lake.stage("edit", version=1, inputs=()) as stage:
        stage.commit([Upsert("items", items(30, "edited"))])
    return lake


def files(lake: Lake) -> list[Path]:
    return sorted((lake.path / "data").rglob("*.parquet"))


def flip(path: Path, at: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << bit
    path.write_bytes(content)


def test_every_file_has_its_checksum_and_sha256sum_agrees(filled: Lake) -> None:
    found = verify(filled.path)
    assert (found.files, found.unnoted, found.damaged) == (len(files(filled)), 0, ())
    assert found.bytes == sum(path.stat().st_size for path in files(filled))
    asked = subprocess.run(["sha256sum", "-c", "--strict", "data.sha256"], cwd=filled.path, capture_output=True)
    assert asked.returncode == 0, asked.stdout


def test_maintenance_notes_its_files_and_forgets_those_that_are_gone(filled: Lake) -> None:
    maintain(filled, grace_h=0)
    found = verify(filled.path)
    assert (found.files, found.unnoted, found.damaged) == (len(files(filled)), 0, ())
    assert len((filled.path / "data.sha256").read_text().splitlines()) == found.files


def test_a_flipped_bit_anywhere_is_found_and_its_file_is_named(filled: Lake) -> None:
    """DuckDB does not see most of them: see how many of the same flips it reads as other rows, without an error."""
    question = "SELECT bit_xor(hash(i)), count(*) FROM items i"
    with filled.read() as reader:
        truth = reader.rows(question)
    rng, outcomes = random.Random(0), Counter[str]()
    for _ in range(16):
        path = rng.choice(files(filled))
        at, bit = rng.randrange(path.stat().st_size), rng.randrange(8)
        flip(path, at, bit)
        try:
            with connect(filled.path) as reader:
                outcomes["same" if reader.rows(question) == truth else "wrong"] += 1
        except duckdb.Error:
            outcomes["error"] += 1
        assert verify(filled.path).damaged == ((path, "its content is not what was written (sha256)"),)
        flip(path, at, bit)
    assert verify(filled.path).damaged == ()
    assert outcomes["wrong"], "DuckDB checks its pages now: see docs/decisions/checksums-beside-the-data.md"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize(
    ("spoil", "words"), [(Path.unlink, "it is gone"), (cut, "bytes, and"), (lambda p: flip(p, 40, 3), "sha256")]
)
def test_a_damaged_file_is_refused_by_name_with_the_way_out(
    filled: Lake, tmp_path: Path, spoil: Callable[[Path], None], words: str
) -> None:
    damaged = next(path for path in files(filled) if path.parent.name == "items")
    spoil(damaged)
    for refused in (
        lambda: verify(filled.path).raise_if_damaged(),
        lambda: export_training_set(filled.path, tmp_path / "set", format="parquet"),
    ):
        with pytest.raises(WarehouseError, match="backup") as error:
            refused()
        assert damaged.name in str(error.value)
        assert words in str(error.value)
    assert not (tmp_path / "set").exists()


def test_a_file_whose_note_was_lost_is_said_to_be_unchecked_and_noted_by_maintenance(filled: Lake) -> None:
    notes = filled.path / "data.sha256"
    kept, cut_short = notes.read_text().splitlines()[:2]
    notes.write_text(f"{kept}\n{cut_short[:40]}")  # a crash in the middle of a line
    assert verify(filled.path).unnoted == len(files(filled)) - 1
    maintain(filled)
    assert verify(filled.path).unnoted == 0


def test_notes_that_are_no_text_any_more_count_as_lost(filled: Lake) -> None:
    notes = filled.path / "data.sha256"
    notes.write_bytes(b"\xff" + notes.read_bytes()[1:])
    found = verify(filled.path)
    assert (found.unnoted, found.damaged) == (1, ())
    maintain(filled)
    assert verify(filled.path).unnoted == 0


def test_an_earlier_snapshot_needs_only_its_own_files(filled: Lake) -> None:
    last = files(filled)[-1]
    with connect(filled.path) as reader:
        newest = reader.snapshot()
    assert verify(filled.path, at=2).files < verify(filled.path, at=newest).files
    last.unlink()
    assert verify(filled.path, at=2).damaged == ()
    assert verify(filled.path, at=newest).damaged == ((last, "it is gone"),)


def test_a_later_snapshot_needs_no_file_whose_rows_were_all_replaced(filled: Lake) -> None:
    replaced = next(path for path in files(filled) if path.parent.name == "items" and "-delete" not in path.name)
    with filled.stage("edit", version=2, inputs=()) as stage:
        stage.commit([Upsert("items", items(1600, "edited again"))])
    replaced.unlink()
    assert verify(filled.path, at=filled.snapshot()).damaged == ()
    assert verify(filled.path).damaged == ((replaced, "it is gone"),)


READ = """
import sys
from pathlib import Path
import duckdb
from warehouse import WarehouseError, connect
try:
    with connect(Path(sys.argv[1])) as reader:
        print(reader.rows("SELECT count(*) FROM items"), reader.rows("SELECT * FROM classes"))
except WarehouseError as error:
    assert "catalog.sqlite" in str(error)
    print("named")
except duckdb.Error:
    print("refused")
"""


def test_a_damaged_catalogue_ends_in_words_and_never_in_a_crash(filled: Lake, tmp_path: Path) -> None:
    """Pages of the catalogue overwritten one after another; each is read in a process of its own."""
    filled.close()
    with sqlite3.connect(filled.catalog) as catalog:
        catalog.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole = filled.catalog.read_bytes()
    pages, found = len(whole) // 4096, Counter[str]()
    for page in (0, 1, *range(2, pages, max(1, pages // 5))):
        spoiled = bytearray(whole)
        spoiled[page * 4096 : page * 4096 + 4096] = random.Random(page).randbytes(4096)
        place = tmp_path / f"spoiled{page}"
        shutil.copytree(filled.path, place)
        (place / "catalog.sqlite").write_bytes(spoiled)
        ended = subprocess.run([sys.executable, "-c", READ, str(place)], capture_output=True, text=True)
        assert ended.returncode == 0, f"page {page}: {ended.returncode} {ended.stderr[-500:]}"
        found[checked(place)] += 1
    assert not found["missed"]


def checked(place: Path) -> str:
    """Whether `verify` names the catalogue as damaged, misses it, or cannot open it and says so."""
    try:
        damaged = verify(place).damaged
    except WarehouseError as error:
        return "refused" if "catalog.sqlite" in str(error) else "missed"
    return "named" if damaged and damaged[0][0].name == "catalog.sqlite" else "missed"


OPEN = """
import sys
from pathlib import Path
from warehouse import Lake, WarehouseError, connect
for place in map(Path, sys.argv[1:]):
    for way in (connect, lambda path: connect(path, at=2), Lake):
        try:
            with way(place):
                print(place.name, "opened", flush=True)
        except WarehouseError as error:
            assert "catalog.sqlite" in str(error) and "backup" in str(error) and "Stack" not in str(error), error
            print(place.name, "refused", flush=True)
"""


def test_opening_a_damaged_catalogue_is_refused_with_the_way_out(filled: Lake, tmp_path: Path) -> None:
    """In another process, which a crash would end. A pipeline must not build a new warehouse over the old one."""
    filled.close()
    with sqlite3.connect(filled.catalog) as catalog:
        catalog.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole, middle = filled.catalog.read_bytes(), random.Random(0).randbytes(3 * 4096)
    spoiled = {
        "empty": b"",
        "first_bytes": whole[:50],
        "first_page": whole[:4096],
        "half": whole[: len(whole) // 2],
        "last_page_gone": whole[:-4096],
        "header_zeroed": bytes(100) + whole[100:],
        "page_zeroed": whole[: 4 * 4096] + bytes(4096) + whole[5 * 4096 :],
        "random_middle": whole[: len(whole) // 2] + middle + whole[len(whole) // 2 + len(middle) :],
    }
    for name, content in spoiled.items():
        shutil.copytree(filled.path, tmp_path / name)
        (tmp_path / name / "catalog.sqlite").write_bytes(content)
    places = [str(tmp_path / name) for name in spoiled]
    ended = subprocess.run([sys.executable, "-c", OPEN, *places], capture_output=True, text=True)
    assert ended.returncode == 0, f"{ended.returncode} after {ended.stdout[-200:]}: {ended.stderr[-500:]}"
    assert ended.stdout.splitlines() == [f"{name} refused" for name in spoiled for _ in range(3)]
    for name, content in spoiled.items():
        assert (tmp_path / name / "catalog.sqlite").read_bytes() == content, "opening changed what is left"
