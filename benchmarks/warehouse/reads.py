"""What data scientists wait for: the saved questions, opening, a look-up by id, vectors as a matrix.

    python -m benchmarks.warehouse.reads [--items 10000000] [--vectors 1000000] [--folder BIG]
        [--parts questions opening] [--output docs/benchmarks/warehouse-reads.json]

The warehouse is made from real rows (`benchmarks.warehouse.large`) below a temporary folder and removed at the end;
with --folder it is kept there and used again. Parts that the output file holds already are kept unless they are named.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.harness import DOCS, Figures, add_parts, chosen_parts, command, environment, in_turns
from benchmarks.pages import keep, render
from benchmarks.warehouse.large import enlarge, make_base
from warehouse import Reader, connect
from warehouse.queries.reader import list_column_to_matrix
from warehouse.queries.saved_questions import questions

THREADS = 2
BARS = {"questions": 2.0, "opening": 0.1, "lookup": 0.05, "vectors": 2.0}
Found = Iterator[tuple[str, Any]]


def measure(given: argparse.Namespace, output: Path, parts: list[str] | None = None) -> Figures:
    """Make the warehouse where it is missing and measure the parts that are named or missing."""
    figures: Figures = json.loads(output.read_text("utf-8")) if output.is_file() else {}
    with tempfile.TemporaryDirectory(prefix="siftline-reads-") as temporary:
        made = (given.folder or Path(temporary)) / f"lake-{given.items}-{given.vectors}"
        if not (made / "catalog.sqlite").is_file():
            began = time.perf_counter()
            with tempfile.TemporaryDirectory(prefix="siftline-base-") as base:
                enlarge(make_base(Path(base)), made, items=given.items, vectors=given.vectors)
            figures["generation_s"] = round(time.perf_counter() - began, 1)
        figures |= {"benchmark": "warehouse reads", "items": given.items, "vectors": given.vectors}
        figures |= {"threads": THREADS, "bars": BARS, "parts": figures.get("parts", {})}
        for name in parts or [part for part in PARTS if "environment" not in figures["parts"].get(part, {})]:
            found: Figures = figures["parts"].setdefault(name, {})
            if "environment" in found:  # whole before, so measured anew; a part that was cut short goes on
                found.clear()
            for key, value in PARTS[name](made, set(found)):
                found[key] = value
            found["environment"] = environment()
            keep(figures, output, pages)
    return figures


def _questions(lake: Path, known: set[str]) -> Found:
    """Each question three times in a connection that has read nothing before it but the catalogue."""
    with _open(lake) as reader:
        for question in questions():
            if question.name not in known:
                yield question.name, _timed(lambda sql=question.sql: reader.arrow(sql), 3)


def _opening(lake: Path, _: set[str]) -> Found:
    """Opening and asking for the snapshot, again and again in one process, and once in each of five new ones."""

    def opened() -> None:
        with connect(lake) as reader:
            reader.snapshot()

    opened()
    script = (
        "import sys, time; from pathlib import Path; from warehouse import connect; began = time.perf_counter(); "
        "connect(Path(sys.argv[1])).snapshot(); print(time.perf_counter() - began)"
    )
    call = [sys.executable, "-c", script, str(lake)]
    runs = [subprocess.run(call, stdout=subprocess.PIPE, text=True, check=True) for _ in range(5)]
    yield "again", _timed(opened, 20)
    yield "first_of_a_process", _spread([float(run.stdout) for run in runs])


def _lookup(lake: Path, _: set[str]) -> Found:
    """Random ids, each once: the item's row, and its label in the view `training_set`."""
    with _open(lake) as reader:
        count = int(reader.scalar("SELECT count(*) FROM items"))
        ids = [f"r{k:09d}" for k in np.random.default_rng(0).integers(0, count, 41)]
        for name in ("items", "training_set"):
            sql, left = f"SELECT * FROM {name} WHERE item_id = ?", iter(ids)
            reader.rows(sql, [next(left)])
            yield name, _timed(lambda sql=sql, left=left: reader.rows(sql, [next(left)]), 40)


def _vectors(lake: Path, _: set[str]) -> Found:
    """A matrix from the warehouse beside one from a plain Parquet file with the same rows, in turn."""
    with _open(lake) as reader, tempfile.TemporaryDirectory(dir=lake.parent) as folder:
        plain = Path(folder) / "vectors.parquet"
        pq.write_table(reader.arrow("SELECT item_id, vector FROM vectors"), plain)

        def from_plain() -> None:
            table = pq.read_table(plain, columns=["item_id", "vector"])
            list_column_to_matrix(table.column("vector"), what="vector")

        nothing_yet = {"warehouse": [], "plain_parquet": []}
        seconds = in_turns({"warehouse": reader.read_vectors, "plain_parquet": from_plain}, 3, nothing_yet)
        yield from ((name, _spread(taken)) for name, taken in seconds.items())
        yield "ratio", statistics.median(a / b for a, b in zip(*seconds.values(), strict=True))


PARTS: dict[str, Callable[[Path, set[str]], Found]] = {
    "questions": _questions,
    "opening": _opening,
    "lookup": _lookup,
    "vectors": _vectors,
}


def _open(lake: Path) -> Reader:
    reader = connect(lake)
    reader.rows(f"SET threads = {THREADS}")
    return reader


def _timed(call: Callable[[], object], times: int) -> Figures:
    return _spread(in_turns({"it": call}, times, {"it": []})["it"])


def _spread(seconds: list[float]) -> Figures:
    return {"median_s": statistics.median(seconds), "slowest_s": max(seconds), "runs": len(seconds)}


def pages(figures: Figures) -> dict[str, str]:
    """docs/benchmarks/warehouse-reads.md."""
    return {".md": render("warehouse-reads.md.j2", figures)}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Size and place of the large warehouse."""
    parser.add_argument("--items", type=int, default=10_000_000, help="items of the large warehouse")
    parser.add_argument("--vectors", type=int, default=1_000_000, help="vectors of the large warehouse")
    parser.add_argument("--folder", type=Path, help="where large warehouses are kept")


def main() -> None:
    """Measure the parts, write JSON and page."""
    parser = command(__doc__, DOCS / "warehouse-reads.json")
    add_parts(parser, tuple(PARTS))
    parser.set_defaults(parts=None)
    add_options(parser)
    given = parser.parse_args()
    parts = chosen_parts(parser, given.parts, tuple(PARTS)) if given.parts else None
    print(json.dumps(measure(given, given.output, parts), indent=2))


if __name__ == "__main__":
    main()
