"""A PostgreSQL catalogue whose server goes away, comes back, or ends single sessions, in the middle of a commit too."""

import contextlib
import fcntl
import gc
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import warehouse.commits.transaction
import warehouse.export.training_set
import warehouse.session.extensions
from flows.cli.main import run_command
from tests.warehouse.servers import Postgres, running_postgres
from tests.warehouse.test_commit_is_atomic import count, items
from warehouse import Append, CatalogAway, CommitFailed, Lake, Location, Transient, WarehouseError
from warehouse.maintenance.compaction import maintain
from warehouse.session import server_health
from warehouse.session.extensions import open_duckdb

OTHERS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}' AND pid <> pg_backend_pid()"
HOLDERS = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """A cluster of this file's own, which may be stopped."""
    with running_postgres() as cluster:
        yield cluster


@pytest.fixture
def place(server: Postgres, tmp_path: Path) -> Location:
    return Location(folder=tmp_path / "lake", catalog=server.fresh())


def cut_off(server: Postgres, place: Location, real: Callable[..., Any]) -> Callable[..., Any]:
    """A function after which every session on the place's database is ended, as by a server that was started again."""
    name = place.catalog.partition("dbname=")[2].split()[0]

    def cut(*arguments: Any, **named: Any) -> Any:
        result = real(*arguments, **named)
        server.ask("postgres", OTHERS.format(name))
        return result

    return cut


def before_the_commit(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], None]) -> list[int]:
    """Let something happen once, when a commit has looked for its token and has not committed; counts the attempts."""
    real: Any = warehouse.commits.transaction._look_before  # pyright: ignore[reportPrivateUsage]
    attempts: list[int] = []

    def look(*arguments: Any) -> Any:
        found = real(*arguments)
        attempts.append(1)
        if len(attempts) == 1:
            happens()
        return found

    monkeypatch.setattr(warehouse.commits.transaction, "_look_before", look)
    return attempts


def test_a_server_that_is_away_is_told_by_type_and_what_is_open_goes_on_when_it_is_back(
    server: Postgres, place: Location, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "siftline.toml").write_text(
        '[project]\nname = "p"\nclasses = ["a", "b"]\n[[sources]]\nname = "s"\npath = "x.csv"\n'
        f'[warehouse]\ncatalog = "{place.catalog}"\n'
    )
    with Lake(place) as lake, lake.stage("s", version=1, inputs=()) as stage:
        with lake.read() as reader:
            server.stop(signal.SIGQUIT)
            try:
                for asks in (
                    lambda: Lake(place),
                    lambda: Lake(place, read_only=True),
                    lambda: lake.read().rows("SELECT count(*) FROM items"),
                    lambda: lake.stage("t", version=1, inputs=()),
                    lambda: reader.scalar("SELECT count(*) FROM lf_votes"),
                ):
                    with pytest.raises(CatalogAway, match="does not answer") as told:
                        asks()
                    assert isinstance(told.value, Transient)
                    assert server.password not in str(told.value)
                assert run_command(["status", "--project", str(tmp_path)]) == 3
                said = capsys.readouterr().err
                assert "does not answer" in said
                assert "backup" not in said
            finally:
                server.start()
        assert stage.commit([Append("items", items(3))]).committed
        assert count(lake, "items") == 3


def test_a_server_that_hangs_is_given_up(server: Postgres, place: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "0")
    monkeypatch.delenv("PGCONNECT_TIMEOUT")  # after the test it is as it was
    monkeypatch.setattr(warehouse.session.extensions, "CONNECT_TIMEOUT_S", 2)  # libpq takes no less
    Lake(place).close()
    server.server.send_signal(signal.SIGSTOP)  # the kernel goes on to take connections
    try:
        with pytest.raises(CatalogAway, match="timeout expired"):
            Lake(place, read_only=True)
    finally:
        server.server.send_signal(signal.SIGCONT)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits is looked at soon."""
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "2")
    monkeypatch.setattr(server_health, "LOOK_S", 0.1)
    monkeypatch.setattr(server_health, "PATIENCE_S", 0.5)
    monkeypatch.setattr(server_health, "_watching", 0)  # that of an earlier test sleeps for long


@pytest.mark.usefixtures("impatient")
def test_a_server_that_hangs_in_the_middle_of_a_question_is_given_up(server: Postgres, place: Location) -> None:
    """By itself its client waits for ever, and no Ctrl-C gets through to it."""
    with Lake(place) as lake:
        with lake.read() as reader, server.frozen(), pytest.raises(CatalogAway, match="closed the connection"):
            reader.scalar("SELECT count(*) FROM items")
        with place.write_lock().held() as sure, server.frozen(), pytest.raises(CatalogAway, match="does not answer"):
            sure()
        assert count(lake, "items") == 0


@pytest.mark.usefixtures("impatient")
def test_a_server_that_takes_long_and_is_there_is_waited_for(server: Postgres, place: Location) -> None:
    with contextlib.closing(open_duckdb(("postgres_scanner",))) as connection:
        connection.execute(f"ATTACH '{place.dsn}' AS pg (TYPE postgres)")
        server_health.watch(str(place.dsn))
        slow = "SELECT * FROM postgres_query('pg', 'SELECT pg_sleep(2)::text, 7')"
        assert connection.execute(slow).fetchone() == ("", 7)


def test_a_connection_waits_from_its_question_to_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_health, "PATIENCE_S", 0.2)
    waits = server_health._waits  # pyright: ignore[reportPrivateUsage]
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname()) as asks,
        listening.accept()[0] as answers,
    ):
        asks.sendall(b"?")
        assert not waits(asks), "not for long yet"
        time.sleep(0.4)
        assert waits(asks)
        answers.sendall(b"!")
        asks.recv(1)
        time.sleep(0.4)
        assert not waits(asks)


def test_a_look_at_the_connections_leaves_the_locks_of_files(tmp_path: Path) -> None:
    """A process drops its locks on a file when it closes any number of it, and then two write one SQLite database."""
    held = tmp_path / "catalog.sqlite"
    other = f"import fcntl; fcntl.lockf(open({str(held)!r}, 'w'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    with held.open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        numbers = os.listdir("/proc/self/fd")
        server_health.shut_hung()
        assert os.listdir("/proc/self/fd") == numbers, "nor does it keep a second number of them"
        ended = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True)
    assert "BlockingIOError" in ended.stderr
    assert ended.returncode == 1


@pytest.mark.parametrize(
    ("named", "port"), [("", 5432), ("port=6000", 6000), ("host=a,b port='6000,6001'", 6001), ("support=1", 5432)]
)
def test_the_port_of_a_catalogue_is_the_settings_or_postgresqls(
    monkeypatch: pytest.MonkeyPatch, named: str, port: int
) -> None:
    monkeypatch.setattr(server_health, "_ports", set())
    monkeypatch.setattr(server_health, "_watching", os.getpid())
    monkeypatch.delenv("PGPORT", raising=False)
    server_health.watch(named)
    of = server_health._port  # pyright: ignore[reportPrivateUsage]
    assert {of(("127.0.0.1", port)), of(f"/run/.s.PGSQL.{port}")} <= server_health._ports  # pyright: ignore[reportPrivateUsage]


def test_what_a_person_must_mend_is_no_server_that_is_away(
    server: Postgres, place: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = Location(folder=place.folder, catalog=place.catalog.replace("dbname=", "dbname=no-"))
    with pytest.raises(WarehouseError, match=r"^The catalogue's server refuses: .* does not exist\. .*\[warehouse\]"):
        Lake(nowhere)
    monkeypatch.setenv("PGPASSWORD", "wrong-password")
    with pytest.raises(WarehouseError, match=r"refuses: .*authentication failed .*Set PGPASSWORD, or .*pgpass"):
        Lake(place)


def test_a_password_that_was_changed_while_the_warehouse_is_open_is_said_by_type(
    server: Postgres, place: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Lake(place) as lake, lake.stage("s", version=1, inputs=()) as stage:
        server.ask("postgres", OTHERS.format(place.catalog.partition("dbname=")[2].split()[0]))
        with monkeypatch.context() as changed:
            changed.setenv("PGPASSWORD", "the-one-before")
            refused = r"refuses: .*authentication failed .*Set PGPASSWORD"
            with pytest.raises(WarehouseError, match=refused):
                lake.read()
            with pytest.raises(WarehouseError, match=refused):
                stage.commit([Append("items", items(3))])
        assert stage.commit([Append("items", items(3))]).committed


@pytest.mark.parametrize("rows", [3, 3000])
def test_a_server_that_is_started_again_in_the_middle_of_a_commit_has_it_once(
    server: Postgres, place: Location, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    def again() -> None:
        server.stop(signal.SIGQUIT)
        server.start()

    with Lake(place) as lake, lake.stage("s", version=1, inputs=()) as stage:
        attempts = before_the_commit(monkeypatch, again)
        assert stage.commit([Append("items", items(rows))]).committed
        assert len(attempts) > 1
        assert (count(lake, "items"), count(lake, "runs")) == (rows, 1)


def test_a_lock_that_was_lost_lets_no_second_commit_of_a_token_land(
    server: Postgres, place: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server ends sessions that are idle in a transaction, as the lock's is; DuckLake takes both commits then."""
    with Lake(place) as lake, Lake(place) as other:
        with lake.stage("s", version=1, inputs=()) as stage, other.stage("s", version=1, inputs=()) as same:
            landed: list[bool] = []

            def lost() -> None:
                server.ask(place.catalog.partition("dbname=")[2].split()[0], HOLDERS)
                landed.append(same.commit([Append("items", items(3))]).committed)

            before_the_commit(monkeypatch, lost)
            assert not stage.commit([Append("items", items(3))]).committed
        assert landed == [True]
        assert (count(lake, "items"), count(lake, "runs")) == (3, 1)


def test_a_stage_whose_first_look_fails_leaves_no_transaction(
    server: Postgres, place: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left in one ends the process by SIGABRT once it is collected, while the stage is tried again."""
    with Lake(place) as lake:
        monkeypatch.setattr(lake, "new_cursor", cut_off(server, place, lake.new_cursor))
        with pytest.raises(CatalogAway):
            lake.stage("s", version=1, inputs=())
        gc.collect()
        monkeypatch.undo()
        with lake.stage("s", version=1, inputs=()) as stage:
            assert stage.commit([Append("items", items(3))]).committed


@pytest.mark.parametrize("asks", ["delete_file_count >", "snapshot_time <", "dry_run => true", "SELECT s.path"])
def test_upkeep_whose_server_goes_away_between_its_steps_says_so_and_the_next_goes_on(
    server: Postgres, place: Location, monkeypatch: pytest.MonkeyPatch, asks: str
) -> None:
    """It said that the warehouse cannot be read, and that without a backup the answers in it are lost."""
    real = Lake.new_cursor

    class Cursor:
        def __init__(self, cursor: Any) -> None:
            self.cursor = cursor

        def execute(self, sql: str, *values: Any) -> Any:
            if asks in sql:
                server.stop(signal.SIGQUIT)
            return self.cursor.execute(sql, *values)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.cursor, name)

    with Lake(place) as lake:
        with lake.stage("s", version=1, inputs=()) as stage:
            stage.commit([Append("items", items(3))])
        monkeypatch.setattr(Lake, "new_cursor", lambda lake, **how: Cursor(real(lake, **how)))
        try:
            with pytest.raises(CatalogAway, match="does not answer"):
                maintain(lake, expire_older_than_days=0, grace_h=0)
        finally:
            if server.server.poll() is not None:
                server.start()
        monkeypatch.undo()
        maintain(lake, expire_older_than_days=0, grace_h=0)
        assert count(lake, "items") == 3


def test_an_export_in_whose_middle_the_server_goes_away_says_so(
    server: Postgres, place: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Lake(place).close()
    monkeypatch.setattr(
        warehouse.export.training_set, "stream", cut_off(server, place, warehouse.export.training_set.stream)
    )
    with pytest.raises(CatalogAway, match="does not answer"):
        warehouse.export.training_set.export_training_set(place, tmp_path / "training", format="csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lake"]


def test_what_a_server_refuses_is_told_without_the_rows(
    server: Postgres, place: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DuckDB repeats the whole SQL: pages of it, into terminals, logs and Prefect's database."""
    name = place.catalog.partition("dbname=")[2].split()[0]
    Lake(place).close()
    server.ask("postgres", f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    monkeypatch.setattr(warehouse.commits.transaction, "ATTEMPTS", 1)
    with Lake(place) as lake, lake.stage("s", version=1, inputs=()) as stage:
        with pytest.raises(CommitFailed, match="cannot execute INSERT in a read-only transaction") as told:
            stage.commit([Append("items", items(3))])
        assert "VALUES" not in str(told.value)


def test_the_locks_session_may_be_idle_for_as_long_as_a_commit_takes(server: Postgres, place: Location) -> None:
    server.ask("postgres", "ALTER SYSTEM SET idle_in_transaction_session_timeout = '50ms'")
    server.ask("postgres", "SELECT pg_reload_conf()")
    try:
        with place.write_lock().held() as sure:
            for _ in range(3):
                server.ask("postgres", "SELECT pg_sleep(0.1)")
                sure()
    finally:
        server.ask("postgres", "ALTER SYSTEM RESET idle_in_transaction_session_timeout")
        server.ask("postgres", "SELECT pg_reload_conf()")
