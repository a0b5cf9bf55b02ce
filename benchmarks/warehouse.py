"""The warehouse's bars on writing: deaths survived, several writers, and what a commit costs after many.

    python -m benchmarks.warehouse [--parts kills writers commits] [--output docs/benchmarks/warehouse.json]

Parts that the output file holds already are kept unless they are named. The page beside the JSON is made from it. The
bars on reading are in `benchmarks.warehouse_reads`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.environment import environment
from benchmarks.warehouse_faults import kills

PARTS = ("kills", "writers", "commits")

# Writers and readers are processes of their own: SIDE, FOLDER, NUMBER, COMMITS.
WRITER = """
import sys, time
from pathlib import Path
from benchmarks.warehouse_faults import metrics
from warehouse import Append, Lake
side, folder, writer, commits = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
failed = 0
lake = Lake(folder)
connection = lake.new_cursor()
for number in range(commits):
    rows = metrics(writer * 100_000 + number, 20)
    if side == "siftline":
        with lake.stage("bench", version=1, inputs=(), params={"writer": writer, "number": number}) as stage:
            assert stage.commit([Append("metrics", rows)]).committed
        continue
    import duckdb
    columns = ", ".join(rows.column_names)
    try:
        connection.execute(f"INSERT INTO metrics ({columns}) SELECT {columns} FROM rows")
    except duckdb.Error:
        failed += 1
print(failed)
"""
READER = """
import sys, time
from pathlib import Path
from warehouse import Lake
reads, errors = 0, 0
with Lake(Path(sys.argv[2]), read_only=True) as lake:
    while not (Path(sys.argv[2]) / "stop").exists():
        with lake.read() as reader:
            one = reader.scalar("SELECT count(*) FROM metrics")
            errors += one != reader.scalar("SELECT count(*) FROM metrics") or one % 20 != 0
        reads += 1
print(reads, errors)
"""


def main() -> None:
    """Measure the parts and write JSON and page, or print the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=None)
    parser.add_argument("--output", type=Path, default=None)
    parser.add_argument("--commits", type=int, default=200, help="commits of each of the four writers")
    parser.add_argument("--earlier", type=int, default=10_000, help="earlier commits of the part `commits`")
    parser.add_argument("--moments", type=int, default=20, help="deaths inside a COMMIT")
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
        from warehouse import Location

        local = kills(Location(folder=folder / "lake"), moments_count=arguments.moments)
        with running_postgres() as server:
            place = Location(folder=folder / "team", catalog=server.fresh())
            return {"SQLite": local, "PostgreSQL": kills(place, moments_count=arguments.moments)}
    if part == "writers":
        return {side: writers(side, folder / side, arguments.commits) for side in ("siftline", "bare DuckLake")}
    return commits(folder, arguments.earlier)


def writers(side: str, folder: Path, count: int) -> dict[str, Any]:
    """Four writers and two readers on one warehouse; the time includes starting them. Bare DuckLake has no lock."""
    from warehouse import Lake

    Lake(folder).close()

    def start(code: str, number: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, side, str(folder), str(number), str(count)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    readers = [start(READER, n) for n in range(2)]
    began = time.monotonic()
    writing = [start(WRITER, n) for n in range(4)]
    failed = [int(process.communicate()[0] or count) for process in writing]
    took_s = time.monotonic() - began
    (folder / "stop").touch()
    read = [tuple(int(v) for v in process.communicate()[0].split()) for process in readers]
    with Lake(folder) as lake, lake.read() as reader:
        landed = reader.scalar("SELECT count(DISTINCT labels) FROM metrics")
        doubled = reader.scalar("SELECT count(*) FROM metrics") - 20 * landed
    return {
        "asked": 4 * count,
        "landed": landed,
        "doubled_rows": doubled,
        "failed": sum(failed),
        "commits_per_s": round(landed / took_s, 2),
        "reads": sum(r for r, _ in read),
        "reader_errors": sum(e for _, e in read),
    }


def commits(folder: Path, earlier: int) -> dict[str, Any]:
    """Median cost of a commit of 1,000 rows after 10 and after many earlier commits, each after `maintain`."""
    from benchmarks.warehouse_faults import metrics
    from warehouse import Append, Lake
    from warehouse.maintain import maintain

    found: dict[str, Any] = {}
    with Lake(folder / "lake") as lake:
        done = 0
        for target in (10, earlier):
            for number in range(done, target):
                with lake.stage("fill", version=1, inputs=(), params={"number": number}) as stage:
                    stage.commit([Append("metrics", metrics(number, 20))])
                if number % 1000 == 999:
                    maintain(lake, grace_h=0)
            done = target
            maintain(lake, grace_h=0)
            costs = []
            for number in range(15):
                rows = metrics(10**6 + target + number, 1000)
                with lake.stage("timed", version=1, inputs=(), params={"n": [target, number]}) as stage:
                    began = time.perf_counter()
                    stage.commit([Append("metrics", rows)])
                    costs.append(time.perf_counter() - began)
            found[str(target)] = round(statistics.median(costs) * 1000, 1)
    return {"commit_ms": found}


def page(held: dict[str, Any]) -> str:
    """The page of the figures, as Markdown."""
    lines = ["# Warehouse: writing", "", "Made by `python -m benchmarks.warehouse`; do not edit.", ""]
    if "kills" in held:
        faults = [(c, w, n) for c in ("SQLite", "PostgreSQL") for w, n in held["kills"][c].items()]
        lines += ["## Deaths injected, all survived", "", "| catalogue | where | deaths |", "|---|---|---:|"]
        lines += [f"| {catalog} | {where} | {count} |" for catalog, where, count in faults]
        lines += [f"| in all | | {sum(count for _, _, count in faults)} |", ""]
    if "writers" in held:
        lines += ["## Four writers and two readers", ""]
        lines += ["| | landed | failed | commits/s | reads | reader errors |", "|---|---|---|---|---|---|"]
        for side in ("siftline", "bare DuckLake"):
            f = held["writers"][side]
            lines.append(
                f"| {side} | {f['landed']} of {f['asked']} | {f['failed']} | {f['commits_per_s']} | {f['reads']} |"
                f" {f['reader_errors']} |"
            )
        lines.append("")
    if "commits" in held:
        lines += ["## A commit of 1,000 rows", "", "| earlier commits | median, ms |", "|---|---|"]
        lines += [f"| {earlier} | {ms} |" for earlier, ms in held["commits"]["commit_ms"].items()]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
