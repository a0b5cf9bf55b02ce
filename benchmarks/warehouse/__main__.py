"""The warehouse's bars: deaths survived, several writers, what a commit costs after many, and reading at size.

    python -m benchmarks.warehouse [--parts kills writers commits reads] [--output docs/benchmarks/warehouse.json]
        [--folder BIG]

Parts that the output file holds already are kept unless they are named. The part `reads` is
`benchmarks.warehouse.reads` at 10,000,000 items; it has its own JSON and page beside the output. It and `commits`,
whose 10,000 commits take half an hour, keep their warehouses in --folder when one is given and go on there.
"""

import argparse
import json
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

from benchmarks.harness import (
    Figures,
    add_parts,
    chosen_parts,
    command,
    earlier_figures,
    environment,
    in_turns,
    measured,
)
from benchmarks.pages import keep, render
from benchmarks.warehouse import reads
from benchmarks.warehouse.faults import kills, metrics
from benchmarks.warehouse.writers import SIDES, writers
from warehouse import Append, Lake, Location
from warehouse.maintenance.compaction import maintain

PARTS = ("kills", "writers", "commits", "reads")
TIMED = 40
"""Commits timed of each warehouse in the part `commits`."""


def main() -> None:
    """Measure the parts and write JSON and page, or print the JSON."""
    parser = command(__doc__)
    add_parts(parser, PARTS)
    parser.set_defaults(parts=None)
    parser.add_argument("--commits", type=int, default=200, help="commits of each of the four writers")
    parser.add_argument("--earlier", type=int, default=10_000, help="earlier commits of the part `commits`")
    parser.add_argument("--moments", type=int, default=20, help="deaths inside a COMMIT")
    reads.add_options(parser)
    given = parser.parse_args()
    try:
        figures = earlier_figures(given.output, "warehouse")
    except ValueError as error:
        parser.error(str(error))
    for part in chosen_parts(parser, given.parts, PARTS) if given.parts else [p for p in PARTS if p not in figures]:
        with tempfile.TemporaryDirectory() as folder:
            found, how = measured(partial(_measure, part, Path(folder), given))
        figures[part] = {**found, "took_s": how["seconds"], "environment": environment()}
        keep(figures, given.output, pages)
    print(json.dumps(figures, indent=2))


def _measure(part: str, folder: Path, given: argparse.Namespace) -> Figures:
    if part == "kills":
        from tests.warehouse.servers import running_postgres

        local = kills(Location(folder=folder / "lake"), moments=given.moments)
        with running_postgres() as server:
            place = Location(folder=folder / "team", catalog=server.fresh())
            return {"SQLite": local, "PostgreSQL": kills(place, moments=given.moments)}
    if part == "writers":
        return {name: writers(side, folder / side, given.commits) for name, side in SIDES.items()}
    if part == "reads":
        output = given.output.with_name("warehouse-reads.json") if given.output else folder / "reads.json"
        figures = reads.measure(given, output, list(reads.PARTS))
        return {name: figures[name] for name in ("items", "vectors", "parts")}
    return _commits(folder / "few", (given.folder or folder) / "many", given.earlier)


def _commits(few_folder: Path, many_folder: Path, earlier: int) -> Figures:
    """Median cost of a commit of 1,000 rows after 10 and after many earlier commits, in turns, after `maintain`."""
    with Lake(few_folder) as few, Lake(many_folder) as many:
        lakes = {"10": few, str(earlier): many}
        for count, lake in lakes.items():
            _fill(lake, int(count))
        seconds = in_turns({count: partial(_commit, lake) for count, lake in lakes.items()}, TIMED)
    return {"commit_ms": {count: round(statistics.median(found) * 1000, 1) for count, found in seconds.items()}}


def _fill(lake: Lake, count: int) -> None:
    with lake.read() as reader:
        done = int(reader.scalar("SELECT count(*) FROM runs WHERE stage = 'fill'"))
    for number in range(done, count):
        with lake.stage("fill", version=1, inputs=(), params={"number": number}) as stage:
            stage.commit([Append("metrics", metrics(number, 20))])
        if number % 1000 == 999:
            maintain(lake, grace_h=0)
    maintain(lake, grace_h=0)


def _commit(lake: Lake) -> None:
    now = time.time_ns()
    with lake.stage("timed", version=1, inputs=(), params={"now": now}) as stage:
        stage.commit([Append("metrics", metrics(10**6 + now % 10**9, 1000))])


def pages(figures: Figures) -> dict[str, str]:
    """docs/benchmarks/warehouse.md."""
    return {".md": render("warehouse.md.j2", figures, parts={name: figures[name] for name in PARTS if name in figures})}


if __name__ == "__main__":
    main()
