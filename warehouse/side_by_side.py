"""Work on many rows, part by part on all cores: the parts are the same on any number of them, so the bits are too.

Threads serve, for numpy and BLAS let others run while they work; a product inside should be held to one thread.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from warehouse.cores import cores

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
