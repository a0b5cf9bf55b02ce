"""Stopping a query wholly when a signal stops it here.

A signal ends DuckDB's wait for a query in this thread, while its other threads go on with it, and whatever comes next
on the connection, even closing it, waits for them: for a product of large tables that is for ever.
"""

from collections.abc import Generator
from contextlib import contextmanager

import duckdb


@contextmanager
def stopped_with_us(connection: duckdb.DuckDBPyConnection) -> Generator[None]:
    """Stop the connection's query in all threads when a signal ends the body."""
    try:
        yield
    except (KeyboardInterrupt, RuntimeError):  # "Query interrupted" is a RuntimeError and no duckdb.Error
        connection.interrupt()
        raise
