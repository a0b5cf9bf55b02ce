"""A store that refuses keys or a bucket, and a place that is another's: told with the way out, nothing removed."""

from pathlib import Path

import duckdb
import pytest

from flows.cli.main import run_command
from tests.warehouse.servers import S3, Postgres
from tests.warehouse.test_commit_is_atomic import count, items
from warehouse import (
    Lake,
    Location,
    SettingsError,
    StoreAway,
    StoreRefused,
    Upsert,
    WarehouseError,
    connect,
)
from warehouse.commits.transaction import retried
from warehouse.maintenance.compaction import maintain
from warehouse.session.extensions import open_duckdb
from warehouse.session.server_errors import server_fault
from warehouse.storage.checksums import verify

OBJECT = "http://127.0.0.1:9/bucket/p/main/items/ducklake-0.parquet"


def made(place: Location) -> Location:
    with Lake(place) as lake, lake.stage("ingest", version=1, inputs=()) as stage:
        stage.commit([Upsert("items", items(2000))])
    return place


def project(folder: Path, data: str) -> list[str]:
    (folder / "siftline.toml").write_text(
        '[project]\nname = "p"\nclasses = ["a", "b"]\n[[sources]]\nname = "s"\npath = "x.csv"\n'
        f'[warehouse]\ndata = "{data}"\n'
    )
    return ["--project", str(folder)]


@pytest.mark.parametrize(
    ("said", "way"),
    [
        (f"HTTP GET error reading '{OBJECT}' in region 'x' (HTTP 403 Forbidden)\n\nExpiredToken: It ran out.", "TOKEN"),
        (f"HTTP GET error reading '{OBJECT}' in region 'x' (HTTP 400 Bad Request)\n\nInvalidToken: No.", "TOKEN"),
        (f"Unable to connect to URL {OBJECT}: Forbidden (HTTP code 403)\n\nAccessDenied: No.", "Ask for keys"),
        (f"Unable to connect to URL {OBJECT}: Not Found (HTTP code 404)\n\nNoSuchBucket: No.", "Make the bucket"),
        (f"HTTP GET error reading '{OBJECT}' in region 'x' (HTTP 403 Forbidden)\n\nRequestTimeTooSkewed: .", "clock"),
        (f"HTTP GET error reading '{OBJECT}' in region 'x' (HTTP 403 Forbidden)", "AWS_ACCESS_KEY_ID"),
        (f"HTTP GET error reading '{OBJECT}' in region 'x' (HTTP 400 Bad Request)", "AWS_REGION"),
        (f"Request returned HTTP 301 for HTTP GET to '{OBJECT}'", "AWS_REGION"),
        (
            'HTTP 301 response when running glob "s3://bucket/p/" but HTTP response did not contain a region',
            "AWS_REGION",
        ),
    ],
)
def test_what_a_store_refuses_is_no_damage_and_names_the_way_out(said: str, way: str) -> None:
    """By what DuckDB says of the answers of Amazon's store, which none of ours gives."""
    fault = server_fault(f"HTTP Error: {said}\n\nLINE 1: SELECT file FROM glob(?) LIMIT 1\n        ^")
    assert isinstance(fault, StoreRefused)
    assert "no sign of damage" in str(fault)
    assert way in str(fault)
    assert "\n" not in str(fault)


@pytest.mark.parametrize(
    "said",
    [
        f"HTTP GET error reading '{OBJECT}' in region 'x' (HTTP 503 Service Unavailable)\n\nSlowDown: Less.",
        f"Request returned HTTP 503 for HTTP PUT to '{OBJECT}'",
        f"Request returned HTTP 500 for HTTP POST to '{OBJECT}'",
        f"Unable to connect to URL {OBJECT}: Too Many Requests (HTTP code 429)",
        f"SSL connect error error for HTTP GET to '{OBJECT}'",
    ],
)
def test_a_store_that_is_busy_is_asked_again_when_it_is_written_to_as_well(said: str) -> None:
    assert isinstance(server_fault(f"HTTP Error: {said}"), StoreAway)


def test_a_file_that_is_gone_is_not_taken_for_a_store_that_refuses() -> None:
    said = f"HTTP GET error reading '{OBJECT}' in region 'x' (HTTP 404 Not Found)\n\nNoSuchKey: No such key."
    assert server_fault(f"HTTP Error: {said}") is None


@pytest.mark.parametrize("status", [403, 503])
def test_what_a_query_or_an_item_says_of_a_status_is_no_answer_of_the_store(status: int) -> None:
    client = open_duckdb(())
    said = f"'It fails (HTTP {status} Forbidden)'"
    for query in (f"SELECT {said}::INTEGER", f"SELECT nothing, {said}"):
        with pytest.raises(duckdb.Error) as error:
            client.execute(query)
        assert f"HTTP {status}" in str(error.value)
        assert server_fault(str(error.value)) is None
    client.close()


def test_what_the_store_refuses_is_not_tried_again(tmp_path: Path) -> None:
    tried: list[int] = []

    def refused() -> None:
        tried.append(1)
        raise duckdb.HTTPException(f"HTTP Error: HTTP PUT error writing '{OBJECT}' (HTTP 403 Forbidden)")

    with pytest.raises(StoreRefused):
        retried(refused, Location(folder=tmp_path))
    assert len(tried) == 1


def test_wrong_keys_and_a_bucket_that_is_gone_are_told_by_every_command(
    tmp_path: Path, s3: S3, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (s3.folder / "leaves").mkdir()
    place = made(Location(folder=tmp_path / "lake", data="s3://leaves/p"))
    asked = project(tmp_path, place.data)
    commands = [["sql", "SELECT max(length(content)) FROM items"], ["verify"], ["doctor"]]
    with monkeypatch.context() as wrong:
        wrong.setenv("AWS_SECRET_ACCESS_KEY", "canary-wrong-key")
        for command in commands:
            assert run_command([*command, *asked]) == 2
            said = "".join(capsys.readouterr())
            assert "AWS_SECRET_ACCESS_KEY" in said
            assert "backup" not in said
            assert "canary" not in said
    (s3.folder / "leaves").rename(s3.folder / "left")
    for command in commands:
        assert run_command([*command, *asked]) == 2
        said = "".join(capsys.readouterr())
        assert "Make the bucket" in said
        assert "backup" not in said
    with Lake(place) as lake, lake.stage("t", version=1, inputs=()) as stage:
        with pytest.raises(StoreRefused, match="Make the bucket"):
            stage.commit([Upsert("items", items(3000))])
        (s3.folder / "left").rename(s3.folder / "leaves")
        assert stage.commit([Upsert("items", items(3000))]).committed
        assert count(lake, "items") == 3000
    assert not verify(place).damaged


def test_a_place_with_none_of_a_catalogues_files_is_refused_and_nothing_there_is_removed(
    tmp_path: Path, s3: S3
) -> None:
    """As after a slip in siftline.toml: upkeep would take what another project has there for leftovers."""
    others = made(Location(folder=tmp_path / "others", data="s3://bucket/others"))
    folder = made(Location(folder=tmp_path / "lake", data="s3://bucket/mine")).folder
    for data in ("s3://bucket/others", "s3://bucket/nothing", "data"):
        for read_only in (True, False):
            with pytest.raises(WarehouseError, match="it was made with s3://bucket/mine/"):
                Lake(Location(folder=folder, data=data), read_only=read_only)
    with Lake(Location(folder=tmp_path / "young", data="s3://bucket/young")):
        pass
    with pytest.raises(WarehouseError, match=r"there are data files, while the catalogue in .* has none yet"):
        Lake(Location(folder=tmp_path / "young", data="s3://bucket/others"))
    assert not verify(others).damaged


def test_another_place_that_may_not_be_looked_at_is_let_through_and_a_store_that_is_away_is_told(
    tmp_path: Path, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys that may not list are enough to read, and upkeep removes nothing with them."""
    folder = made(Location(folder=tmp_path / "lake", data="s3://bucket/first")).folder
    other = Location(folder=folder, data="s3://bucket/second")
    with monkeypatch.context() as wrong:
        wrong.setenv("AWS_SECRET_ACCESS_KEY", "canary-wrong-key")
        with Lake(other, read_only=True) as lake, lake.read() as reader, pytest.raises(StoreRefused):
            reader.scalar("SELECT max(length(content)) FROM items")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreAway):
        Lake(other, read_only=True)


def test_a_second_project_in_one_database_is_refused_before_it_writes(tmp_path: Path, postgres: str, s3: S3) -> None:
    first = made(Location(folder=tmp_path / "first", catalog=postgres, data="s3://bucket/one-database"))
    for schema in ("", " options='-c search_path=second'"):
        with pytest.raises(WarehouseError, match="in PostgreSQL, a database"):
            Lake(Location(folder=tmp_path / "second", catalog=postgres + schema, data="s3://bucket/second"))
    assert not verify(first).damaged
    assert not (s3.folder / "bucket" / "second").exists()


def test_a_user_of_the_database_who_may_only_read_reads_and_is_told_at_the_first_commit(
    tmp_path: Path, postgres_server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = postgres_server.fresh()
    made(Location(folder=tmp_path / "lake", catalog=catalog))
    database = catalog.partition("dbname=")[2].split()[0]
    postgres_server.ask(database, f"CREATE ROLE reader_of_{database} LOGIN PASSWORD 'canary-reader'")
    postgres_server.ask(database, f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader_of_{database}")
    monkeypatch.setenv("PGPASSWORD", "canary-reader")
    only_reads = catalog.replace("user=siftline", f"user=reader_of_{database}")
    with Lake(Location(folder=tmp_path / "lake", catalog=only_reads)) as lake:
        assert count(lake, "items") == 2000
        with (
            lake.stage("t", version=1, inputs=()) as stage,
            pytest.raises(WarehouseError, match="may read the catalogue and not write"),
        ):
            stage.commit([Upsert("items", items(3000))])


def test_what_attach_prints_reads_data_on_s3_once_the_keys_are_put_in(
    tmp_path: Path, s3: S3, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = project(tmp_path, made(Location(folder=tmp_path / "lake", data="s3://bucket/attached")).data)
    assert run_command(["sql", "--attach", *asked]) == 0
    printed = capsys.readouterr().out
    assert s3.secret not in printed
    keys = {"<AWS_ACCESS_KEY_ID>": "siftline", "<AWS_SECRET_ACCESS_KEY>": s3.secret}
    for name, value in keys.items():
        assert name in printed
        printed = printed.replace(name, value)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    client = open_duckdb(("ducklake", "sqlite_scanner", "httpfs"))
    client.execute(printed)
    assert client.execute("SELECT count(*), max(length(content)) > 0 FROM items").fetchall() == [(2000, True)]
    client.close()


@pytest.mark.parametrize("data", ["data", "s3://bucket/python"])
def test_python_that_names_the_folder_of_a_project_with_postgres_is_told_of_its_location(
    tmp_path: Path, postgres: str, s3: S3, data: str
) -> None:
    place = made(Location(folder=tmp_path / "lake", catalog=postgres, data=data))
    with pytest.raises(WarehouseError, match="in Python by warehouse"):
        connect(place.folder)
    with connect(place) as lake:
        assert lake.scalar("SELECT count(*) FROM items") == 2000


def test_files_that_were_copied_first_are_read_written_and_kept_at_the_new_place(tmp_path: Path, s3: S3) -> None:
    old = made(Location(folder=tmp_path / "lake"))
    (s3.folder / "bucket").mkdir(exist_ok=True)
    (tmp_path / "lake" / "data").rename(s3.folder / "bucket" / "moved")
    new = Location(folder=old.folder, data="s3://bucket/moved")
    with Lake(new) as lake:
        with lake.stage("t", version=1, inputs=()) as stage:
            assert stage.commit([Upsert("items", items(3000))]).committed
        maintain(lake, grace_h=0)
        assert count(lake, "items") == 3000
    assert not verify(new).damaged


@pytest.mark.parametrize("data", ["s3://", "s3:///", "s3://bucket/all*", "s3://bucket/a[b]"])
def test_a_place_on_s3_that_names_no_bucket_or_more_than_one_place_is_refused(tmp_path: Path, data: str) -> None:
    with pytest.raises(SettingsError, match="s3://bucket/prefix"):
        Location(folder=tmp_path, data=data)


@pytest.mark.parametrize("address", ["127.0.0.1:9", "http://", "http://me:canary@host", "http://host/?x", "ftp://host"])
def test_an_address_of_a_store_in_another_form_is_refused_without_a_log_in(
    tmp_path: Path, s3: S3, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    with pytest.raises(SettingsError, match="http://host:9000") as refused:
        Lake(Location(folder=tmp_path / "lake", data="s3://bucket/p"))
    assert "canary" not in str(refused.value)


def test_an_address_with_capitals_spaces_and_a_slash_is_the_same(
    tmp_path: Path, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f" HTTP{s3.endpoint.removeprefix('http')}/ ")
    assert not verify(made(Location(folder=tmp_path / "lake", data="s3://bucket/capitals/"))).damaged
