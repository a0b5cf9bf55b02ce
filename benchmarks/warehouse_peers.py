"""A writer or a reader of a Delta or an Iceberg table; run by the peers' own Python, away from ours.

    .venv-peers-warehouse/bin/python benchmarks/warehouse_peers.py SIDE ROLE FOLDER [WRITER COMMITS]

SIDE is delta or iceberg. ROLE `make` makes the table; `write` prints the commits that raised, after whatever retries
the library makes itself; `read` reads the whole table until FOLDER/stop is there, and prints reads and those that
raised or saw half a commit; `count` prints rows and distinct commits.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

ROWS = 20


def rows(commit: int) -> pa.Table:
    """The rows of one commit, as in our own benchmark."""
    return pa.table(
        {
            "metric_id": [f"{commit}/{k}" for k in range(ROWS)],
            "labels": pa.array([commit] * ROWS, pa.int32()),
            "value": pa.array([0.5] * ROWS, pa.float64()),
        }
    )


def delta(folder: Path) -> tuple[Callable[[pa.Table], object], Callable[[], pa.Table]]:
    """Append to and read a Delta table."""
    from deltalake import DeltaTable, write_deltalake  # pyright: ignore

    place = str(folder / "delta")
    return (
        lambda table: write_deltalake(place, table, mode="append"),
        lambda: pa.table(DeltaTable(place).to_pyarrow_table()),
    )


def iceberg(folder: Path) -> tuple[Callable[[pa.Table], object], Callable[[], pa.Table]]:
    """Append to and read an Iceberg table in a SQLite catalogue."""
    from pyiceberg.catalog.sql import SqlCatalog  # pyright: ignore

    catalog = SqlCatalog("bench", uri=f"sqlite:///{folder}/iceberg.db?timeout=60", warehouse=f"file://{folder}")
    if not catalog.namespace_exists("bench"):
        catalog.create_namespace("bench")
        catalog.create_table("bench.metrics", schema=rows(0).schema)

    def append(table: pa.Table) -> None:
        catalog.load_table("bench.metrics").append(table)

    return append, lambda: catalog.load_table("bench.metrics").scan().to_arrow()


def main() -> None:
    """One role of one side."""
    side, role, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    append, read = {"delta": delta, "iceberg": iceberg}[side](folder)
    failed = 0
    if role == "make":
        append(rows(10**6))
    elif role == "write":
        writer, commits = int(sys.argv[4]), int(sys.argv[5])
        for number in range(commits):
            try:
                append(rows(writer * 100_000 + number))
            except Exception:  # noqa: BLE001 - each library has its own; what counts is that it reached the caller
                failed += 1
        print(failed)
    elif role == "read":
        reads = 0
        while not (folder / "stop").exists():
            try:
                failed += read().num_rows % ROWS != 0
            except Exception:  # noqa: BLE001 - as above
                failed += 1
            reads += 1
        print(reads, failed)
    else:
        table = read()
        print(table.num_rows - ROWS, len(set(table["labels"].to_pylist())) - 1)


if __name__ == "__main__":
    main()
