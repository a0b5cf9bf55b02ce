"""DuckDB's signature check of extensions: once per file and user, and never skipped for a file that is another."""

import importlib
import os
import pwd
import shutil
from pathlib import Path

import duckdb
import pytest

from warehouse import Lake
from warehouse.session import extensions
from warehouse.session.extensions import extension_path, open_duckdb, record_path


@pytest.fixture
def new_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a user's first process: nothing is known of any file."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(extensions, "_CHECKED", set())


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An extension's file that a test may change, in the place that is loaded from."""
    module = importlib.import_module("duckdb_extension_sqlite_scanner")
    copy = tmp_path / "extensions" / f"v{duckdb.__version__}" / "sqlite_scanner.duckdb_extension"
    copy.parent.mkdir(parents=True)
    shutil.copyfile(extension_path("sqlite_scanner"), copy)
    monkeypatch.setattr(module, "__file__", str(tmp_path / "__init__.py"))
    return copy


def forge(file: Path) -> None:
    """Change what the signature covers and no code that runs at loading; size and time of change stay."""
    before = file.stat()
    with file.open("r+b") as content:
        content.seek(before.st_size // 2)
        byte = content.read(1)[0]
        content.seek(before.st_size // 2)
        content.write(bytes([byte ^ 1]))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_an_open_warehouse_loads_no_unsigned_extension_and_cannot_be_told_to(lake: Lake, tmp_path: Path) -> None:
    """Also the connections after the first of a process, which skip the check of the two that were checked."""
    forged = tmp_path / "forged.duckdb_extension"
    shutil.copyfile(extension_path("sqlite_scanner"), forged)
    forge(forged)
    for connection in (open_duckdb(), open_duckdb(), lake.new_cursor()):
        with pytest.raises(duckdb.Error, match="signature"):
            connection.execute(f"LOAD '{forged}'")
        with pytest.raises(duckdb.Error):
            connection.execute("SET allow_unsigned_extensions = true")


def test_a_changed_extension_is_checked_again_although_size_and_time_are_the_same(
    copied: Path, new_process: None
) -> None:
    open_duckdb().close()
    forge(copied)
    with pytest.raises(duckdb.Error, match="signature"):
        open_duckdb()


def test_what_one_process_checked_the_next_does_not(
    copied: Path, new_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_duckdb().close()
    monkeypatch.setattr(extensions, "_CHECKED", set())
    used: list[str] = []
    real = duckdb.connect
    monkeypatch.setattr(
        duckdb, "connect", lambda config: used.append(config["allow_unsigned_extensions"]) or real(config=config)
    )
    open_duckdb().close()
    assert used == ["true"]


@pytest.mark.parametrize("spoil", ["others may write", "of another user", "not JSON", "others may write the folder"])
def test_a_note_that_somebody_else_could_have_written_is_not_believed(
    copied: Path, new_process: None, monkeypatch: pytest.MonkeyPatch, spoil: str
) -> None:
    open_duckdb().close()
    forge(copied)
    known = extensions._identity(copied)
    extensions._record(frozenset([known]))  # as an attacker would write it
    assert known in extensions._recorded()
    monkeypatch.setattr(extensions, "_CHECKED", set())
    if spoil == "others may write":
        record_path().chmod(0o666)
    elif spoil == "others may write the folder":
        record_path().parent.chmod(0o777)
    elif spoil == "not JSON":
        record_path().write_text("[[1, 2]]")
    elif os.getuid() == 0:
        os.chown(record_path(), 65534, 65534)
    else:
        pytest.skip("only root can give a file away")
    with pytest.raises(duckdb.Error, match="signature"):
        open_duckdb()


def test_a_home_that_cannot_be_written_costs_time_and_nothing_else(
    new_process: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    open_duckdb().close()
    assert extensions._recorded() == set()


def test_a_user_without_a_home_costs_time_and_nothing_else(new_process: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    open_duckdb().close()
    assert extensions._recorded() == set()
