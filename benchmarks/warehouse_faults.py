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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from warehouse import Lake, Location, Upsert
from warehouse.maintenance.compaction import maintain

ROWS = 2000


def classes(number: int) -> pa.Table:
    """Two classes whose names tell the commit."""
    return pa.table({"class_id": pa.array([0, 1], pa.int32()), "name": [f"a{number}", f"b{number}"]})


def metrics(number: int, rows: int = ROWS) -> pa.Table:
    """Rows with ids of their own commit; enough to be written as a file."""
    return pa.table(
        {
            "metric_id": [f"{number}/{k}" for k in range(rows)],
            "series": ["bench"] * rows,
            "name": ["accuracy"] * rows,
            "split": ["test"] * rows,
            "labels": pa.array([number] * rows, pa.int32()),
            "seed": pa.array(range(rows), pa.int32()),
            "value": pa.array([0.5] * rows, pa.float64()),
            "detail": ["{}"] * rows,
        }
    )


def commit(lake: Lake, number: int) -> bool:
    """One commit of two tables; True when this call wrote it."""
    with lake.stage("bench", version=1, inputs=(), params={"number": number}) as stage:
        return stage.commit([Upsert("classes", classes(number)), Upsert("metrics", metrics(number))]).committed


def state(lake: Lake) -> tuple[int, int]:
    """Runs and metrics, from one snapshot."""
    with lake.read() as reader:
        return reader.rows("SELECT (SELECT count(*) FROM runs), (SELECT count(*) FROM metrics)")[0]


class Cursor:
    """A cursor that calls `reached` before every statement."""

    def __init__(self, real: Any, reached: Callable[[str], None]) -> None:
        self.real, self.reached = real, reached

    def execute(self, sql: str, *arguments: Any) -> Any:
        """Run a statement."""
        self.reached(sql)
        return self.real.execute(sql, *arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


def statements(place: Location, action: Callable[[Lake], Any]) -> Iterator[int]:
    """Kill a child at its 1st, 2nd, ... statement of an action, until one survives; yields each death's number."""
    at = 1
    while _child(place, action, at_statement=at):
        yield at
        at += 1


def moments(place: Location, action: Callable[[int], Callable[[Lake], Any]], count: int) -> Iterator[int]:
    """Kill a child `count` times, at moments spread over the time that a COMMIT took undisturbed."""
    took = _commit_s(place, action(0))
    for number in range(1, count + 1):
        _child(place, action(number), after_commit_s=took * (number - 0.5) / count)
        yield number


def _commit_s(place: Location, action: Callable[[Lake], Any]) -> float:
    read, write = os.pipe()
    pid = _fork(place, action, lambda sql: os.write(write, b"c") if sql == "COMMIT" else None)
    os.read(read, 1)
    began = time.monotonic()
    os.waitpid(pid, 0)
    os.close(read)
    os.close(write)
    return time.monotonic() - began


def _child(
    place: Location, action: Callable[[Lake], Any], *, at_statement: int = 0, after_commit_s: float | None = None
) -> bool:
    """Run an action in a child that dies; True when it did die."""
    read, write = os.pipe()
    seen = 0

    def reached(sql: str) -> None:
        nonlocal seen
        seen += 1
        if seen == at_statement:
            os.kill(os.getpid(), signal.SIGKILL)
        if sql == "COMMIT":
            os.write(write, b"c")

    pid = _fork(place, action, reached)
    if after_commit_s is not None and select.select([read], [], [], 60)[0]:
        time.sleep(after_commit_s)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    os.close(read)
    os.close(write)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, f"the child failed: {status}"
    return os.WIFSIGNALED(status)


def _fork(place: Location, action: Callable[[Lake], Any], reached: Callable[[str], Any]) -> int:
    def act() -> None:
        lake = Lake(place)
        real = lake.new_cursor
        lake.new_cursor = lambda **how: Cursor(real(**how), reached)  # type: ignore[method-assign]
        action(lake)

    return _forked(act)


def in_child(action: Callable[[], None]) -> None:
    """Run checks in a child, so that this process stays free of DuckDB's threads and may fork."""
    status = os.waitpid(_forked(action), 0)[1]
    if status:
        raise SystemExit(f"a check after a death failed with {os.waitstatus_to_exitcode(status)}; see above")


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


def check(place: Location, number: int, *, again: bool) -> None:
    """After a death in commit `number`: before or after, opens twice, lands once when repeated, orphans go.

    Args:
        place: the warehouse.
        number: the stage's last commit; an earlier one would be work again.
        again: repeat that commit.
    """
    with Lake(place) as lake:
        found = runs, rows = state(lake)
    assert rows == runs * ROWS, f"half a commit: {runs} runs, {rows} rows"
    with Lake(place) as lake:
        assert state(lake) == found, f"opened again, {found} became {state(lake)}"
        if again:
            wrote = commit(lake, number)
            assert state(lake) == (runs + wrote, (runs + wrote) * ROWS)
            assert not commit(lake, number), "a token landed twice"
            with lake.read() as reader:
                one = reader.scalar("SELECT count(*) FROM metrics WHERE labels = ?", [number])
            assert one == ROWS, f"commit {number} has {one} rows"
        maintain(lake, grace_h=0)
        with lake.read() as reader:
            known = {Path(path).name for (path,) in reader.rows(_KNOWN_FILES)}
        unknown = {path.name for path in (lake.path / "data").rglob("*.parquet")} - known
        assert not unknown, f"files that nothing knows: {sorted(unknown)}"


_KNOWN_FILES = " UNION ALL ".join(
    f"SELECT path FROM __ducklake_metadata_lake.ducklake_{table}"
    for table in ("data_file", "delete_file", "files_scheduled_for_deletion")
)


def kills(place: Location, *, moments_count: int) -> dict[str, int]:
    """Faults injected and survived, by kind, in one new warehouse.

    Args:
        place: where nothing is yet.
        moments_count: deaths inside a COMMIT, spread over its time.
    """
    in_child(lambda: Lake(place).close())  # this process opens no DuckDB, since one that forks must have no threads
    found = {"statements of a commit": 0, "moments of a COMMIT": 0, "statements of maintenance": 0}
    for death in statements(place, lambda lake: commit(lake, 1)):
        in_child(lambda: check(place, 1, again=False))
        found["statements of a commit"] = death
    in_child(lambda: check(place, 1, again=True))
    for death in moments(place, lambda number: lambda lake: commit(lake, 100 + number), moments_count):
        in_child(lambda death=death: check(place, 100 + death, again=True))
        found["moments of a COMMIT"] = death

    def work(number: int) -> None:
        with Lake(place) as lake:
            assert commit(lake, number)
            assert commit(lake, number + 1)

    in_child(lambda: work(10_000))
    for death in statements(place, lambda lake: maintain(lake, grace_h=0)):
        in_child(lambda death=death: check(place, 10_000 + 2 * death - 1, again=True))
        in_child(lambda death=death: work(10_000 + 2 * death))  # something to do for the next one
        found["statements of maintenance"] = death
    return found
