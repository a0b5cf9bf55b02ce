"""Four writers and two readers at once: on a Siftline warehouse, on bare DuckLake, on Delta and on Iceberg.

Each side appends 20 rows a commit and has its own library's retries and nothing else (`benchmarks.peers.warehouse`).
The time includes starting the writers.
"""

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.harness import ROOT, Figures, peer_python

OURS = ("siftline", "ducklake")
SIDES = {"siftline": "siftline", "bare DuckLake": "ducklake", "delta": "delta", "iceberg": "iceberg"}


def writers(side: str, folder: Path, count: int) -> Figures:
    """Four writers of `count` commits each and two readers until they are done.

    Commits asked for, landed and failed, rows that are there twice, commits per second, reads and their errors; or
    `missing`, the reason, where a peer cannot be installed.
    """
    try:
        python = Path(sys.executable) if side in OURS else peer_python("warehouse")
    except ChildProcessError as error:
        return {"missing": str(error)}
    folder.mkdir(parents=True, exist_ok=True)

    def start(role: str, *more: int) -> "subprocess.Popen[str]":
        call = [python, "-m", "benchmarks.peers.warehouse", side, role, folder, *map(str, more)]
        return subprocess.Popen(call, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    start("make").communicate()
    readers = [start("read") for _ in range(2)]
    began = time.monotonic()
    writing = [start("write", number, count) for number in range(4)]
    failed = [int(process.communicate()[0] or count) for process in writing]
    took_s = time.monotonic() - began
    (folder / "stop").touch()
    read = [tuple(map(int, (process.communicate()[0] or "0 1").split())) for process in readers]
    rows, landed = map(int, start("count").communicate()[0].split())
    return {
        "asked": 4 * count,
        "landed": landed,
        "doubled_rows": rows - 20 * landed,
        "failed": sum(failed),
        "commits_per_s": round(landed / took_s, 2),
        "reads": sum(r for r, _ in read),
        "reader_errors": sum(e for _, e in read),
    }
