"""A signal that stops a query stops it in all of DuckDB's threads: nothing after it waits for them."""

import subprocess
import sys

import pytest

ASK = """
import os, signal, threading
import duckdb
from warehouse.reader import Reader

signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs the tests may ignore it
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
