"""Products of matrices on one core while a block works: equal bits on any number of cores, and no waiting for a second.

What threadpoolctl sets for BLAS is the whole process's, and each of its blocks puts back what it found. Of two threads
that were in such blocks at once, one may have found the other's limit: the process kept it to its end, and what the
first one left behind computed on all cores. So here the first one in sets it, and the last one out puts it back.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import pyarrow.compute
from threadpoolctl import LibController, ThreadpoolController

_lock = threading.Lock()
_inside = 0
_found: dict[str, tuple[LibController, int]] = {}
"""By file, each library and its number of threads before; one that is loaded later comes with who is next in."""


@contextmanager
def one_core() -> Generator[None]:
    """Use one thread of BLAS in this block, and no more in blocks of other threads; of OpenMP in this thread."""
    global _inside
    controller = ThreadpoolController()
    with _lock:
        for library in controller.select(user_api="blas").lib_controllers:
            known = library.info()
            if known["internal_api"] == "openblas" and known.get("threading_layer") == "openmp":
                continue  # it has the number of OpenMP, of which each thread has its own
            if library.filepath not in _found and (number := library.num_threads):
                _found[library.filepath] = library, number
                _set(library, 1)
        _inside += 1
    try:
        with controller.select(user_api="openmp").limit(limits=1):
            yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                for library, number in _found.values():
                    _set(library, number)
                _found.clear()


def _set(library: LibController, number: int) -> None:
    """Since 3.8 threadpoolctl heeds, of all threads that live, only the one that set a limit first."""
    getattr(library, "_real_set_num_threads", library.set_num_threads)(number)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


T = TypeVar("T")


def side_by_side(work: Callable[[slice], T], count: int, step: int) -> Iterator[T]:
    """What some work gives for each part of so many rows, in order; few parts wait for the caller at a time.

    Args:
        work: is called with the rows of a part, in a thread of its own.
        count: rows.
        step: rows of a part, 1 or more.

    Raises:
        whatever `work` raises, for the first part where it does.
    """
    with ThreadPoolExecutor(cores()) as pool:
        begun: deque[Future[T]] = deque()
        for start in range(0, count, step):
            begun.append(pool.submit(work, slice(start, min(count, start + step))))
            if len(begun) > 2 * cores():
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()


pc: Any = pyarrow.compute
