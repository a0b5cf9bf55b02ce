"""A commit lands whole or not at all, once, whoever dies and whoever else writes."""

import json
import subprocess
import sys
import textwrap
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Self

import pyarrow as pa
import pytest

from warehouse import Append, Lake, Overtaken, Upsert, WarehouseError
from warehouse.commits.transaction import MANY_ROWS


def classes(*names: str) -> pa.Table:
    return pa.table({"class_id": pa.array(range(len(names)), pa.int32()), "name": list(names)})


def items(n: int, text: str = "text") -> pa.Table:
    return pa.table(
        {
            "item_id": [f"i{k:05d}" for k in range(n)],
            "content": [f"{text} {k}" for k in range(n)],
            "content_hash": [f"{k:064x}" for k in range(n)],
            "modality": ["text"] * n,
            "source": ["s"] * n,
            "position": pa.array(range(1, n + 1), pa.int64()),
            "metadata": ["{}"] * n,
            "split": ["train"] * n,
        }
    )


def count(lake: Lake, table: str) -> int:
    with lake.read() as reader:
        return reader.scalar(f'SELECT count(*) FROM "{table}"')


def test_all_tables_of_a_commit_land_together(lake: Lake) -> None:
    with lake.stage("ingest", version=1, inputs=()) as stage:
        result = stage.commit([Upsert("classes", classes("a", "b")), Upsert("items", items(3))], rows_read=3)
    assert result.committed
    assert result.rows_written == {"classes": 2, "items": 3}
    assert (count(lake, "classes"), count(lake, "items"), count(lake, "runs")) == (2, 3, 1)


def test_a_write_that_fails_leaves_nothing_of_its_commit(lake: Lake) -> None:
    wrong = items(2).set_column(5, "position", pa.array(["not a number", "2"]))
    with lake.stage("ingest", version=1, inputs=()) as stage, pytest.raises(WarehouseError, match="not a number"):
        stage.commit([Upsert("classes", classes("a", "b")), Upsert("items", wrong)])
    assert (count(lake, "classes"), count(lake, "items"), count(lake, "runs")) == (0, 0, 0)


def test_a_second_commit_of_a_token_is_a_no_op(lake: Lake) -> None:
    with lake.stage("s", version=1, inputs=()) as first, lake.stage("s", version=1, inputs=()) as second:
        assert first.token == second.token
        assert first.commit([Append("classes", classes("a"))]).committed
        assert not second.commit([Append("classes", classes("a"))]).committed
    with lake.stage("s", version=1, inputs=()) as third:
        assert third.done
    assert count(lake, "classes") == 1


@pytest.mark.parametrize(
    "change", [{"version": 2}, {"params": {"x": 1}}, {"name": "other"}], ids=["version", "params", "name"]
)
def test_another_version_setting_or_stage_is_another_token(lake: Lake, change: dict) -> None:
    base = {"name": "s", "version": 1, "inputs": ()}
    with lake.stage(**base) as one, lake.stage(**{**base, **change}) as two:
        assert one.token != two.token


def test_the_token_follows_the_inputs_only(lake: Lake) -> None:
    def token() -> str:
        with lake.stage("s", version=1, inputs=("items",)) as stage:
            return stage.token

    before = token()
    with lake.stage("elsewhere", version=1, inputs=()) as stage:
        stage.commit([Upsert("classes", classes("a"))])
    assert token() == before
    with lake.stage("ingest", version=1, inputs=()) as stage:
        stage.commit([Upsert("items", items(1))])
    assert token() != before


def test_a_setting_changed_and_changed_back_is_work_again(lake: Lake) -> None:
    tokens = []
    for setting in ("a", "b", "a"):
        with lake.stage("s", version=1, inputs=(), params={"setting": setting}) as stage:
            assert not stage.done
            assert stage.commit([Upsert("classes", classes(setting))]).committed
            tokens.append(stage.token)
        with lake.stage("s", version=1, inputs=(), params={"setting": setting}) as again:
            assert again.done
            assert again.token == tokens[-1]
    assert len(set(tokens)) == 3
    with lake.read() as reader:
        assert reader.rows("SELECT name FROM classes") == [("a",)]


def test_an_upsert_replaces_by_key(lake: Lake) -> None:
    for version, text in ((1, "old"), (2, "new")):
        with lake.stage("ingest", version=version, inputs=()) as stage:
            stage.commit([Upsert("items", items(3, text))])
    with lake.read() as reader:
        assert reader.rows("SELECT DISTINCT split_part(content, ' ', 1), count(*) FROM items GROUP BY 1") == [
            ("new", 3)
        ]


def test_two_stages_that_found_a_table_empty_do_not_double_its_rows(lake: Lake) -> None:
    with lake.stage("a", version=1, inputs=()) as first, lake.stage("b", version=1, inputs=()) as second:
        first.commit([Upsert("items", items(MANY_ROWS, "old"))])
        second.commit([Upsert("items", items(MANY_ROWS + 1, "new"))])
    assert count(lake, "items") == MANY_ROWS + 1
    with lake.read() as reader:
        assert reader.scalar("SELECT count(*) FROM items WHERE content LIKE 'new%'") == MANY_ROWS + 1


def test_a_commit_in_turn_is_refused_after_another_run_of_its_stage_only(lake: Lake) -> None:
    with (
        lake.stage("s", version=1, inputs=()) as first,
        lake.stage("other", version=1, inputs=()) as other,
        lake.stage("s", version=2, inputs=()) as second,
    ):
        other.commit([Append("classes", classes("a"))])
        assert first.commit([Upsert("classes", classes("a", "b"))], in_turn=True).committed
        with pytest.raises(Overtaken, match="Another run of s was faster; nothing was written"):
            second.commit([Append("classes", classes("a"))], in_turn=True)
    assert (count(lake, "classes"), count(lake, "runs")) == (2, 2)


def test_a_stage_reads_one_snapshot(lake: Lake) -> None:
    with lake.stage("reads", version=1, inputs=("items",)) as stage:
        assert stage.scalar("SELECT count(*) FROM items") == 0
        with lake.stage("ingest", version=1, inputs=()) as writer:
            writer.commit([Upsert("items", items(5))])
        assert stage.scalar("SELECT count(*) FROM items") == 0
    assert count(lake, "items") == 5


def test_commit_times_rise_even_when_the_clock_goes_back_and_stands_still(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls(2020, 1, 1, tzinfo=tz)

    for number in range(4):
        with lake.stage("s", version=number, inputs=()) as stage:
            monkeypatch.setattr("warehouse.commits.stage.datetime", Clock)
            stage.commit([Append("classes", classes("a"))], rows_read=number)
        monkeypatch.setattr("warehouse.commits.transaction.datetime", Clock)
    with lake.read() as reader:
        assert reader.scalar("SELECT min(seconds) FROM runs") >= 0
        times = [t for (t,) in reader.rows("SELECT committed_at FROM runs ORDER BY rows_read")]
    assert len(times) == 4
    assert times == sorted(set(times))


def test_a_read_only_warehouse_refuses_to_write(lake: Lake) -> None:
    refused = pytest.raises(WarehouseError, match="reading only")
    with Lake(lake.path, read_only=True) as reading, reading.stage("s", version=1, inputs=()) as stage, refused:
        stage.commit([Append("classes", classes("a"))])


WRITER = """
import sys
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Self
import pyarrow as pa
from warehouse import Append, Lake

lake = Lake(Path(sys.argv[1]))
writer, commits = int(sys.argv[2]), int(sys.argv[3])
for number in range(commits):
    row = pa.table({"class_id": pa.array([writer * 1000 + number], pa.int32()), "name": [f"{writer}-{number}"]})
    with lake.stage("write", version=1, inputs=(), params={"writer": writer, "number": number}) as stage:
        assert stage.commit([Append("classes", row)]).committed
"""


def test_writers_in_four_processes_lose_and_double_nothing_while_readers_read(lake: Lake) -> None:
    commits = 10
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(lake.path)]
    writers = [subprocess.Popen([*command, str(n), str(commits)], stderr=subprocess.PIPE) for n in range(4)]
    seen = 0
    with Lake(lake.path, read_only=True) as reading:
        while any(writer.poll() is None for writer in writers):
            with reading.read() as reader:
                rows = reader.scalar("SELECT count(*) FROM classes")
                assert rows == reader.scalar("SELECT count(*) FROM runs"), "half a commit was visible"
                assert rows >= seen
                seen = rows
    for writer in writers:
        _, error = writer.communicate()
        assert writer.returncode == 0, error.decode()
    with lake.read() as reader:
        assert reader.scalar("SELECT count(DISTINCT class_id) FROM classes") == 4 * commits
    assert count(lake, "classes") == 4 * commits


def test_an_item_says_when_it_was_replaced(lake: Lake) -> None:
    for version, rows in ((1, items(2)), (2, items(1, "edited")), (3, items(3).slice(1))):
        with lake.stage("ingest", version=version, inputs=()) as stage:
            stage.commit([Upsert("items", rows)])
    with lake.read() as reader:
        found = reader.rows("SELECT item_id, changed_at = committed_at FROM items ORDER BY item_id")
    assert found == [("i00000", True), ("i00001", True), ("i00002", None)]


def test_killed_at_any_statement_the_warehouse_is_before_or_after(tmp_path: Path) -> None:
    """Every statement of the commit, and of the many that create the schema one of each kind."""
    command = [sys.executable, "-m", "tests.warehouse.killed_commits", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout.splitlines()[-1])
    creating, committing = told["deaths"]
    last = len(told["opening"]) + len(told["committing"])
    assert committing == list(range(len(told["opening"]) + 1, last + 1))
    assert "COMMIT" in {told["creating"][number - 1] for number in creating}
    assert {'MERGE INTO "items"', 'INSERT INTO "runs"', "COMMIT"} <= set(told["committing"])
    assert len(creating) > 8


def state(lake: Lake) -> tuple[int, int, int]:
    return count(lake, "classes"), count(lake, "items"), count(lake, "runs")
