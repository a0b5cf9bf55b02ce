"""Four writers and two readers at once: on a Siftline warehouse, on bare DuckLake, on Delta and on Iceberg.

Each side appends 20 rows a commit and has its own library's retries and nothing else. The time includes starting the
writers. Delta and Iceberg run in an environment of their own, `.venv-peers-warehouse`, made on first use.
"""

import subprocess
import sys
import time
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PEERS = ROOT / ".venv-peers-warehouse"
PINNED = ("deltalake==1.6.6", "pyiceberg[sql-sqlite,pyarrow]==0.12.0", "pyarrow==26.0.1")
OURS = ("siftline", "bare DuckLake")
SIDES = (*OURS, "delta", "iceberg")

WRITER = """
import sys
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
import sys
from pathlib import Path
import duckdb
from warehouse import Lake
reads, errors = 0, 0
with Lake(Path(sys.argv[2]), read_only=True) as lake:
    while not (Path(sys.argv[2]) / "stop").exists():
        try:
            with lake.read() as reader:
                one = reader.scalar("SELECT count(*) FROM metrics")
                errors += one != reader.scalar("SELECT count(*) FROM metrics") or one % 20 != 0
        except duckdb.Error:
            errors += 1
        reads += 1
print(reads, errors)
"""


def writers(side: str, folder: Path, count: int) -> dict[str, Any]:
    """Four writers of `count` commits each and two readers until they are done.

    Returns:
        commits asked for, landed and failed, rows that are there twice, commits per second, reads and their errors; or
        `missing`, the reason, where a peer cannot be installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if side in OURS:
        from warehouse import Lake

        Lake(folder).close()
    elif problem := make_peers():
        return {"missing": problem}
    else:
        _peer(side, "make", folder).communicate()
    readers = [_start(side, "read", folder, n, count) for n in range(2)]
    began = time.monotonic()
    writing = [_start(side, "write", folder, n, count) for n in range(4)]
    failed = [int(process.communicate()[0] or count) for process in writing]
    took_s = time.monotonic() - began
    (folder / "stop").touch()
    read = [tuple(int(v) for v in (process.communicate()[0] or "0 1").split()) for process in readers]
    rows, landed = _landed(side, folder)
    return {
        "asked": 4 * count,
        "landed": landed,
        "doubled_rows": rows - 20 * landed,
        "failed": sum(failed),
        "commits_per_s": round(landed / took_s, 2),
        "reads": sum(r for r, _ in read),
        "reader_errors": sum(e for _, e in read),
    }


def make_peers() -> str:
    """Make the peers' environment where it is missing; returns why it cannot be made, or nothing."""
    done = PEERS / ".done"
    if not done.exists():
        venv.create(PEERS, with_pip=True)
        command = [str(PEERS / "bin" / "python"), "-m", "pip", "install", "--quiet", *PINNED]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            return ended.stderr.strip()[-500:]
        done.touch()
    return ""


def _landed(side: str, folder: Path) -> tuple[int, int]:
    """Rows, and commits that are there."""
    if side not in OURS:
        rows, landed = _peer(side, "count", folder).communicate()[0].split()
        return int(rows), int(landed)
    from warehouse import Lake

    with Lake(folder) as lake, lake.read() as reader:
        rows, landed = reader.rows("SELECT count(*), count(DISTINCT labels) FROM metrics")[0]
    return int(rows), int(landed)


def _start(side: str, role: str, folder: Path, number: int, count: int) -> subprocess.Popen[str]:
    if side not in OURS:
        return _peer(side, role, folder, str(number), str(count))
    code = WRITER if role == "write" else READER
    return _process([sys.executable, "-c", code, side, str(folder), str(number), str(count)])


def _peer(side: str, role: str, folder: Path, *more: str) -> subprocess.Popen[str]:
    script = Path(__file__).with_name("warehouse_peers.py")
    return _process([str(PEERS / "bin" / "python"), str(script), side, role, str(folder), *more])


def _process(command: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
