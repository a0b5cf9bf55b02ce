"""Whether a figure of a long run grows: memory, open files, files on the disk, judged by slopes and not by two ends."""

import os
import statistics
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.harness import Figures

GROWTH_FRAC = 0.1
"""Growth over 100 cycles, as a share of the median, that still counts as none."""
FEWEST_POINTS = 8
SHOWN_POINTS = 50
"""Series of one life are kept in so many points or fewer: a slope tells neither a saw-tooth nor a level from growth."""
WARM_CYCLES = 10
"""Cycles of each life that are left out: caches and pools fill in each process anew."""
SHORTEST = 5
"""Cycles between two points whose slope counts; noise rules what is closer."""


@dataclass(slots=True)
class Series:
    """A figure by cycle, of one process or of one place after another.

    Attributes:
        points: cycle, life (which process: their levels differ), value.
        limit: what it may not exceed, where that is known: then its slope says nothing.
    """

    points: list[tuple[int, int, float]] = field(default_factory=list[tuple[int, int, float]])
    limit: float | None = None

    def note(self, cycle: int, value: float | None, life: int = 0) -> None:
        """Keep a value, if there is one."""
        if value is not None:
            self.points.append((cycle, life, value))

    def judged(self) -> Figures:
        """First and last value, and the growth over 100 cycles by the median of all slopes within one life.

        The first tenth is left out, and of each life the first `WARM_CYCLES`.
        """
        if not self.points:
            return {}
        values = [value for _, _, value in self.points]
        began = {life: cycle for cycle, life, _ in reversed(self.points)}
        found: Figures = {"first": round(values[0], 1), "last": round(values[-1], 1), "points": len(values)}
        if len(began) == 1:
            found["values"] = [round(value, 1) for value in values[:: -(-len(values) // SHOWN_POINTS)]]
        late = self.points[len(self.points) // 10 :]
        kept = [point for point in late if len(began) == 1 or point[0] - began[point[1]] >= WARM_CYCLES]
        slopes = [
            (b[2] - a[2]) / (b[0] - a[0])
            for at, a in enumerate(kept)
            for b in kept[at + 1 :]
            if a[1] == b[1] and b[0] - a[0] >= SHORTEST
        ]
        if len(kept) >= FEWEST_POINTS and slopes:
            growth = 100 * float(np.median(slopes))
            found |= {"per_100_cycles": round(growth, 2), "bounded": growth <= GROWTH_FRAC * statistics.median(values)}
        if self.limit is not None:
            found |= {"limit": self.limit, "most": max(values), "bounded": max(values) <= self.limit}
        return found


def memory_mib(pid: int) -> float | None:
    """Resident memory of a process; None when it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def open_files(pid: int) -> int | None:
    """Files that a process holds open; None when it has ended."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return None
