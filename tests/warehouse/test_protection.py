"""SQL from people: the functions that DuckDB's own lock-down lets through are refused, and the limits hold."""

import contextlib
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from tests.warehouse.test_commit_is_atomic import items
from warehouse import Append, Lake, Location, SettingsError, WarehouseError, connect
from warehouse.queries.open import check_condition, reading_statements
from warehouse.queries.sandbox import connect_locked_down, refuse_reaching_out
from warehouse.session.extensions import PACKAGES, open_duckdb


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
        "FROM query/**/('SELECT 1')",
        "FROM query -- a comment\n('SELECT 1')",
        "FROM query/* /* */ */('SELECT 1')",
        "FROM query\u200b('SELECT 1')",
        "FROM query\ufeff\u00a0('SELECT 1')",
        "FROM json_execute_serialized_sql(json_serialize_sql('FROM sqlite' || '_scan(''{other}'', ''secrets'')'))",
        "FROM checkpoint('lake')",
        "FROM force_checkpoint('lake')",
        "FROM enable_logging('FileSystem', storage => 'file', storage_path => '{other}')",
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
        "SELECT * FROM items WHERE content ILIKE '%checkpoint%' OR content ILIKE '%query%'",
    ],
)
def test_questions_pass(sql: str) -> None:
    refuse_reaching_out(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE SECRET s (TYPE s3, KEY_ID 'a', SECRET 'b')",
        "CREATE PERSISTENT SECRET s (TYPE s3, KEY_ID 'a', SECRET 'b')",
        "CREATE TEMP MACRO m(x) AS TABLE FROM items WHERE item_id = x",
        "/* /* */ CREATE TEMP TABLE t AS */ CREATE SECRET s (TYPE s3)",
        "SELECT 1; COPY (SELECT 1) TO '{place}/data/stolen.parquet'",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{place}/data/stolen.parquet'",
    ],
)
def test_statements_that_do_more_than_read_are_refused(sql: str, lake: Lake) -> None:
    with pytest.raises(SettingsError, match="for this prompt"):
        reading_statements(connect_locked_down(lake.path), sql.format(place=lake.path))


@pytest.mark.parametrize(
    "sql",
    [
        "-- mine\nCREATE OR REPLACE TEMP TABLE t AS SELECT * FROM items; SELECT count(*) FROM t",
        "create temporary view v as select * from items; select count(*) from v",
        "PIVOT items ON split USING count(*)",
    ],
)
def test_temporary_tables_and_pivots_pass(sql: str, lake: Lake) -> None:
    connection = connect_locked_down(lake.path)
    for statement in reading_statements(connection, sql):
        connection.execute(statement)


def test_a_condition_is_one_expression_and_writes_nothing(lake: Lake) -> None:
    """DuckDB lets COPY write into the folders that may be read, which are the warehouse's own."""
    with lake.stage("ingest", version=1, inputs=()) as stage:
        stage.commit([Append("items", items(500))])
    [file] = (lake.path / "data").rglob("*.parquet")
    before = file.read_bytes()
    where = f"true)) SELECT 1; COPY (SELECT 1 AS a) TO '{file}'; WITH scope AS (SELECT item_id FROM items WHERE (true"
    connection = connect_locked_down(lake.path)
    for condition in (where, "true); SELECT (1", "true), (false", "true) UNION ALL SELECT (true"):
        with pytest.raises(SettingsError, match="condition"):
            check_condition(connection, condition)
    with pytest.raises(SettingsError, match="leaves the warehouse"):
        check_condition(connection, "item_id IN (FROM query/**/('SELECT 1'))")
    for condition in (
        "random() < 0.5",
        "current_date > '2026-01-01'",
        "item_id IN (SELECT item_id FROM items USING SAMPLE 1)",
        "committed_at > ago(INTERVAL 3 DAY)",
        "age(committed_at) < INTERVAL 3 DAY",
        "current_localtime() > TIME '12:00'",
        "committed_at > pg_postmaster_start_time()",
        "item_id = user OR item_id = current_user()",
        "item_id IN (SELECT item_id FROM items LIMIT 10)",
        "item_id IN (SELECT item_id FROM items LIMIT 10%)",
    ):
        with pytest.raises(SettingsError, match="another one each time"):
            check_condition(connection, condition)
    check_condition(connection, "split = 'train' -- the others are for tests")
    check_condition(connection, "item_id IN (SELECT item_id FROM items ORDER BY item_id LIMIT 10)")
    check_condition(
        connection, "age(committed_at, TIMESTAMPTZ '2026-01-01') > INTERVAL 1 DAY AND split_part(x, ' ', 1) = 'a'"
    )
    check_condition(connection, "hash(item_id) % 10 < 5 AND item_id NOT IN (SELECT item_id FROM queue)")
    assert file.read_bytes() == before
    with contextlib.suppress(duckdb.Error):  # the last part reads what the part before has spoilt
        connection.execute(f"WITH scope AS (SELECT item_id FROM items WHERE split = 'train' AND ({where})) FROM scope")
    assert file.read_bytes() != before, "DuckDB keeps COPY out now: see docs/decisions/sql-from-people-is-confined.md"


HARMLESS = """
arrow_scan arrow_scan_dumb duckdb_approx_database_count duckdb_columns duckdb_connection_count duckdb_constraints
duckdb_coordinate_systems duckdb_databases duckdb_dependencies duckdb_extensions duckdb_external_file_cache
duckdb_functions duckdb_indexes duckdb_keywords duckdb_log_contexts duckdb_logs duckdb_logs_parsed duckdb_memory
duckdb_optimizers duckdb_prepared_statements duckdb_profiling_settings duckdb_schemas duckdb_secret_types
duckdb_sequences duckdb_settings duckdb_table_sample duckdb_tables duckdb_temporary_files duckdb_types
duckdb_variables duckdb_views ducklake_current_snapshot ducklake_last_committed_snapshot ducklake_list_files
ducklake_options ducklake_scan ducklake_snapshots ducklake_table_changes ducklake_table_deletions
ducklake_table_info ducklake_table_insertions generate_series glob histogram histogram_values icu_calendar_names
json_each json_tree pandas_scan parquet_bloom_probe parquet_file_metadata parquet_full_metadata parquet_kv_metadata
parquet_metadata parquet_scan parquet_schema pg_clear_cache pg_timezone_names pragma_collations pragma_database_size
pragma_metadata_info pragma_platform pragma_show pragma_storage_info pragma_table_info pragma_user_agent
pragma_version python_map_function range read_blob read_csv read_csv_auto read_duckdb read_json read_json_auto
read_json_objects read_json_objects_auto read_ndjson read_ndjson_auto read_ndjson_objects read_parquet read_text
repeat repeat_row seq_scan sniff_csv summary test_all_types test_vector_types unnest
"""


def test_every_function_that_can_stand_in_from_is_known(lake: Lake) -> None:
    """A new DuckDB may bring one that reaches out: whoever adds it to the list has tried what it does."""
    connection = open_duckdb(tuple(PACKAGES))
    names = connection.execute(
        "SELECT DISTINCT function_name FROM duckdb_functions() WHERE function_type LIKE 'table%'"
    )
    unknown = sorted(name for (name,) in names.fetchall() if name not in HARMLESS.split() and not refused(name))
    assert unknown == []


def refused(name: str) -> bool:
    try:
        refuse_reaching_out(f"FROM {name}()")
    except SettingsError:
        return True
    return False


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
from warehouse.queries import sandbox as protection
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


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("VIEW queue_progress AS SELECT q.* FROM queue q, {call}", "it calls enable_logging"),
        ("VIEW items AS SELECT (SELECT a FROM range(3) r(a) WHERE EXISTS (FROM {call}))", "it calls enable_logging"),
        ("VIEW items AS SELECT content FROM read_text('{other}')", "it calls read_text"),
        ("VIEW items AS FROM '{other}'", "it (calls read_csv|reads .*other.csv)"),
        ("VIEW items AS SELECT * FROM __ducklake_metadata_lake.main.ducklake_view", "the view 'items'"),
        ("MACRO strftime(a, b) AS (SELECT content FROM read_text('{other}'))", "the macro 'strftime'"),
    ],
)
def test_sql_that_a_warehouse_brings_along_is_refused_before_it_runs(
    statement: str, fault: str, lake: Lake, tmp_path: Path
) -> None:
    """Whoever opens a warehouse from somebody else runs its views."""
    other = tmp_path / "other.csv"
    other.write_text("a\n1\n")
    call = f"enable_logging(storage => 'file', storage_config => {{'path': '{tmp_path / 'logs'}'}})"
    with contextlib.closing(lake.new_cursor()) as cursor:
        cursor.execute("CREATE VIEW fine AS SELECT split, unnest([1, 2]) FROM items, range(2) WHERE split = '\".x'")
        Lake(lake.path, read_only=True).close()
        if statement.startswith("VIEW items"):
            cursor.execute("DROP TABLE items")
        cursor.execute(f"CREATE OR REPLACE {statement.format(call=call, other=other)}")
        shutil.rmtree(tmp_path / "logs", ignore_errors=True)  # DuckDB calls it when it makes the view
        at = lake.snapshot()
        for read_only in (True, False):
            with pytest.raises(WarehouseError, match=fault):
                Lake(lake.path, read_only=read_only)
        cursor.execute(f"DROP {' '.join(statement.split('(')[0].split()[:2])}")
    with pytest.raises(WarehouseError, match=fault):
        connect(lake.path, at=at)
    connect(lake.path).close()
    assert not (tmp_path / "logs").exists()
