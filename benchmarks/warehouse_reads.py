"""What data scientists wait for: the saved questions, opening, a look-up by id, vectors as a matrix.

    python -m benchmarks.warehouse_reads [--items 10000000] [--vectors 1000000] [--folder BIG]
        [--parts questions opening] [--output docs/benchmarks/warehouse-reads.json]

The warehouse is made from real rows (`benchmarks.warehouse_lake`) below a temporary folder and removed at the end;
with --folder it is kept there and used again. Parts that the output file holds already are kept unless they are named.
`--page` writes the page beside the JSON from what it holds, without measuring.
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

from benchmarks.environment import environment
from benchmarks.warehouse_lake import enlarge, make_base
from warehouse import Reader, connect
from warehouse.queries.reader import list_column_to_matrix
from warehouse.queries.saved_questions import questions

OUTPUT = Path("docs") / "benchmarks" / "warehouse-reads.json"
THREADS = 2
BARS = {"questions": 2.0, "opening": 0.1, "lookup": 0.05, "vectors": 2.0}
Figures = dict[str, Any]


def main() -> None:
    """Measure the parts, write JSON and page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=10_000_000)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=None)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--page", action="store_true")
    arguments = parser.parse_args()
    figures: Figures = json.loads(arguments.output.read_text("utf-8")) if arguments.output.is_file() else {}
    if not arguments.page:
        with tempfile.TemporaryDirectory(prefix="siftline-reads-") as temporary:
            folder = arguments.folder or Path(temporary)
            figures = measure(folder, arguments.items, arguments.vectors, arguments.parts, figures, arguments.output)
    arguments.output.with_suffix(".md").write_text(page(figures), "utf-8")
    print(json.dumps(figures, indent=2))


def measure(
    folder: Path, items: int, vectors: int, chosen: list[str] | None, figures: Figures, output: Path
) -> Figures:
    """Make the warehouse where it is missing and measure; the output is written after each part."""
    made = folder / f"lake-{items}-{vectors}"
    if not (made / "catalog.sqlite").is_file():
        began = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="siftline-base-") as base:
            enlarge(make_base(Path(base)), made, items=items, vectors=vectors)
        figures["generation_s"] = round(time.perf_counter() - began, 1)
    figures |= {"benchmark": "warehouse reads", "items": items, "vectors": vectors, "threads": THREADS, "bars": BARS}
    parts = figures.setdefault("parts", {})
    for name, part in PARTS.items():
        if (chosen is None and "environment" not in parts.get(name, {})) or (chosen is not None and name in chosen):
            found: Figures = parts.setdefault(name, {})
            if found.pop("environment", None):  # whole before, so measured anew; a part that was cut short goes on
                found.clear()
            for key, value in part(made, set(found)):
                found[key] = value
                _save(figures, output)
            found["environment"] = environment()
            _save(figures, output)
    return figures


def _save(figures: Figures, output: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")


def measure_questions(lake: Path, known: set[str]) -> Iterator[tuple[str, Any]]:
    """Each question three times in a connection that has read nothing before it but the catalogue."""
    with _open(lake) as reader:
        for q in questions():
            if q.name not in known:
                yield q.name, _timed(lambda sql=q.sql: reader.arrow(sql), 3)


def measure_opening(lake: Path, _: set[str]) -> Iterator[tuple[str, Any]]:
    """Opening and asking for the snapshot, again and again in one process, and once in each of five new ones."""

    def opened() -> None:
        with connect(lake) as reader:
            reader.snapshot()

    opened()
    script = (
        "import sys, time; from pathlib import Path; from warehouse import connect; began = time.perf_counter(); "
        "connect(Path(sys.argv[1])).snapshot(); print(time.perf_counter() - began)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", script, str(lake)], capture_output=True, text=True, check=True)
        for _ in range(5)
    ]
    yield "again", _timed(opened, 20)
    yield "first_of_a_process", _spread([float(run.stdout) for run in runs])


def measure_lookup(lake: Path, _: set[str]) -> Iterator[tuple[str, Any]]:
    """Random ids, each once: the item's row, and its label in the view `training_set`."""
    with _open(lake) as reader:
        count = int(reader.scalar("SELECT count(*) FROM items"))
        ids = [f"r{k:09d}" for k in np.random.default_rng(0).integers(0, count, 41)]
        for name in ("items", "training_set"):
            seconds: list[float] = []
            for item in ids:
                began = time.perf_counter()
                assert len(reader.rows(f"SELECT * FROM {name} WHERE item_id = ?", [item])) == 1
                seconds.append(time.perf_counter() - began)
            yield name, _spread(seconds[1:])


def measure_vectors(lake: Path, _: set[str]) -> Iterator[tuple[str, Any]]:
    """A matrix from the warehouse beside one from a plain Parquet file with the same rows, in turn."""
    with _open(lake) as reader, tempfile.TemporaryDirectory(dir=lake.parent) as folder:
        plain = Path(folder) / "vectors.parquet"
        pq.write_table(reader.arrow("SELECT item_id, vector FROM vectors"), plain)

        def from_plain() -> None:
            table = pq.read_table(plain, columns=["item_id", "vector"])
            list_column_to_matrix(table.column("vector"), what="vector")

        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(3):
            ours.append(_seconds(reader.read_vectors))
            theirs.append(_seconds(from_plain))
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        yield "warehouse", _spread(ours)
        yield "plain_parquet", _spread(theirs)
        yield "ratio", statistics.median(ratios)


PARTS: dict[str, Callable[[Path, set[str]], Iterator[tuple[str, Any]]]] = {
    "questions": measure_questions,
    "opening": measure_opening,
    "lookup": measure_lookup,
    "vectors": measure_vectors,
}


def page(figures: Figures) -> str:
    """The figures as Markdown."""
    parts = figures["parts"]
    lines = [
        "# Reading the warehouse",
        "",
        f"{figures['items']:,} items, {figures['vectors']:,} vectors, {figures['threads']} threads, medians in s. "
        "Made by `python -m benchmarks.warehouse_reads`; raw figures and machine in the JSON beside this page.",
        "",
        "| what | median | slowest | bar | |",
        "|---|---:|---:|---:|---|",
    ]

    def row(what: str, found: Figures, bar: float) -> None:
        met = "met" if found["median_s"] < bar else "**missed**"
        lines.append(f"| {what} | {found['median_s']:.3f} | {found['slowest_s']:.3f} | {bar} | {met} |")

    for name, found in parts.get("questions", {}).items():
        if name != "environment":
            row(f"`siftline questions {name}`", found, BARS["questions"])
    if "opening" in parts:
        row("opening, again in a process", parts["opening"]["again"], BARS["opening"])
        row(
            "opening, first of a process (signatures are checked)",
            parts["opening"]["first_of_a_process"],
            BARS["opening"],
        )
    for name in ("items", "training_set") if "lookup" in parts else ():
        row(f"look-up by id in `{name}`", parts["lookup"][name], BARS["lookup"])
    if "vectors" in parts:
        found = parts["vectors"]
        met = "met" if found["ratio"] <= BARS["vectors"] else "**missed**"
        ours, theirs = found["warehouse"], found["plain_parquet"]
        lines.append(f"| vectors into a matrix | {ours['median_s']:.3f} | {ours['slowest_s']:.3f} | | |")
        lines.append(f"| the same from plain Parquet | {theirs['median_s']:.3f} | {theirs['slowest_s']:.3f} | | |")
        lines.append(f"| ratio of the two | {found['ratio']:.2f} | | {BARS['vectors']} | {met} |")
    return "\n".join(lines) + "\n"


def _open(lake: Path) -> Reader:
    reader = connect(lake)
    reader.rows(f"SET threads = {THREADS}")
    return reader


def _timed(call: Callable[[], object], times: int) -> Figures:
    return _spread([_seconds(call) for _ in range(times)])


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _spread(seconds: list[float]) -> Figures:
    return {"median_s": statistics.median(seconds), "slowest_s": max(seconds), "runs": len(seconds)}


if __name__ == "__main__":
    main()
