"""The process of Python functions may end at any time, such as between two batches: the votes are cast all the same."""

import os
import signal
import time
from pathlib import Path

import numpy as np

from tests.weak_labels.lf_helpers import CLASSES, batch, write_functions
from weak_labels.applying.worker import Worker
from weak_labels.functions.call import Limits
from weak_labels.functions.loader import load_functions

SOURCE = """
from weak_labels import vectorized

@vectorized()
def politics(batch):
    return [1 for _ in batch.texts]
"""


def children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()]


def is_over(process: int) -> bool:
    """Whether all threads of a process ended, and with the last one its end of the socket."""
    threads = list(Path(f"/proc/{process}/task").iterdir())
    return len(threads) == 1 and (threads[0] / "stat").read_text().rpartition(") ")[2][0] == "Z"


def test_a_process_that_died_between_two_batches_is_started_again(tmp_path: Path) -> None:
    (function,) = load_functions(write_functions(tmp_path, SOURCE), CLASSES)
    assert function.source is not None
    known = set(children())
    with Worker(function.source, CLASSES, {function.name: function.version}, 10.0) as worker:
        limits = Limits(timeout_s=10.0, max_faults=1, max_timeouts=1)
        for texts in (["a"], ["b", "c"]):
            worker.send(batch(texts), with_vectors=False)
            outcome = worker.call(function, np.arange(len(texts)), limits)
            assert outcome.votes.tolist() == [1] * len(texts)
            assert not outcome.faults
            (process,) = set(children()) - known
            os.kill(process, signal.SIGKILL)
            while not is_over(process):
                time.sleep(0.01)
