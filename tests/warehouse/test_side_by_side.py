"""Work on all cores: parts in order, the same on any number of cores, and few that wait for the caller."""

import threading

import numpy as np
import pytest

from warehouse import numeric as module
from warehouse.numeric import side_by_side


@pytest.mark.parametrize("cores", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 10, 11, 100])
def test_parts_come_in_order_on_any_number_of_cores(cores: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cores", lambda: cores)
    parts = list(side_by_side(lambda part: part, count, 10))
    assert parts == [slice(start, min(start + 10, count)) for start in range(0, count, 10)]


def test_a_part_that_is_slow_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cores", lambda: 2)
    second = threading.Event()

    def work(part: slice) -> int:
        if part.start == 0:
            assert second.wait(60)  # the first ends after the second, which therefore runs beside it
        else:
            second.set()
        return part.start

    assert list(side_by_side(work, 20, 10)) == [0, 10]


def test_few_parts_wait_for_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cores", lambda: 2)
    begun: list[int] = []
    found = side_by_side(lambda part: begun.append(part.start), 1000, 1)
    next(found)
    assert len(begun) <= 5
    assert len(list(found)) == 999


def test_a_part_that_fails_ends_the_work() -> None:
    def work(part: slice) -> float:
        return float(np.arange(part.start, part.stop)[3])

    with pytest.raises(IndexError):
        list(side_by_side(work, 12, 5))
