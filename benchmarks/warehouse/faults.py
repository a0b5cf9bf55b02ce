"""Deaths inside commits and maintenance: at every statement, and at moments spread over the COMMIT itself.

Each death is a forked child that kills itself (at its n-th statement on the warehouse) or is killed by its parent (some
milliseconds after it announced COMMIT). After each, the warehouse must be as before or as after, open twice, take the
same commit again once, and keep no file that nothing knows.
"""

import contextlib
import os
import select
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from warehouse import Lake, Location, Upsert
from warehouse.maintenance.compaction import maintain

ROWS = 2000
Action = Callable[[Lake], Any]
_KNOWN_FILES = " UNION ALL ".join(
    f"SELECT path FROM __ducklake_metadata_lake.ducklake_{table}"
    for table in ("data_file", "delete_file", "files_scheduled_for_deletion")
)


def metrics(number: int, rows: int = ROWS) -> pa.Table:
    """Rows with ids of their own commit; enough to be written as a file."""
    same = {"series": "bench", "name": "accuracy", "split": "test", "detail": "{}"}
    ids = {"metric_id": [f"{number}/{k}" for k in range(rows)], "seed": pa.array(range(rows), pa.int32())}
    values = {"labels": pa.array([number] * rows, pa.int32()), "value": pa.array([0.5] * rows, pa.float64())}
    return pa.table({**ids, **values, **{name: [value] * rows for name, value in same.items()}})


def kills(place: Location, *, moments: int) -> dict[str, int]:
    """Faults injected and survived, by kind, in one new warehouse; `moments` of them inside a COMMIT."""
    _in_child(lambda: Lake(place).close())  # this process opens no DuckDB: one that forks must have no threads
    found = {"statements of a commit": 0, "moments of a COMMIT": 0, "statements of maintenance": 0}
    while _run_child(place, lambda lake: _commit(lake, 1), at_statement=found["statements of a commit"] + 1).died:
        _in_child(lambda: _check(place, 1, again=False))
        found["statements of a commit"] += 1
    _in_child(lambda: _check(place, 1, again=True))
    took = _run_child(place, lambda lake: _commit(lake, 100)).commit_s
    for number in range(1, moments + 1):
        _run_child(place, lambda lake, n=number: _commit(lake, 100 + n), kill_after_s=took * (number - 0.5) / moments)
        _in_child(lambda n=number: _check(place, 100 + n, again=True))
        found["moments of a COMMIT"] = number

    def work(number: int) -> None:
        with Lake(place) as lake:
            assert _commit(lake, number)
            assert _commit(lake, number + 1)

    _in_child(lambda: work(10_000))
    death = 0
    while _run_child(place, lambda lake: maintain(lake, grace_h=0), at_statement=death + 1).died:
        found["statements of maintenance"] = death = death + 1
        _in_child(lambda death=death: _check(place, 10_000 + 2 * death - 1, again=True))
        _in_child(lambda death=death: work(10_000 + 2 * death))  # something to do for the next one
    return found


def _commit(lake: Lake, number: int) -> bool:
    """One commit of two tables; True when this call wrote it."""
    classes = pa.table({"class_id": pa.array([0, 1], pa.int32()), "name": [f"a{number}", f"b{number}"]})
    with lake.stage("bench", version=1, inputs=(), params={"number": number}) as stage:
        return stage.commit([Upsert("classes", classes), Upsert("metrics", metrics(number))]).committed


def _state(lake: Lake) -> tuple[int, int]:
    """Runs and metrics, from one snapshot."""
    with lake.read() as reader:
        return reader.rows("SELECT (SELECT count(*) FROM runs), (SELECT count(*) FROM metrics)")[0]


def _check(place: Location, number: int, *, again: bool) -> None:
    """After a death in the last commit: it is there or not, opens twice, lands once if repeated, leaves no orphans."""
    with Lake(place) as lake:
        found = runs, rows = _state(lake)
    assert rows == runs * ROWS, f"half a commit: {runs} runs, {rows} rows"
    with Lake(place) as lake:
        assert _state(lake) == found, f"opened again, {found} became {_state(lake)}"
        if again:
            wrote = _commit(lake, number)
            assert _state(lake) == (runs + wrote, (runs + wrote) * ROWS)
            assert not _commit(lake, number), "a token landed twice"
            with lake.read() as reader:
                one = reader.scalar("SELECT count(*) FROM metrics WHERE labels = ?", [number])
            assert one == ROWS, f"commit {number} has {one} rows"
        maintain(lake, grace_h=0)
        with lake.read() as reader:
            known = {Path(path).name for (path,) in reader.rows(_KNOWN_FILES)}
        unknown = {path.name for path in (lake.path / "data").rglob("*.parquet")} - known
        assert not unknown, f"files that nothing knows: {sorted(unknown)}"


class _Cursor:
    """A cursor that calls `reached` before every statement."""

    def __init__(self, real: Any, reached: Callable[[str], Any]) -> None:
        self.real, self.reached = real, reached

    def execute(self, sql: str, *arguments: Any) -> Any:
        self.reached(sql)
        return self.real.execute(sql, *arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


class _Ended:
    """How a child ended: whether it was killed, and seconds from its COMMIT to its end."""

    died = False
    commit_s = 0.0


def _run_child(place: Location, action: Action, *, at_statement: int = 0, kill_after_s: float | None = None) -> _Ended:
    """Run an action in a child that kills itself at a statement, or is killed some time after it announced COMMIT."""
    read, write = os.pipe()
    seen = 0

    def reached(sql: str) -> None:
        nonlocal seen
        seen += 1
        if seen == at_statement:
            os.kill(os.getpid(), signal.SIGKILL)
        if sql == "COMMIT":
            os.write(write, b"c")

    def act() -> None:
        lake = Lake(place)
        real = lake.new_cursor
        lake.new_cursor = lambda **how: _Cursor(real(**how), reached)  # type: ignore[method-assign]
        action(lake)

    pid, ended = _forked(act), _Ended()
    os.close(write)
    select.select([read], [], [], 60)
    began = time.monotonic()
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    ended.commit_s, ended.died = time.monotonic() - began, os.WIFSIGNALED(status)
    os.close(read)
    assert ended.died or os.WEXITSTATUS(status) == 0, f"the child failed: {status}"
    return ended


def _in_child(action: Callable[[], None]) -> None:
    """Run checks in a child, so that this process stays free of DuckDB's threads and may fork."""
    status = os.waitpid(_forked(action), 0)[1]
    if status:
        raise SystemExit(f"A check after a death failed with {os.waitstatus_to_exitcode(status)}; see above.")


def _forked(action: Callable[[], None]) -> int:
    """Run an action in a child; its exit status is 0 only when the action returned."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        action()
        code = 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os._exit(code)
