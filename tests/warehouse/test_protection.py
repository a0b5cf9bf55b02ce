"""SQL from people: the functions that DuckDB's own lock-down lets through are refused, and the limits hold."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from tests.warehouse.test_commit_is_atomic import items
from warehouse import Append, Lake, Location, SettingsError
from warehouse.protection import connect_locked_down, refuse_reaching_out


@pytest.mark.parametrize(
    "sql",
    [
        "FROM sqlite_scan('{other}', 'secrets')",
        "FROM postgres_query('__ducklake_metadata_lake', 'SELECT pg_read_file(''/etc/passwd'')')",
        "FROM postgres_scan('host=localhost', 'public', 'x')",
        "FROM \"postgres_query\"('x', 'y')",
        "FROM ducklake_cleanup_old_files('lake', cleanup_all => true)",
        "FROM lake.cleanup_old_files(cleanup_all => true)",
        "FROM lake.expire_snapshots(versions => [1])",
        "FROM ducklake_delete_orphaned_files('lake', cleanup_all => true)",
        "FROM query('FROM sqlite' || '_scan(''{other}'', ''secrets'')')",
        "FROM \"query\" ('SELECT 1')",
        "FROM query_table('items')",
        "FROM __ducklake_metadata_lake.ducklake_snapshot",
        "CREATE TEMP MACRO m() AS TABLE FROM sqlite_scan('{other}', 'secrets')",
        "FROM duckdb_secrets()",
    ],
)
def test_functions_that_leave_the_warehouse_are_refused(sql: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="siftline maintain"):
        refuse_reaching_out(sql.format(other=tmp_path / "other.sqlite"))


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM items",
        "SELECT query, count(*) FROM (SELECT 'a' AS query) GROUP BY query",
        "FROM lake.snapshots()",
        "SELECT item_id FROM lf_votes WHERE lf_name = 'set_of_words'",
        "PIVOT lf_votes ON lf_name USING first(vote)",
    ],
)
def test_questions_pass(sql: str) -> None:
    refuse_reaching_out(sql)


def test_the_hole_that_the_door_closes_is_real(lake: Lake, tmp_path: Path) -> None:
    """When DuckDB closes it itself, `refuse_reaching_out` can shrink."""
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as outside:
        outside.execute("CREATE TABLE secrets (word TEXT)")
        outside.execute("INSERT INTO secrets VALUES ('canary')")
    connection = connect_locked_down(lake.path)
    assert connection.execute(f"FROM sqlite_scan('{other}', 'secrets')").fetchall() == [("canary",)]


def test_the_limits_are_set_and_cannot_be_lifted(lake: Lake) -> None:
    connection = connect_locked_down(lake.path)
    settings = dict(connection.execute("SELECT name, value FROM duckdb_settings()").fetchall())
    assert settings["lock_configuration"] == "true"
    assert settings["enable_external_access"] == "false"
    assert settings["autoinstall_known_extensions"] == "false"
    assert settings["max_temp_directory_size"] != "90% of available disk space"
    for wish in (
        "SET memory_limit = '900GB'",
        "SET max_temp_directory_size = '900GB'",
        "SET allowed_directories = ['/']",
    ):
        with pytest.raises(duckdb.Error, match="locked"):
            connection.execute(wish)


HUNGRY = """
import sys
from pathlib import Path
import duckdb
from warehouse import protection
protection.MEMORY_FRAC, protection.BESIDE_BYTES = 0.01, 2**29
with protection.limited_process_memory():
    connection = protection.connect_locked_down(Path(sys.argv[1]))
    try:
        connection.execute("SELECT len(range(400000000))").fetchall()
    except duckdb.OutOfMemoryException:
        print("refused", connection.execute("SELECT count(*) FROM items").fetchall())
"""


def test_a_list_that_duckdb_does_not_count_meets_the_limit_of_the_process(lake: Lake) -> None:
    ended = subprocess.run([sys.executable, "-c", HUNGRY, str(lake.path)], capture_output=True, text=True)
    assert ended.stdout == "refused [(0,)]\n", ended.stderr


def test_a_postgres_catalogue_is_read_locked_down(tmp_path: Path, postgres: str) -> None:
    place = Location(folder=tmp_path / "lake", catalog=postgres)
    with Lake(place) as lake, lake.stage("ingest", version=1, inputs=()) as stage:
        stage.commit([Append("items", items(500))])
    connection = connect_locked_down(place)
    assert connection.execute("SELECT count(DISTINCT content) FROM items").fetchone() == (500,)
    for statement in ("DELETE FROM items", f"ATTACH '{place.dsn}' AS again (TYPE postgres)", "INSTALL httpfs"):
        with pytest.raises(duckdb.Error):
            connection.execute(statement)
