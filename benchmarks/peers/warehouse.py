"""A writer or a reader of one kind of table: a Siftline warehouse, bare DuckLake, Delta or Iceberg.

    python -m benchmarks.peers.warehouse SIDE ROLE FOLDER [WRITER COMMITS]

SIDE is siftline, ducklake, delta or iceberg. ROLE `make` makes the table; `write` prints the commits that raised, after
whatever retries the library makes itself; `read` counts the rows until FOLDER/stop is there, and prints reads and those
that raised or saw half a commit; `count` prints rows and distinct commits.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

ROWS = 20
Table = tuple[Callable[[int], Any], Callable[[], list[int]]]
"""Appends the rows of a commit; reads the commit of each row."""


def _rows(commit: int) -> pa.Table:
    ids, commits = [f"{commit}/{k}" for k in range(ROWS)], pa.array([commit] * ROWS, pa.int32())
    return pa.table({"metric_id": ids, "labels": commits, "value": pa.array([0.5] * ROWS, pa.float64())})


def _ours(folder: Path, *, bare: bool) -> Table:
    from benchmarks.warehouse.faults import metrics
    from warehouse import Append, Lake

    lake = Lake(folder)
    cursor = lake.new_cursor()

    def append(commit: int) -> None:
        rows = metrics(commit, ROWS)
        if bare:
            cursor.register("rows", rows)
            columns = ", ".join(rows.column_names)
            cursor.execute(f"INSERT INTO metrics ({columns}) SELECT {columns} FROM rows")
            return
        with lake.stage("bench", version=1, inputs=(), params={"commit": commit}) as stage:
            stage.commit([Append("metrics", rows)])

    def read() -> list[int]:
        with lake.read() as reader:
            return reader.arrow("SELECT labels FROM metrics").column("labels").to_pylist()

    return append, read


def _delta(folder: Path) -> Table:
    from deltalake import DeltaTable, write_deltalake

    place = str(folder / "delta")
    return (
        lambda commit: write_deltalake(place, _rows(commit), mode="append"),
        lambda: pa.table(DeltaTable(place).to_pyarrow_table()).column("labels").to_pylist(),
    )


def _iceberg(folder: Path) -> Table:
    from pyiceberg.catalog.sql import SqlCatalog

    catalog = SqlCatalog("bench", uri=f"sqlite:///{folder}/iceberg.db?timeout=60", warehouse=f"file://{folder}")
    if not catalog.namespace_exists("bench"):
        catalog.create_namespace("bench")
        catalog.create_table("bench.metrics", schema=_rows(0).schema)
    return (
        lambda commit: catalog.load_table("bench.metrics").append(_rows(commit)),
        lambda: catalog.load_table("bench.metrics").scan().to_arrow().column("labels").to_pylist(),
    )


def main() -> None:
    """One role of one side."""
    side, role, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    made = {"delta": _delta, "iceberg": _iceberg}.get(side) or (lambda at: _ours(at, bare=side == "ducklake"))
    append, read = made(folder)
    failed = reads = 0
    if role == "make":
        append(-1)
    elif role == "write":
        writer, commits = int(sys.argv[4]), int(sys.argv[5])
        for number in range(commits):
            try:
                append(writer * 100_000 + number)
            except Exception:  # noqa: BLE001 - each library has its own; what counts is that it reached the caller
                failed += 1
        print(failed)
    elif role == "read":
        while not (folder / "stop").exists():
            try:
                failed += len(read()) % ROWS != 0
            except Exception:  # noqa: BLE001 - as above
                failed += 1
            reads += 1
        print(reads, failed)
    else:
        found = read()
        print(len(found) - ROWS, len(set(found)) - 1)


if __name__ == "__main__":
    main()
