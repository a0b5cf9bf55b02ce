"""Whether Prefect's server grows in one long life: runs as large as a cycle's, one after another; memory, open files.

    python -m benchmarks.prefect_memory [--runs 600] [--output docs/benchmarks/prefect-memory.json]

In the soak it is killed every few cycles, so what is seen there is how it warms up. Here nothing is killed. A run has
12 tasks and 4 tables as artifacts, as a cycle has, and does nothing else.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx

from benchmarks.environment import environment
from benchmarks.growth import memory_mib, open_files
from flows.servers.prefect_server import QUIET, check_api
from tests.prefect_runs import wait_for
from tests.studio import free_port
from warehouse import ServiceError

EVERY = 10
"""Runs between two looks at the memory."""
WARM = 100
"""Runs after which it should be level: four days of a cycle an hour."""
TASKS, TABLES = 12, 4


def measure(folder: Path, runs: int) -> list[tuple[float, int]]:
    """Memory of the server in MiB and its open files, before the first run and after every ten."""
    url = f"http://127.0.0.1:{free_port()}/api"
    os.environ |= {**QUIET, "PREFECT_HOME": str(folder), "PREFECT_API_URL": url}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1"]
    with (
        (folder / "server.log").open("wb") as log,
        subprocess.Popen([*command, "--port", str(httpx.URL(url).port)], stdout=log, stderr=log) as server,
    ):
        try:
            wait_for(lambda: _answers(url))
            return [_size(server.pid), *(_after(server.pid, number) for number in range(EVERY, runs + 1, EVERY))]
        finally:
            server.terminate()


def _after(pid: int, number: int) -> tuple[float, int]:
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
    memory, files = _size(pid)
    print(f"{number} runs: {memory:.1f} MiB, {files} open files", flush=True)
    return memory, files


def _size(pid: int) -> tuple[float, int]:
    memory, files = memory_mib(pid), open_files(pid)
    assert memory is not None, "the server has ended"
    assert files is not None, "the server has ended"
    return round(memory, 1), files


def _answers(url: str) -> bool:
    try:
        check_api(url)
    except ServiceError:
        return False
    return True


def page(figures: dict[str, Any]) -> str:
    """Markdown: memory and open files by runs, and how much of it came after the first hundred."""
    memory, files, place = figures["memory_mib"], figures["open_files"], figures["environment"]
    warm = memory[WARM // EVERY :]
    halves = warm[: len(warm) // 2 + 1], warm[len(warm) // 2 :]
    growth = [100 * (half[-1] - half[0]) / (EVERY * (len(half) - 1)) for half in halves]
    versions = f"Python {place['python']}, prefect {place['versions']['prefect']}"
    return f"""# Memory of Prefect's server in one life

Written by `python -m benchmarks.prefect_memory`. {figures["runs"]} runs of {TASKS} tasks and {TABLES} tables, one after
another, on one server with SQLite that nobody kills.

MiB before the first run and after every {EVERY}: {", ".join(f"{value:g}" for value in memory)}.

From {WARM} runs on between {min(warm):g} and {max(warm):g} MiB: {growth[0]:+.1f} in 100 runs of the first
half of these, {growth[1]:+.1f} in 100 of the second. Open files: {min(files[1:])} to {max(files[1:])},
{files[1]} after {EVERY} runs and {files[-1]} at the end.

{place["cores"]} cores, {place["processor"]}, {versions}, commit {place["commit"][:9]}.
"""


def main() -> None:
    """Measure, print, write where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=600)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        memory, files = zip(*measure(Path(folder), arguments.runs), strict=True)
    figures = {"runs": arguments.runs, "memory_mib": memory, "open_files": files, "environment": environment()}
    if arguments.output:
        arguments.output.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
        arguments.output.with_suffix(".md").write_text(page(figures), "utf-8")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
