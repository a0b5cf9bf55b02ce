"""The queries of `docs/querying.md` answer as they stand, and tell what was planted."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import warehouse
from tests.flows.report_lake import full_lake
from tests.projects import ROOT
from tests.warehouse.test_what_changed import answer, commit, up
from warehouse import Lake, Upsert, attach_statement
from warehouse.catalog.connection import READS_AS_ONE

PAGE = (ROOT / "docs" / "querying.md").read_text("utf-8")


@pytest.fixture
def planted(tmp_path: Path) -> Iterator[Lake]:
    with full_lake(tmp_path / "lake") as lake:
        yield lake


def answers(lake: Lake) -> list[pa.Table]:
    [block] = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
    with warehouse.connect(lake.path) as reader:
        return [reader.arrow(query) for query in block.split(";\n") if query.strip()]


def test_the_queries_to_start_from_tell_what_is_there(planted: Lake) -> None:
    model = up("models", model_id=["w"], stage=["label_model"], kind=["k"], gold_labels=[0], items=[9], sequence=[1],
               detail=["{}"])  # fmt: skip
    probs = pa.array([[0.1, 0.2, 0.7], [0.8, 0.1, 0.1]], pa.list_(pa.float32()))
    weak = {"item_id": ["i001", "i003"], "label_model_id": ["w", "w"], "probs": probs, "votes": [2, 0]}
    monday = datetime(2020, 1, 6, tzinfo=UTC)
    commit(planted, "weak", model, Upsert("weak_labels", pa.table(weak)))
    commit(planted, "twice", answer("i020", 0, at=monday), answer("i020", 2, at=monday.replace(day=12)))
    commit(planted, "end_model", answer("i020", 1, who="bob", at=monday))
    with planted.read() as reader:
        others = reader.arrow(
            "SELECT * EXCLUDE (run_id, committed_at) REPLACE ((class_id + 1) % 3 AS class_id) FROM predictions "
            "WHERE end_model_id = 'm2' AND item_id > 'i080'"
        )
    commit(planted, "other_classes", Upsert("predictions", others))
    votes, weak_labels, predicted, values, said, wrong, against, confused, long, sample, snapshots, changed, weeks = (
        table.to_pylist() for table in answers(planted)
    )
    assert [row["vote"] for row in votes] == ["ship <b>&"] * 2
    assert [(row["weak_label"], row["votes"]) for row in weak_labels] == [("trade", 2)]
    assert [(row["sequence"], row["predicted"]) for row in predicted] == [(n, "ship <b>&") for n in (1, 2, 3)]
    assert [row["cycle"] for row in values] == [1]
    assert [(row["annotator"], row["class_id"]) for row in said] == [("ann <b>", 1)]
    assert [tuple(row.values()) for row in confused] == [("ada", "bob", "trade", "ship <b>&", 1)]
    assert len(long) == 3 * len({row["item_id"] for row in long})
    assert sum(row["probability"] for row in long[:3]) == pytest.approx(1)
    assert len(sample) == len({row["item_id"] for row in sample}) > 0
    assert [row["commit_message"] for row in snapshots][-1].startswith("end_model:")
    assert [(row["sequence"], row["changed"]) for row in changed] == [(2, 0), (3, 0.1)]
    # Function and class are those of the item's number, but for even ones, which all vote for trade.
    assert {(row["voted"], row["gold"]): row["items"] for row in wrong} == {
        ("trade", "grain"): 3, ("trade", "ship <b>&"): 2}  # fmt: skip
    assert against == [{"gold": "ship <b>&", "weak": "trade", "items": 1}]
    assert (weeks[0]["week"], weeks[0]["label"], weeks[0]["items"]) == (monday, "trade", 1)
    assert sum(row["items"] for row in weeks) == 17


def test_a_file_of_ones_own_is_joined_from_python(
    planted: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "teams.csv").write_text("id,team\ni001,a\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    [query] = re.findall(r'lake\.pandas\("(.*teams\.csv.*)"\)', PAGE)
    with warehouse.connect(planted.path) as lake:
        [row] = lake.arrow(query).to_pylist()
    assert (row["item_id"], row["team"]) == ("i001", "a")


def test_near_duplicates_are_found_across_splits_and_labels(planted: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    with planted.read() as reader:
        gold = dict(reader.rows("SELECT label, min(item_id) FROM gold_labels GROUP BY label ORDER BY label"))
        one, other = list(gold.values())[:2]
        [train] = reader.rows("SELECT max(item_id) FROM items WHERE split = 'train'")[0]
        test = "i089"
        table = reader.arrow("SELECT * EXCLUDE (run_id, committed_at) FROM vectors")
    vectors = dict(zip(table["item_id"].to_pylist(), table["vector"].to_pylist(), strict=True))
    vectors |= {other: vectors[one], test: vectors[train]}
    monkeypatch.chdir(planted.path.parent)
    found = near_duplicates(planted, "twins", table, vectors)
    for name, pair in (("across_splits", {test, train}), ("contradictory", {one, other})):
        [row] = found[name].to_dict("records")
        assert {row["item_id"], row["item_id_other"]} == pair
    assert len(found["pairs"]) == 2
    assert found["odd"].nearest.is_monotonic_increasing
    assert len(found["odd"]) == len(vectors)

    alike, last = list(vectors)[:12], list(vectors)[-1]
    vectors |= dict.fromkeys(alike, vectors[alike[0]])
    near = 0.96 * np.array(vectors[alike[0]]) + np.sqrt(1 - 0.96**2) * at_right_angles(vectors[alike[0]])
    pairs = near_duplicates(planted, "crowd", table, vectors | {last: near.tolist()})["pairs"]
    assert len(pairs[(pairs.item_id == last) | (pairs.item_id_other == last)]) == 10, "found by one of the two alone"


def near_duplicates(lake: Lake, stage: str, table: pa.Table, vectors: dict[str, list[float]]) -> dict[str, Any]:
    """What the lines of the page leave, where the items have these vectors."""
    column = pa.array(list(vectors.values()), table.schema.field("vector").type)
    changed = table.set_column(table.column_names.index("vector"), "vector", column)
    commit(lake, stage, Upsert("vectors", changed))
    [block] = re.findall(r"```python\n(import faiss.*?)```", PAGE, re.DOTALL)
    found: dict[str, Any] = {}
    exec(compile(block, "querying.md", "exec"), found)
    return found


def at_right_angles(vector: list[float]) -> npt.NDArray[np.float64]:
    """A unit vector."""
    away = np.eye(len(vector))[int(np.argmin(np.abs(vector)))]
    away -= (away @ vector) * np.array(vector)
    return away / np.linalg.norm(away)


def test_a_frame_of_ones_own_is_joined_by_the_name_of_its_variable(planted: Lake) -> None:
    [query] = re.findall(r'lake\.pandas\("(.* join teams .*)"\)', PAGE)
    with warehouse.connect(planted.path) as lake:
        for teams in (pd.DataFrame({"id": ["i001"], "team": ["a"]}), pa.table({"id": ["i001"], "team": ["a"]})):
            [row] = lake.arrow(query).to_pylist()
            assert (row["item_id"], row["team"]) == ("i001", "a"), type(teams)
        with pytest.raises(duckdb.Error):
            lake.rows("SELECT error('stop') FROM items")
        assert lake.arrow(query).num_rows == 1, "also after a query that failed"


def test_other_tools_get_a_connection(planted: Lake) -> None:
    """The lines of the guide for a tool that makes a cursor, for one that does not, and for dbt."""
    queries = re.findall(r'polars\.read_database\("(.*)", lake\)|pandas\.read_sql\("(.*)", sql', PAGE)
    (by_cursor, _), (_, by_connection) = queries
    with warehouse.attached(planted.path) as lake, lake.cursor() as cursor:
        items = pl.read_database(by_cursor, cursor).height
        assert items == lake.execute(by_connection).to_arrow_table().num_rows > 0
    statement = attach_statement(Path("/srv/tickets/lake"), read_only=True)
    [profile] = re.findall(r"```yaml\n(extensions: .*?)```", PAGE, re.DOTALL)
    for word in re.findall(r"[\w/:.]+", statement):
        assert word in profile or word in ("ATTACH", "AS", "READ_ONLY"), word
    assert READS_AS_ONE.split()[2] in profile


def test_one_query_reads_two_snapshots(planted: Lake) -> None:
    before = planted.snapshot()
    commit(planted, "one more", answer("i020", 0))
    assert "`AT (VERSION => 4)`" in PAGE
    with warehouse.connect(planted.path) as lake:
        [(then, now)] = lake.rows(
            f"SELECT (SELECT count(*) FROM gold_labels AT (VERSION => {before})), (SELECT count(*) FROM gold_labels)"
        )
    assert (then, now) == (16, 17)
    [query] = re.findall(r'siftline sql "(select a\.label as was.*?)"', PAGE, re.DOTALL)
    with warehouse.connect(planted.path) as lake:
        assert lake.rows(query.replace("=> 4", f"=> {before}")) == [("trade", "grain", 1)]
