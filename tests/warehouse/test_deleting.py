"""Deletes name some columns and remove what equals them, in the same transaction as the other writes."""

from pathlib import Path

import pyarrow as pa

from tests.lakes import copy_of
from warehouse import Append, Delete, Lake, Upsert


def classes(*rows: tuple[int, str]) -> pa.Table:
    return pa.table({"class_id": pa.array([r[0] for r in rows], pa.int32()), "name": [r[1] for r in rows]})


def stored(lake: Lake) -> list[tuple[int, str]]:
    with lake.read() as reader:
        return reader.rows("SELECT class_id, name FROM classes ORDER BY class_id")


def commit(lake: Lake, number: int, *writes: Append | Delete | Upsert) -> dict[str, int]:
    with lake.stage("test", version=1, inputs=(), params={"n": number}) as stage:
        return dict(stage.commit(writes).rows_written)


def test_delete_removes_rows_equal_in_the_named_columns(tmp_path: Path) -> None:
    with copy_of(Lake, tmp_path / "lake") as lake:
        two = Append("classes", classes((0, "a"))), Append("classes", classes((1, "b"), (2, "b")))
        assert commit(lake, 1, *two) == {"classes": 3}
        commit(lake, 2, Delete("classes", pa.table({"name": ["b", "z"]})))
        assert stored(lake) == [(0, "a")]


def test_delete_of_several_columns_needs_all_of_them_equal(tmp_path: Path) -> None:
    with copy_of(Lake, tmp_path / "lake") as lake:
        commit(lake, 1, Append("classes", classes((0, "a"), (1, "b"))))
        commit(lake, 2, Delete("classes", classes((0, "b"), (1, "b"))))
        assert stored(lake) == [(0, "a")]


def test_writes_happen_in_their_order(tmp_path: Path) -> None:
    with copy_of(Lake, tmp_path / "lake") as lake:
        commit(lake, 1, Append("classes", classes((0, "old"), (1, "old"))))
        commit(lake, 2, Upsert("classes", classes((0, "new"))), Delete("classes", pa.table({"name": ["old"]})))
        assert stored(lake) == [(0, "new")]


def test_table_that_only_lost_rows_counts_as_changed(tmp_path: Path) -> None:
    with copy_of(Lake, tmp_path / "lake") as lake:
        commit(lake, 1, Append("classes", classes((0, "a"))))
        with lake.stage("reader", version=1, inputs=("classes",)) as before:
            token = before.token
        assert commit(lake, 2, Delete("classes", pa.table({"class_id": pa.array([0], pa.int32())}))) == {"classes": 0}
        with lake.stage("reader", version=1, inputs=("classes",)) as after:
            assert after.token != token


def test_batches_give_all_rows_in_pieces(tmp_path: Path) -> None:
    with copy_of(Lake, tmp_path / "lake") as lake:
        commit(lake, 1, Append("classes", classes(*((n, str(n)) for n in range(5000)))))
        with lake.read() as reader:
            pieces = list(reader.batches("SELECT class_id FROM classes ORDER BY class_id", rows=1000))
        assert max(piece.num_rows for piece in pieces) < 5000
        assert pa.concat_tables(pieces).column(0).to_pylist() == list(range(5000))
