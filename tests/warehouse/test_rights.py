"""Files of a warehouse are their owner's, and the group's of its folder once that is open to it: other accounts read
while a run writes, and nobody has to open each new file.
"""

import os
import stat
import tempfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.accounts import GROUP, as_another_account, needs_root, open_to_group
from tests.warehouse.test_commit_is_atomic import classes
from tests.warehouse.test_maintain import filled
from warehouse import Append, Lake, connect
from warehouse.catalog.write_lock import FolderLock
from warehouse.files.permissions import private_files
from warehouse.maintenance.compaction import maintain


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that other accounts may pass, as pytest's is not."""
    with tempfile.TemporaryDirectory(prefix="siftline-test-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder) / "lake"


def modes(folder: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("folder", "file"), [(0o700, 0o600), (0o750, 0o640), (0o770, 0o660), (0o777, 0o600)])
def test_what_is_written_follows_the_folder_and_is_never_everybodys(place: Path, folder: int, file: int) -> None:
    place.mkdir()
    place.chmod(folder)
    before = os.umask(0)
    try:
        with Lake(place) as lake:
            filled(lake)
            with lake.stage("more", version=1, inputs=()) as stage:
                stage.commit([Append("classes", classes("a"))])
            assert {mode & 0o666 for mode in modes(place)} == {file}
            maintain(lake, expire_older_than_days=0, grace_h=0)
        assert {mode & 0o666 for mode in modes(place)} == {file}
        assert {path.stat().st_mode & 0o007 for path in place.rglob("*")} == {0}
        (place.parent / "after").touch()
        assert stat.S_IMODE((place.parent / "after").stat().st_mode) == 0o666
    finally:
        os.umask(before)


def test_who_waits_may_read_who_holds_the_lock(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    before = os.umask(0)
    try:
        with FolderLock(tmp_path).held():
            assert modes(tmp_path) == {0o640}
    finally:
        os.umask(before)


def test_of_two_blocks_at_a_time_the_stricter_counts(tmp_path: Path) -> None:
    tmp_path.chmod(0o770)
    inside, done = threading.Event(), threading.Event()

    def strict() -> None:
        with private_files():
            inside.set()
            done.wait(10)

    before = os.umask(0)
    try:
        with private_files(tmp_path):
            (tmp_path / "open").touch()
            thread = threading.Thread(target=strict)
            thread.start()
            assert inside.wait(10)
            (tmp_path / "strict").touch()
            done.set()
            thread.join()
            (tmp_path / "again").touch()
        assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {
            "open": 0o660,
            "strict": 0o600,
            "again": 0o660,
        }
    finally:
        os.umask(before)


def class_names(place: Path) -> str:
    with connect(place) as reader:
        return ",".join(name for (name,) in reader.rows("SELECT name FROM classes ORDER BY name"))


@needs_root
def test_another_account_of_the_group_reads_what_is_written_later(place: Path) -> None:
    with Lake(place) as lake, lake.stage("ingest", version=1, inputs=()) as stage:
        stage.commit([Append("classes", classes("a"))])
    assert class_names(place) == "a"  # and all that reading imports is imported
    look = partial(class_names, place)
    assert "let its owner open it to your group" in as_another_account(look, GROUP)
    open_to_group(place)
    assert as_another_account(look, GROUP) == "a"
    with Lake(place) as lake:
        with lake.stage("more", version=1, inputs=()) as stage:
            stage.commit([Append("classes", classes("b"))])
        assert as_another_account(look, GROUP) == "a,b"
        filled(lake)
    assert as_another_account(look, GROUP) == ",".join(["a"] * 9 + ["b"] * 9)
    assert "let its owner open it to your group" in as_another_account(look)
    place.parent.chmod(0o700)
    assert "let its owner open it to your group" in as_another_account(look, GROUP), "it cannot be passed"
