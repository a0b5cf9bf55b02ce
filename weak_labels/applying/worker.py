"""The process that runs users' Python functions, so that one that hangs or crashes can be ended without harm.

Python code cannot be broken off from outside inside its own process. So `Worker` starts `python -m
weak_labels.applying.worker`, which loads the same file of functions and answers calls over a socket: JSON messages, and
Arrow bytes for the items. In there a call that takes too long is broken off by a timer; when even that does not help,
or the process dies, the parent ends it, starts another one, and the function is the only thing lost.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa

from warehouse import SettingsError, matrix_to_list_array
from warehouse.queries.reader import list_column_to_matrix
from weak_labels.functions.call import MISSING, WHOLE_FUNCTION, Fault, Limits, Outcome, Rows, call_function
from weak_labels.functions.loader import load_functions
from weak_labels.functions.types import ItemBatch, LabelingFunction

_ALIVE_EVERY_S = 0.5


class Worker:
    """The parent's side: starts the process, sends batches, calls functions, ends what hangs. A context manager.

    Args:
        path: file of labeling functions.
        classes: class names.
        versions: version of each function as this process loaded it.
        timeout_s: seconds for one call.

    Raises:
        SettingsError: the file was changed after this process loaded it.
    """

    def __init__(self, path: Path, classes: Sequence[str], versions: dict[str, str], timeout_s: float) -> None:
        self._hello = {"path": str(path), "classes": list(classes), "timeout_s": timeout_s}
        self._versions = versions
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection[Any, Any] | None = None
        self._batch: bytes = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def send(self, batch: ItemBatch, *, with_vectors: bool) -> None:
        """Give the process the items that the next calls are about."""
        self._batch = _to_bytes(batch, with_vectors=with_vectors)
        if self._process is None:
            return
        try:
            self._say({"do": "batch"}, self._batch)
        except ConnectionError:
            self._end()  # it died after its last answer; the next call starts another one with this batch

    def call(self, function: LabelingFunction, rows: Rows, limits: Limits) -> Outcome:
        """Call a function on some rows of the batch; see `call_function`."""
        missing = np.full(len(rows), MISSING, np.int32)
        timeout_s = self._timeout_s if function.timeout_s is None else function.timeout_s
        try:
            if self._process is None:
                self._start()
            limit = {"max_faults": limits.max_faults, "max_timeouts": limits.max_timeouts}
            self._say({"do": "call", "function": function.name, **limit}, rows.astype(np.int64).tobytes())
            while True:
                # The process breaks off a call by itself; twice the time without a sign of life means it cannot.
                answer = self._hear(2 * timeout_s + 1)
                if answer is None:
                    self._end()
                    detail = f"took longer than {timeout_s:g} s and could not be broken off"
                    return Outcome(missing, [Fault(WHOLE_FUNCTION, "timeout", detail)])
                if "votes" in answer:
                    faults = [Fault(*fault) for fault in answer["faults"]]
                    return Outcome(np.frombuffer(self._connection_bytes(), np.int32), faults)
        except (EOFError, ConnectionError):
            code = self._end()
            detail = f"the process that ran it ended (exit code {code})"
            return Outcome(missing, [Fault(WHOLE_FUNCTION, "raised", detail)])

    def _start(self) -> None:
        ours, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "weak_labels.applying.worker", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self._connection = ours
        self._say(self._hello)
        answer = self._hear(None) or {}
        if "error" in answer:
            self._end()
            raise SettingsError(answer["error"])
        changed = [name for name, version in self._versions.items() if answer["versions"].get(name) != version]
        if changed:
            self._end()
            raise SettingsError(
                f"{self._hello['path']}: '{changed[0]}' has another version in a fresh process than in this one. The "
                "file, or a module it imports, was changed in the meantime: run again, in a notebook with a new "
                "kernel. If it happens every time, the function refers to a value that is made anew on each import, "
                "such as a random number or the time."
            )
        self._say({"do": "batch"}, self._batch)

    def _say(self, message: dict[str, Any], payload: bytes | None = None) -> None:
        assert self._connection is not None
        self._connection.send_bytes(json.dumps(message).encode())
        if payload is not None:
            self._connection.send_bytes(payload)

    def _hear(self, timeout_s: float | None) -> dict[str, Any] | None:
        assert self._connection is not None
        if not self._connection.poll(timeout_s):
            return None
        return json.loads(self._connection.recv_bytes())

    def _connection_bytes(self) -> bytes:
        assert self._connection is not None
        return self._connection.recv_bytes()

    def _end(self) -> int | None:
        if self._process is None or self._connection is None:
            return None
        self._connection.close()
        try:
            self._process.wait(timeout=0.5)  # it ends by itself when it hears nothing more
        except subprocess.TimeoutExpired:
            self._process.kill()
        code = self._process.wait()
        self._process = self._connection = None
        return code


def _to_bytes(batch: ItemBatch, *, with_vectors: bool) -> bytes:
    columns: dict[str, pa.Array] = {
        "item_id": batch.id_array,
        "text": batch.text_array,
        "metadata": batch.metadata_array,
    }
    if with_vectors:
        columns["vector"] = matrix_to_list_array(batch.vectors)
    table = pa.table(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _from_bytes(data: bytes, classes: Sequence[str]) -> ItemBatch:
    table = pa.ipc.open_stream(data).read_all().combine_chunks()
    columns = {name: table.column(name) for name in table.column_names}
    vectors = list_column_to_matrix(columns["vector"], what="vector") if "vector" in columns else None
    return ItemBatch(
        item_ids=_one_chunk(columns["item_id"]),
        texts=_one_chunk(columns["text"]),
        metadata=_one_chunk(columns["metadata"]),
        classes=classes,
        vectors=vectors,
    )


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def main() -> None:
    """The process: load the file, then answer calls until the parent closes the socket."""
    os.dup2(2, 1)  # what functions print must not mix with what a command prints
    threading.Thread(target=_leave_with_parent, args=(os.getppid(),), daemon=True).start()
    with Connection(int(sys.argv[1])) as connection:
        try:
            _answer(connection)
        except (EOFError, ConnectionError):
            return


def _answer(connection: "Connection[Any, Any]") -> None:
    hello = json.loads(connection.recv_bytes())
    try:
        functions = {f.name: f for f in load_functions(Path(hello["path"]), hello["classes"])}
    except SettingsError as error:
        connection.send_bytes(json.dumps({"error": str(error)}).encode())
        return
    connection.send_bytes(json.dumps({"versions": {n: f.version for n, f in functions.items()}}).encode())
    batch: ItemBatch | None = None
    spoken = time.monotonic()

    def alive() -> None:
        nonlocal spoken
        if time.monotonic() - spoken > _ALIVE_EVERY_S:
            connection.send_bytes(b"{}")
            spoken = time.monotonic()

    while True:
        message = json.loads(connection.recv_bytes())
        if message["do"] == "batch":
            batch = _from_bytes(connection.recv_bytes(), hello["classes"])
            continue
        assert batch is not None, "the parent sends a batch before it calls"
        limits = Limits(
            timeout_s=hello["timeout_s"], max_faults=message["max_faults"], max_timeouts=message["max_timeouts"]
        )
        part = batch.take(np.frombuffer(connection.recv_bytes(), np.int64))
        outcome = call_function(functions[message["function"]], part, limits, alive)
        faults = [[fault.row, fault.fault, fault.detail] for fault in outcome.faults]
        connection.send_bytes(json.dumps({"votes": len(outcome.votes), "faults": faults}).encode())
        connection.send_bytes(outcome.votes.tobytes())


def _leave_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    main()
