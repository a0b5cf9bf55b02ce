"""Stopping a query wholly, and at once, when a signal stops it here.

A signal ends DuckDB's wait for a query in this thread, while its other threads go on with it, and whatever comes next
on the connection, even closing it, waits for them: for a product of large tables that is for ever. And where Arrow or
pandas take a result that is still being computed, no signal reaches Python before the next batch is there.

And an alarm that stops a block of Python, in a process that may have set one of its own.
"""

import signal
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

import duckdb
import pyarrow as pa

T = TypeVar("T")
_AGAIN_S = 0.1


@contextmanager
def alarm(seconds: float, handler: Callable[[int, FrameType | None], object]) -> Generator[None]:
    """Call a handler in the main thread, in which this block is, when the block has taken so long.

    A process has one such timer. What was set before, as by pytest-timeout for a test, goes on after the block.
    """
    before, began = signal.signal(signal.SIGALRM, handler), time.monotonic()
    left_s, every_s = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if left_s:  # 0 would set none
            signal.setitimer(signal.ITIMER_REAL, max(left_s - (time.monotonic() - began), 1e-6), every_s)


@contextmanager
def stopped_with_us(connection: duckdb.DuckDBPyConnection) -> Generator[None]:
    """Stop the connection's query in all threads when a signal ends the body."""
    try:
        yield
    except (KeyboardInterrupt, RuntimeError):  # "Query interrupted" is a RuntimeError and no duckdb.Error
        connection.interrupt()
        raise


def taken(connection: duckdb.DuckDBPyConnection, take: Callable[[], T]) -> T:
    """What `take` returns, which waits for the connection's query deaf to signals; a signal stops the query.

    Signals reach the main thread only, so there it is another thread that waits for DuckDB.
    """
    if threading.current_thread() is not threading.main_thread():
        return take()
    future: Future[T] = Future()

    def run() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(take())
        except BaseException as error:  # noqa: BLE001 - raised by whoever waits
            future.set_exception(error)

    thread = threading.Thread(target=run, daemon=True)
    try:
        thread.start()
        return future.result()
    except BaseException:
        while not (future.cancel() or future.done()):  # a thread that has not begun does not begin
            connection.interrupt()  # again and again: one that comes before DuckDB is at work is lost
            thread.join(_AGAIN_S)
        raise


def stream(
    connection: duckdb.DuckDBPyConnection, result: duckdb.DuckDBPyConnection, *, rows: int
) -> pa.RecordBatchReader:
    """The result of the connection's query in batches of at most about `rows` rows; a signal stops the query."""
    source = taken(connection, lambda: result.to_arrow_reader(rows))

    def batches() -> Generator[pa.RecordBatch]:
        while (batch := taken(connection, lambda: next(source, None))) is not None:
            yield batch

    return pa.RecordBatchReader.from_batches(source.schema, batches())
