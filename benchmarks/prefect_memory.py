"""Whether Prefect's server grows in one long life: runs as large as a cycle's, one after another; memory, open files.

    python -m benchmarks.prefect_memory [--runs 600] [--output docs/benchmarks/prefect-memory.json]

In the soak it is killed every few cycles, so what is seen there is how it warms up. Here nothing is killed. A run has
12 tasks and 4 tables as artifacts, as a cycle has, and does nothing else.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx

from benchmarks.harness import Figures, command, environment
from benchmarks.pages import keep, render
from benchmarks.soak.growth import memory_mib, open_files
from flows.servers.prefect_server import QUIET, check_api
from tests.prefect_runs import wait_for
from tests.studio import free_port
from warehouse import ServiceError

EVERY = 10
"""Runs between two looks at the memory."""
WARM = 100
"""Runs after which it should be level: four days of a cycle an hour."""
TASKS, TABLES = 12, 4


def _measure(folder: Path, runs: int) -> list[tuple[float, int]]:
    """Memory of the server in MiB and its open files, before the first run and after every ten."""
    url = f"http://127.0.0.1:{free_port()}/api"
    os.environ |= {**QUIET, "PREFECT_HOME": str(folder), "PREFECT_API_URL": url}
    call = [
        sys.executable,
        "-m",
        "prefect",
        "server",
        "start",
        "--host",
        "127.0.0.1",
        "--port",
        str(httpx.URL(url).port),
    ]
    with (folder / "server.log").open("wb") as log, subprocess.Popen(call, stdout=log, stderr=log) as server:
        try:
            wait_for(lambda: _answers(url))
            found = [(memory_mib(server.pid) or 0.0, open_files(server.pid) or 0)]
            for number in range(EVERY, runs + 1, EVERY):
                _ten_runs(number)
                found.append((memory_mib(server.pid) or 0.0, open_files(server.pid) or 0))
                print(f"{number} runs: {found[-1][0]:.1f} MiB, {found[-1][1]} open files", flush=True)
            return found
        finally:
            server.terminate()


def _ten_runs(number: int) -> None:
    from prefect import flow, task
    from prefect.artifacts import create_table_artifact

    @task
    def stage(number: int) -> int:
        return number

    @flow
    def cycle(number: int) -> None:
        for step in range(TASKS):
            stage(step)
        for table in range(TABLES):
            create_table_artifact(key=f"table-{table}", table=[{"row": row, "run": number} for row in range(25)])

    for run in range(number - EVERY, number):
        cycle(run)


def _answers(url: str) -> bool:
    try:
        check_api(url)
    except ServiceError:
        return False
    return True


def pages(figures: Figures) -> dict[str, str]:
    """Memory and open files by runs, and how much of it came after the first hundred."""
    warm = figures["memory_mib"][WARM // EVERY :]
    halves = warm[: len(warm) // 2 + 1], warm[len(warm) // 2 :]
    growth = [100 * (half[-1] - half[0]) / (EVERY * max(1, len(half) - 1)) if half else 0.0 for half in halves]
    sizes = {"tasks": TASKS, "tables": TABLES, "every": EVERY, "after": WARM}
    return {".md": render("prefect-memory.md.j2", figures, warm=warm, growth=growth, **sizes)}


def main() -> None:
    """Measure, print, write where asked."""
    parser = command(__doc__)
    parser.add_argument("--runs", type=int, default=600)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        memory, files = zip(*_measure(Path(folder), given.runs), strict=True)
    kept = {"memory_mib": [round(value, 1) for value in memory], "open_files": files}
    figures = {"runs": given.runs, **kept, "environment": environment()}
    keep(figures, given.output, pages)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
