"""The warehouse's bars: deaths survived, several writers, what a commit costs after many, and reading at size.

    python -m benchmarks.warehouse [--parts kills writers commits reads] [--output docs/benchmarks/warehouse.json]
        [--folder BIG]

Parts that the output file holds already are kept unless they are named. The page beside the JSON is made from it. The
part `reads` is `benchmarks.warehouse_reads` at 10,000,000 items; it has its own JSON and page beside the output. It and
`commits`, whose 10,000 commits take half an hour, keep their warehouses in --folder when one is given and go on there.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.environment import environment
from benchmarks.warehouse_faults import kills, metrics
from benchmarks.warehouse_page import PARTS, page
from benchmarks.warehouse_reads import PARTS as READS
from benchmarks.warehouse_reads import measure
from benchmarks.warehouse_reads import page as reads_page
from benchmarks.warehouse_writers import SIDES, writers
from warehouse import Append, Lake, Location
from warehouse.maintenance.compaction import maintain

TIMED = 40
"""Commits timed of each warehouse in the part `commits`."""


def main() -> None:
    """Measure the parts and write JSON and page, or print the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=None)
    parser.add_argument("--output", type=Path, default=None)
    parser.add_argument("--commits", type=int, default=200, help="commits of each of the four writers")
    parser.add_argument("--earlier", type=int, default=10_000, help="earlier commits of the part `commits`")
    parser.add_argument("--moments", type=int, default=20, help="deaths inside a COMMIT")
    parser.add_argument("--folder", type=Path, default=None, help="where `reads` and `commits` keep their warehouses")
    parser.add_argument("--items", type=int, default=10_000_000, help="items of the part `reads`")
    parser.add_argument("--vectors", type=int, default=1_000_000, help="vectors of the part `reads`")
    arguments = parser.parse_args()
    held = json.loads(arguments.output.read_text("utf-8")) if arguments.output and arguments.output.exists() else {}
    for part in arguments.parts or [p for p in PARTS if p not in held]:
        with tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            figures = _measure(part, Path(folder), arguments)
            held[part] = {**figures, "took_s": round(time.monotonic() - began, 1), "environment": environment()}
        if arguments.output:
            arguments.output.write_text(json.dumps(held, indent=2) + "\n", "utf-8")
            arguments.output.with_suffix(".md").write_text(page(held), "utf-8")
    print(json.dumps(held, indent=2))


def _measure(part: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    if part == "kills":
        from tests.warehouse.servers import running_postgres

        local = kills(Location(folder=folder / "lake"), moments_count=arguments.moments)
        with running_postgres() as server:
            place = Location(folder=folder / "team", catalog=server.fresh())
            return {"SQLite": local, "PostgreSQL": kills(place, moments_count=arguments.moments)}
    if part == "writers":
        return {side: writers(side, folder / side, arguments.commits) for side in SIDES}
    if part == "reads":
        output = arguments.output.with_name("warehouse-reads.json") if arguments.output else folder / "reads.json"
        figures = measure(arguments.folder or folder, arguments.items, arguments.vectors, list(READS), {}, output)
        output.with_suffix(".md").write_text(reads_page(figures), "utf-8")
        return {name: figures[name] for name in ("items", "vectors", "parts")}
    return commits(folder / "few", (arguments.folder or folder) / "many", arguments.earlier)


def commits(few_folder: Path, many_folder: Path, earlier: int) -> dict[str, Any]:
    """Median cost of a commit of 1,000 rows after 10 and after many earlier commits, each after `maintain`.

    Both warehouses are timed in turns, so that what else the machine does falls on both.

    Args:
        few_folder: takes a new warehouse.
        many_folder: has one from an earlier call, or takes a new one.
        earlier: commits that it has in the end.
    """
    with Lake(few_folder) as few, Lake(many_folder) as many:
        lakes = {10: few, earlier: many}
        for count, lake in lakes.items():
            _fill(lake, count)
        costs: dict[int, list[float]] = {count: [] for count in lakes}
        for _ in range(TIMED):
            for count, lake in lakes.items():
                costs[count].append(_commit_s(lake))
    return {"commit_ms": {str(count): round(statistics.median(found) * 1000, 1) for count, found in costs.items()}}


def _fill(lake: Lake, count: int) -> None:
    with lake.read() as reader:
        done = int(reader.scalar("SELECT count(*) FROM runs WHERE stage = 'fill'"))
    for number in range(done, count):
        with lake.stage("fill", version=1, inputs=(), params={"number": number}) as stage:
            stage.commit([Append("metrics", metrics(number, 20))])
        if number % 1000 == 999:
            maintain(lake, grace_h=0)
    maintain(lake, grace_h=0)


def _commit_s(lake: Lake) -> float:
    now = time.time_ns()
    rows = metrics(10**6 + now % 10**9, 1000)
    with lake.stage("timed", version=1, inputs=(), params={"now": now}) as stage:
        began = time.perf_counter()
        stage.commit([Append("metrics", rows)])
        return time.perf_counter() - began


if __name__ == "__main__":
    main()
