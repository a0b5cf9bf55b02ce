"""Reading: vectors as a matrix, content hashes that follow content only, SQL from people that cannot do harm."""

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from tests.flows.report_lake import full_lake
from tests.warehouse.test_commit_is_atomic import classes, items
from warehouse import (
    Append,
    DataError,
    Lake,
    Reader,
    SettingsError,
    Upsert,
    WarehouseError,
    attach_statement,
    matrix_to_list_array,
)
from warehouse.queries.open import connect
from warehouse.queries.sandbox import connect_locked_down
from warehouse.session.extensions import load_extensions


def vectors(matrix: np.ndarray) -> pa.Table:
    n = len(matrix)
    return pa.table(
        {
            "item_id": [f"i{k:05d}" for k in range(n)],
            "encoder_id": ["e"] * n,
            "content_hash": ["h"] * n,
            "vector": matrix_to_list_array(matrix),
            "tokens": pa.array([1] * n, pa.int32()),
            "truncated": [False] * n,
            "active_frac": pa.array([1.0] * n, pa.float32()),
            "route": [""] * n,
        }
    )


def write(lake: Lake, version: int, *writes: Append | Upsert) -> None:
    with lake.stage("test", version=version, inputs=()) as stage:
        stage.commit(writes)


def test_a_matrix_comes_back_bit_for_bit_and_in_order(lake: Lake) -> None:
    matrix = np.random.default_rng(0).standard_normal((5000, 384), np.float32)
    write(lake, 1, Append("vectors", vectors(matrix)))
    with lake.read() as reader:
        ids, back = reader.matrix("SELECT item_id, vector FROM vectors ORDER BY item_id")
        assert ids == [f"i{k:05d}" for k in range(5000)]
        assert back.dtype == np.float32
        np.testing.assert_array_equal(back, matrix)
        _, part = reader.matrix("SELECT item_id, vector FROM vectors WHERE item_id >= 'i04990' ORDER BY item_id")
        np.testing.assert_array_equal(part, matrix[4990:])
        assert reader.matrix("SELECT item_id, vector FROM vectors WHERE item_id = 'none'")[1].shape == (0, 0)


def test_values_are_given_in_order_or_by_name(lake: Lake) -> None:
    write(lake, 1, Append("vectors", vectors(np.ones((3, 2), np.float32))))
    with lake.read() as reader:
        assert reader.rows("SELECT item_id FROM vectors WHERE item_id = ?", ["i00001"]) == [("i00001",)]
        named = {"item": "i00002"}
        assert reader.rows("SELECT item_id FROM vectors WHERE item_id = $item", named) == [("i00002",)]
        assert reader.scalar("SELECT count(*) FROM vectors WHERE item_id < $item", named) == 2
        assert len(reader.pandas("SELECT item_id FROM vectors WHERE item_id = $item", named)) == 1
        assert len(reader.matrix("SELECT item_id, vector FROM vectors WHERE item_id = $item", named)[0]) == 1


def test_threads_that_share_a_reader_get_the_answers_to_their_own_questions(lake: Lake) -> None:
    write(lake, 1, Append("vectors", vectors(np.ones((2000, 8), np.float32))))
    with lake.read() as reader, ThreadPoolExecutor(6) as pool:

        def ask(n: int) -> None:
            for _ in range(10):
                assert reader.rows(f"SELECT {n}, count(*) FROM vectors") == [(n, 2000)]
                assert len(reader.pandas(f"SELECT item_id FROM vectors LIMIT {n}")) == n
                assert reader.arrow(f"SELECT item_id FROM vectors LIMIT {n}").num_rows == n
                assert len(reader.read_vectors("e")[1]) == 2000

        for asked in [pool.submit(ask, n) for n in range(1, 7)]:
            asked.result()


def test_a_query_that_failed_while_it_ran_says_to_open_another_reader(lake: Lake) -> None:
    with lake.read() as reader:
        with pytest.raises(duckdb.ConversionException):
            reader.rows("SELECT 'a'::INTEGER")
        with pytest.raises(WarehouseError, match="An earlier query of this reader failed or was interrupted"):
            reader.rows("SELECT 1")


def test_a_reader_that_is_closed_says_so(lake: Lake) -> None:
    with lake.read() as reader:
        assert reader.scalar("SELECT 44") == 44
    for ask in (reader.rows, reader.pandas, lambda sql: list(reader.batches(sql, rows=9))):
        with pytest.raises(WarehouseError, match="This reader is closed, as one is at the end of its `with` block"):
            ask("SELECT 44")


def test_a_warehouse_that_is_closed_says_so_until_it_is_opened_again(lake: Lake) -> None:
    lake.close()
    for ask in (lake.read, lake.snapshot, lake.new_cursor):
        with pytest.raises(WarehouseError, match="This warehouse is closed, as one is at the end of its `with` block"):
            ask()
    lake.reopen()
    with lake.read() as reader:
        assert reader.scalar("SELECT 44") == 44


@pytest.mark.parametrize("close", [True, False])
def test_batches_that_another_query_or_the_end_of_the_reader_cuts_off_are_an_error(lake: Lake, *, close: bool) -> None:
    """They just ended: 3,000 rows of a million, and nothing said so."""
    with lake.read() as reader:
        batches = reader.batches("SELECT i FROM range(100_000) t(i)", rows=1000)
        assert next(batches).num_rows == 1000
        if close:
            reader.close()
        else:
            assert reader.scalar("SELECT 44") == 44
        with pytest.raises(WarehouseError, match=r"before the last batch was taken.* Ask another reader meanwhile"):
            next(batches)
    with lake.read() as reader:
        for batch in reader.batches("SELECT i FROM range(999) t(i)", rows=1000):
            assert reader.scalar("SELECT 44") == 44  # that was all
            assert batch.num_rows == 999


def test_vectors_of_different_lengths_are_refused(lake: Lake) -> None:
    write(lake, 1, Append("vectors", vectors(np.ones((2, 3), np.float32))))
    write(lake, 2, Append("vectors", vectors(np.ones((1, 4), np.float32))))
    with lake.read() as reader, pytest.raises(DataError, match=r"\[3, 4\]"):
        reader.matrix("SELECT item_id, vector FROM vectors")


def test_the_content_hash_ignores_order_history_and_times(tmp_path: Path) -> None:
    rows = items(50)
    with Lake(tmp_path / "a") as a, Lake(tmp_path / "b") as b:
        write(a, 1, Append("items", rows))
        write(b, 7, Append("items", rows.slice(20)))
        write(b, 8, Append("items", rows.slice(0, 20)))
        assert a.content_hash(["items"]) == b.content_hash(["items"])
        write(b, 9, Upsert("items", items(1, "changed")))
        assert a.content_hash(["items"]) != b.content_hash(["items"])


def test_any_duckdb_client_reads_by_the_attach_statement(lake: Lake) -> None:
    write(lake, 1, Append("items", items(3)))
    connection = duckdb.connect()
    load_extensions(connection)
    connection.execute(attach_statement(lake.path, read_only=True))
    assert connection.execute("SELECT count(*) FROM lake.items").fetchone() == (3,)
    assert connection.execute("SELECT count(*) FROM lake.training_set").fetchone() == (0,)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM read_csv('{secret}')",
        "SELECT * FROM read_text('{secret}')",
        "COPY (SELECT 1) TO '{outside}'",
        "ATTACH '{outside}'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "INSERT INTO classes SELECT 0, 'x', 'r', now()",
        "DELETE FROM items",
        "DROP TABLE items",
        "SELECT * FROM read_parquet('https://localhost:1/x.parquet')",
    ],
)
def test_sql_from_a_person_reaches_the_warehouse_and_nothing_else(lake: Lake, tmp_path: Path, statement: str) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    connection = connect_locked_down(lake.path)
    assert connection.execute("SELECT count(*) FROM items").fetchone() == (0,)
    with pytest.raises(duckdb.Error):
        connection.execute(statement.format(secret=secret, outside=tmp_path / "outside"))
    assert not (tmp_path / "outside").exists()


def questions_of_a_look_up(reader: Reader, first: str, second: str) -> list[str]:
    """What DuckLake asks its catalogue to find the second of two items in the training set."""
    reader.rows("SELECT * FROM training_set WHERE item_id = ?", [first])
    reader.rows("CALL enable_logging('DuckLakeMetadata', level = 'debug')")
    reader.rows("SELECT * FROM training_set WHERE item_id = ?", [second])
    reader.rows("CALL disable_logging()")
    return [str(q) for (q,) in reader.rows("SELECT message FROM duckdb_logs WHERE type = 'DuckLakeMetadata'")]


def test_a_look_up_in_the_training_set_reads_no_table_twice_without_need(tmp_path: Path) -> None:
    """Most of what a look-up costs are DuckLake's questions to its catalogue."""
    with full_lake(tmp_path / "lake") as lake, lake.read() as reader:
        assert len(reader.rows("SELECT * FROM training_set WHERE item_id = 'i001'")) == 1
        asked = questions_of_a_look_up(reader, "i001", "i002")
        numbers = dict(reader.rows("SELECT table_name, table_id FROM ducklake_table_info('lake')"))

    def reads(table: str) -> int:
        return sum("AS col1" in q and f"ducklake_inlined_data_{numbers[table]}_" in q for q in asked)

    assert asked
    assert not [q for q in asked if "SUM(record_count)" in q], "count(*) of a table is two questions of its own"
    assert not [q for q in asked if "ducklake_table_stats" in q], "also tables that were never written have statistics"
    # The names of the classes are wanted by gold_labels and by latest_predictions.
    assert (reads("models"), reads("classes")) == (1, 2)


def test_a_look_up_before_anybody_answered_asks_for_no_statistics(lake: Lake) -> None:
    """As long as a table has none, DuckLake asks for them again and again."""
    write(lake, 1, Append("items", items(3)))
    write(lake, 2, Upsert("classes", classes("a", "b")))
    with lake.read() as reader:
        asked = questions_of_a_look_up(reader, "i00001", "i00002")
        numbers = dict(reader.rows("SELECT table_name, table_id FROM ducklake_table_info('lake')"))
    of_annotations = [q for q in asked if re.search(rf"table_id = {numbers['annotations']}\b", q)]
    assert of_annotations
    assert not [q for q in of_annotations if "ducklake_table_stats" in q]


def test_values_of_a_query_are_what_frames_and_arrays_give(lake: Lake) -> None:
    """DuckDB takes Python's and numpy's arrays: of a number out of a frame it said "Unable to transform"."""
    write(lake, 1, Append("items", items(5)))
    with lake.read() as reader:
        ids = reader.arrow("SELECT item_id FROM items ORDER BY item_id LIMIT 3").column(0)
        first: dict[object, object] = {
            np.int64(3): 3, np.float32(0.5): 0.5, np.bool_(True): True, np.str_("a"): "a", ids[0]: ids[0].as_py(),
            np.datetime64("2026-01-02"): date(2026, 1, 2), pd.NA: None,
        }  # fmt: skip
        for given, found in first.items():
            assert reader.scalar("SELECT ?", [given]) == reader.scalar("SELECT $a", {"a": given}) == found
            assert reader.scalar("SELECT ?", [[{"a": (given,)}]]) == [{"a": [found]}]
        series = pd.Series(ids.to_pylist())
        for several in (
            ids,
            ids.chunk(0),
            series,
            series.unique(),
            pd.Index(series),
            pl.Series(series),
            series.to_numpy(),
        ):
            assert reader.scalar("SELECT count(*) FROM items WHERE item_id = any(?)", [several]) == 3, type(several)


def test_a_frame_by_a_name_that_the_reader_has_itself_is_told_to_have_another(lake: Lake) -> None:
    with connect(lake.path) as reader:
        sql = teams = pd.DataFrame({"a": [1, 2]})
        assert reader.scalar("SELECT sum(a) FROM teams") == teams.a.sum()
        with pytest.raises(SettingsError, match="A frame named sql is not found") as told:
            reader.pandas("SELECT * FROM sql")
        assert "Give yours another name" in str(told.value), sql
        assert reader.scalar("SELECT 1") == 1
        params, values = sql, np.array([1, 2])  # DuckDB takes arrays for a frame
        for where, given in (("true", ()), ("? IS NOT NULL", [values]), ("$value IS NOT NULL", {"value": values})):
            with pytest.raises(SettingsError, match="A frame named params is not found"):
                reader.pandas(f"SELECT * FROM params WHERE {where}", given)
        assert len(params) == 2
