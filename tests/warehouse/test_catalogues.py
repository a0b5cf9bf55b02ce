"""PostgreSQL catalogue and data on S3: the same promises, and no secret where it could be read."""

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
from contextlib import closing
from pathlib import Path

import pytest

from flows.cli.main import run_command
from tests.warehouse.servers import S3
from tests.warehouse.test_commit_is_atomic import classes, count, items
from warehouse import Append, Lake, Location, SettingsError, StoreAway, Upsert, WarehouseError, WarehouseNotFound
from warehouse.catalog.write_lock import FolderLock, PostgresLock
from warehouse.errors import WarehouseBusy
from warehouse.storage.checksums import verify

ROOT = Path(__file__).parents[2]


def fill(lake: Lake) -> None:
    with lake.stage("ingest", version=1, inputs=()) as stage:
        assert stage.commit([Upsert("classes", classes("a", "b")), Upsert("items", items(2000))]).committed


def test_a_postgres_catalogue_keeps_the_promises_of_a_commit(tmp_path: Path, postgres: str) -> None:
    place = Location(folder=tmp_path / "lake", catalog=postgres)
    with pytest.raises(WarehouseNotFound, match="siftline run"):
        Lake(place, read_only=True)
    with pytest.raises(WarehouseNotFound, match="siftline run"):
        Lake(place, create=False)
    with pytest.raises(WarehouseNotFound, match="siftline run"):
        Lake(place, read_only=True)
    with Lake(place) as lake:
        fill(lake)
        Lake(place, create=False).close()
        with lake.stage("ingest", version=1, inputs=()) as again:
            assert again.done
            assert not again.commit([Append("classes", classes("a"))]).committed
        with Lake(place, read_only=True) as reading:
            assert (count(reading, "classes"), count(reading, "items"), count(reading, "runs")) == (2, 2000, 1)
            assert reading.content_hash(["items"]) == lake.content_hash(["items"])
    assert not (tmp_path / "lake" / "catalog.sqlite").exists()
    assert list((tmp_path / "lake" / "data").rglob("*.parquet"))


def test_data_on_s3_is_written_read_and_private(tmp_path: Path, postgres: str, s3: S3) -> None:
    place = Location(folder=tmp_path / "lake", catalog=postgres, data="s3://bucket/team/lake")
    with Lake(place) as lake:
        fill(lake)
        assert count(lake, "items") == 2000
    with Lake(place, read_only=True) as reading:
        assert count(reading, "items") == 2000
    assert list((s3.folder / "bucket" / "team" / "lake").rglob("*.parquet"))
    assert not (tmp_path / "lake" / "data").exists()


def test_data_on_s3_with_a_sqlite_catalogue(tmp_path: Path, s3: S3) -> None:
    with Lake(Location(folder=tmp_path / "lake", data="s3://bucket/own")) as lake:
        fill(lake)
        assert count(lake, "items") == 2000


def test_a_place_that_holds_another_warehouse_is_refused(tmp_path: Path, postgres: str, s3: S3) -> None:
    with Lake(Location(folder=tmp_path / "first", data="s3://bucket/shared")) as lake:
        fill(lake)
    with pytest.raises(WarehouseError, match="another warehouse's"):
        Lake(Location(folder=tmp_path / "second", data="s3://bucket/shared"))
    with Lake(tmp_path / "local") as lake:
        fill(lake)
    with pytest.raises(WarehouseError, match="another warehouse's"):
        Lake(Location(folder=tmp_path / "local", catalog=postgres))
    Lake(Location(folder=tmp_path / "second", data="s3://bucket/shared-2")).close()


def test_a_place_inside_another_warehouse_s_is_refused(tmp_path: Path, s3: S3) -> None:
    """Upkeep of the outer one fails where it finds the files of the inner one, and removes no leftovers any more."""
    with Lake(Location(folder=tmp_path / "outer", data="s3://bucket/outer")) as lake:
        fill(lake)
    for inside in ("s3://bucket/outer/inner", "s3://bucket/outer/a/b/"):
        with pytest.raises(WarehouseError, match="is inside s3://bucket/outer/, where another warehouse has"):
            Lake(Location(folder=tmp_path / "inner", data=inside))
    with Lake(Location(folder=tmp_path / "beside", data="s3://bucket/outer-2/inner")) as lake:
        fill(lake)
    with pytest.raises(WarehouseError, match="another warehouse's"):
        Lake(Location(folder=tmp_path / "around", data="s3://bucket/outer-2"))


def test_a_catalogue_whose_files_are_in_another_folder_is_refused(tmp_path: Path, postgres: str) -> None:
    """As a colleague's: what it wrote, the folder with the other files could not read."""
    with Lake(Location(folder=tmp_path / "first", catalog=postgres)) as lake:
        fill(lake)
    for read_only in (False, True):
        with pytest.raises(WarehouseError, match=f"none of them is in {tmp_path}/copy"):
            Lake(Location(folder=tmp_path / "copy", catalog=postgres), read_only=read_only)
    (tmp_path / "first").rename(tmp_path / "moved")
    with Lake(Location(folder=tmp_path / "moved", catalog=postgres)) as lake:
        assert count(lake, "items") == 2000


@pytest.mark.parametrize("harm", ["none", "cut", "gone", "away"])
def test_verify_asks_s3_for_every_file(tmp_path: Path, s3: S3, monkeypatch: pytest.MonkeyPatch, harm: str) -> None:
    place = Location(folder=tmp_path / "lake", data=f"s3://bucket/verified-{harm}")
    with Lake(place) as lake:
        fill(lake)
    files = list((s3.folder / "bucket" / f"verified-{harm}").rglob("*.parquet"))
    file = files[0]
    content = file.read_bytes()
    told = ""
    if harm == "away":
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        with pytest.raises(StoreAway, match="does not answer"):
            verify(place)
        return
    if harm == "cut":
        file.write_bytes(content[:-1])
        told = f"it has {len(content) - 1} bytes, and {len(content)} were written"
    elif harm == "gone":
        file.unlink()
        told = "it is gone"
    found = verify(place)
    assert (found.files, found.unnoted) == (len(files), len(files))
    assert [(path.name, what) for path, what in found.damaged] == ([(file.name, told)] if told else [])


def test_a_store_that_is_away_is_told_by_type(
    tmp_path: Path, s3: S3, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("warehouse.commits.transaction.PATIENCE_S", 0.0)
    place = Location(folder=tmp_path / "lake", data="s3://bucket/away")
    with Lake(place) as lake:
        fill(lake)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreAway, match="does not answer"):
        Lake(Location(folder=tmp_path / "new", data="s3://bucket/new"))
    with Lake(place) as lake:
        with pytest.raises(StoreAway, match="does not answer"), lake.stage("t", version=1, inputs=()) as stage:
            stage.commit([Upsert("items", items(3000))])
        with pytest.raises(StoreAway, match="does not answer"), lake.read() as reader:
            reader.rows("SELECT * FROM items")
    (tmp_path / "siftline.toml").write_text(
        '[project]\nname = "p"\nclasses = ["a", "b"]\n[[sources]]\nname = "s"\npath = "x.csv"\n'
        '[warehouse]\ndata = "s3://bucket/away"\n'
    )
    assert run_command(["sql", "SELECT * FROM items", "--project", str(tmp_path)]) == 3
    said = capsys.readouterr().err
    assert "does not answer" in said
    assert "backup" not in said


def test_no_secret_in_errors_settings_or_attach(
    tmp_path: Path, postgres: str, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = Location(folder=tmp_path / "lake", catalog=postgres, data="s3://bucket/secret")
    with Lake(good) as lake:
        fill(lake)
        cursor = lake.new_cursor()
        for sql in ("FROM duckdb_settings()", "FROM duckdb_secrets()", "FROM duckdb_databases()"):
            shown = str(cursor.execute(sql).fetchall())
            assert s3.secret not in shown
            assert os.environ["PGPASSWORD"] not in shown
    monkeypatch.setenv("PGPASSWORD", "canary-wrong-password")
    with pytest.raises(WarehouseError, match="PGPASSWORD") as wrong:
        Lake(good)
    assert "canary" not in str(wrong.value)


def test_a_wrong_key_is_an_error_without_the_key(tmp_path: Path, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-wrong-key")
    with Lake(Location(folder=tmp_path / "lake", data="s3://bucket/wrong")) as lake:
        with pytest.raises(WarehouseError, match="SignatureDoesNotMatch") as wrong:
            fill(lake)
        assert "canary" not in str(wrong.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"catalog": "postgres:dbname=x password=secret"},
        {"catalog": "postgres:postgresql://me:secret@host/x"},
        {"catalog": "mysql:x"},
        {"data": "elsewhere"},
    ],
)
def test_a_place_of_another_form_or_with_a_password_is_refused(tmp_path: Path, wrong: dict) -> None:
    with pytest.raises(SettingsError) as refused:
        Location(folder=tmp_path, **wrong)
    assert "secret" not in str(refused.value)


def test_an_address_beside_the_host_comes_from_the_environment_only(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="PGHOSTADDR"):
        Location(folder=tmp_path, catalog="postgres:dbname=x host=db hostaddr=192.0.2.1")


def test_a_backslash_in_the_path_is_refused_where_the_data_would_be_below_it(tmp_path: Path) -> None:
    folder = tmp_path / "a\\b" / "lake"
    with pytest.raises(SettingsError, match="has no backslash"):
        Lake(folder)
    assert not folder.exists()
    assert Location(folder=folder, data="s3://bucket/x").data_path == "s3://bucket/x/"


def test_s3_without_keys_names_the_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    with pytest.raises(SettingsError, match="AWS_ACCESS_KEY_ID"):
        Lake(Location(folder=tmp_path / "lake", data="s3://bucket/x"))


def test_files_are_their_owners_only(tmp_path: Path) -> None:
    with Lake(tmp_path / "lake") as lake:
        fill(lake)
        for path in (tmp_path / "lake").rglob("*"):
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    (tmp_path / "after").touch()
    assert stat.S_IMODE((tmp_path / "after").stat().st_mode) != 0o600


HOLDER = """
import os, sys, time
from pathlib import Path
from warehouse import Location
place = Location(folder=Path(sys.argv[1]), catalog=sys.argv[2])
with place.write_lock().held():
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_lock_is_waited_for_named_and_freed_by_the_death_of_its_owner(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    catalog = "sqlite" if kind == "sqlite" else request.getfixturevalue("postgres")
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), str(tmp_path), catalog]
    holder = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    place = Location(folder=tmp_path, catalog=catalog)
    short = FolderLock(tmp_path, timeout_s=0.5) if place.dsn is None else PostgresLock(place.dsn, timeout_s=0.5)
    words = f"Process {holder.pid} on" if kind == "sqlite" else "pg_locks"
    with pytest.raises(WarehouseBusy, match=words), short.held():
        raise AssertionError("two hold the lock")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with place.write_lock().held():
        pass


def test_a_lock_whose_note_cannot_be_removed_is_freed_and_hides_nothing(tmp_path: Path) -> None:
    note = tmp_path / "write.owner"

    def fail() -> None:
        note.unlink()
        note.mkdir()
        raise ValueError("what ended the work")

    with pytest.raises(ValueError, match="what ended the work"), FolderLock(tmp_path).held():
        fail()
    with FolderLock(tmp_path, timeout_s=0.5).held():
        pass


def test_a_link_in_a_folder_from_somebody_else_leads_no_write_outside(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    place = Location(folder=tmp_path / "lake")
    Lake(place).close()
    for name in ("write.owner", "data.sha256"):
        (place.folder / name).unlink(missing_ok=True)
        (place.folder / name).symlink_to(tmp_path / "mine")
    with Lake(place) as lake, lake.stage("ingest", version=1, inputs=()) as stage:
        stage.commit([Append("items", items(500))])
    assert (tmp_path / "mine").read_text() == "precious"


def test_a_catalogue_that_is_a_link_is_not_written_to(tmp_path: Path) -> None:
    mine = Location(folder=tmp_path / "mine")
    Lake(mine).close()
    with closing(sqlite3.connect(tmp_path / "cookies.sqlite")) as other:
        other.execute("CREATE TABLE cookies (name)")
    for number, target in enumerate((mine.catalog_file, tmp_path / "cookies.sqlite", tmp_path / "nothing")):
        before = target.read_bytes() if target.exists() else None
        theirs = Location(folder=tmp_path / f"theirs-{number}")
        theirs.folder.mkdir()
        theirs.catalog_file.symlink_to(target)
        with pytest.raises(WarehouseError, match=f"is a link to {target}"):
            Lake(theirs)
        assert (target.read_bytes() if target.exists() else None) == before
    Lake(mine).close()
