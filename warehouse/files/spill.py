"""Where a DuckDB of this process puts what its memory does not hold: a place of its own, closed to other users.

By itself DuckDB takes `.tmp` in the current folder, whoever else does: two processes that were called in one folder and
spill at once write into the same files, and crash; and what they write there others may read.
"""

import atexit
import functools
import itertools
import os
from contextlib import ExitStack
from pathlib import Path

from warehouse.files.scratch import roomy_folder, scratch_folder

PREFIX = "siftline-spill-"
_numbers = itertools.count()


def spill_place() -> str:
    """A place that no other DuckDB has, which makes and removes the folder there itself; "" where there is none.

    With "" for its `temp_directory` a DuckDB spills nothing.
    """
    try:
        return str(_folder(os.getpid()) / str(next(_numbers)))
    except OSError:  # a temporary folder that is full, or in which nobody may write
        return ""


@functools.cache
def _folder(pid: int) -> Path:
    """The folder of this process, until its end; what a killed one left goes with the next."""
    stack = ExitStack()
    folder = stack.enter_context(scratch_folder(Path(roomy_folder()), PREFIX))

    def remove() -> None:
        if os.getpid() == pid:  # a process that was forked has one of its own
            stack.close()

    atexit.register(remove)
    return folder
