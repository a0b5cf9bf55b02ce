"""A signal that stops a query stops it in all of DuckDB's threads: nothing after it waits for them."""

import signal
import subprocess
import sys
import threading
import time
from types import FrameType

import duckdb
import pytest

from warehouse.session.interrupt import alarm, taken

ASK = """
import os, signal, threading
import duckdb
from warehouse.queries.reader import Reader

connection = duckdb.connect(config={"threads": 2})
connection.execute("CREATE TABLE t AS FROM range(2000000) t(i)")  # enough row groups for both threads
reader = Reader(connection)
threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    reader.METHOD("SELECT sum(a.i * b.i) FROM t a, t b")
except (KeyboardInterrupt, RuntimeError) as error:
    print(type(error).__name__)
NEXT
"""

# The first rows are there at once, so that whoever takes them waits for the next ones, and those never come.
TAKE = """
import os, signal, sys, threading
import duckdb
from warehouse.queries.reader import Reader

reader = Reader(duckdb.connect(config={"threads": 2}))
rows = "SELECT i FROM range(300000) t(i) UNION ALL SELECT i FROM range(100000000000) t(i) WHERE hash(i) = 3"
threading.Timer(2.0, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    METHOD
except KeyboardInterrupt:
    reader.close()
    print("closed")
"""


@pytest.mark.parametrize("method", ["rows", "scalar", "arrow", "pandas"])
@pytest.mark.parametrize(
    ("after", "said"), [("print(reader.scalar('SELECT 44'))", "44"), ("reader.close(); print('closed')", "closed")]
)
def test_what_comes_after_an_interrupted_query_is_done_at_once(method: str, after: str, said: str) -> None:
    code = ASK.replace("METHOD", method).replace("NEXT", after)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    assert "Interrupt" in done.stdout or "RuntimeError" in done.stdout


@pytest.mark.parametrize("take", ["reader.arrow(rows)", "reader.pandas(rows)", "list(reader.batches(rows, rows=9999))"])
def test_a_result_that_is_taken_while_it_is_computed_is_given_up_at_once(take: str) -> None:
    code = TAKE.replace("METHOD", take)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "closed\n"), done.stderr


@pytest.mark.parametrize("take", ["reader.arrow(rows)", "reader.pandas(rows)", "list(reader.batches(rows, rows=9999))"])
def test_a_reader_that_an_interrupt_ended_says_to_open_another_one(take: str) -> None:
    asked = "try:\n        reader.rows('SELECT 44')\n    except Exception as error:\n        print(error)"
    code = TAKE.replace("METHOD", take).replace("reader.close()", f"{asked}\n    reader.close()")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    told, closed = done.stdout.splitlines()
    assert "Close the reader and open another one" in told
    assert closed == "closed"


@pytest.mark.parametrize("begun", [True, False])
def test_a_signal_while_the_thread_starts_leaves_no_query(begun: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        threads.append(thread)
        if begun:
            start(thread)
        raise KeyboardInterrupt

    connection = duckdb.connect(config={"threads": 2})
    endless = "SELECT sum(a.i * b.i) FROM range(10000000) a(i), range(10000000) b(i)"
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            taken(connection, lambda: connection.execute(endless).fetchall())
    [thread] = threads
    if not begun:
        start(thread)  # as the system may, late
    thread.join(5)
    left = thread.is_alive()
    connection.interrupt()
    assert not left


def test_an_alarm_leaves_the_one_that_the_process_has() -> None:
    """It was set to none, so that a test under pytest-timeout that called a labeling function had no limit any more."""
    came = list[str]()

    def theirs(_: int, __: FrameType | None) -> None:
        came.append("theirs")

    def ours(_: int, __: FrameType | None) -> None:
        came.append("ours")

    def wait_for(*names: str) -> None:
        deadline = time.monotonic() + 20
        while came != list(names) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert came == list(names)

    before = signal.signal(signal.SIGALRM, theirs)
    try:
        signal.setitimer(signal.ITIMER_REAL, 60, 7)
        with alarm(60, ours):
            pass
        assert signal.getitimer(signal.ITIMER_REAL)[1] == 7
        signal.setitimer(signal.ITIMER_REAL, 1.0)
        with alarm(0.01, ours):
            wait_for("ours")
        wait_for("ours", "theirs")
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        with alarm(60, ours):  # longer than was left
            time.sleep(0.05)
        wait_for("ours", "theirs", "theirs")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
