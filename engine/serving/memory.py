"""Memory that goes back to the system when a load is over.

A storm of connections leaves the allocator with tens of MiB in pieces that nobody uses, and dead cycles of objects that
the collector would find an hour later. Both are given back once the server is quiet, when nobody waits for it. Python's
own allocator keeps a MiB for one small object in it, so the server does without it.
"""

import asyncio
import ctypes
import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path

LOOK_S = 1.0
QUIET_LOOKS = 3
"""So many looks in a row must find the server idle."""
GROWN_BYTES = 16 << 20
"""Less is not worth the milliseconds, and is needed again for the next request."""
_STATM = Path("/proc/self/statm")
_ALLOCATOR = "PYTHONMALLOC"


def use_systems_allocator() -> None:
    """Start this process anew, with the same arguments, without Python's own allocator, which is chosen at start only.

    Returns where that is so already, where `PYTHONMALLOC` says what it shall be, and where the system has no glibc.
    """
    if _ALLOCATOR not in os.environ and _trim() is not None:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, _ALLOCATOR: "malloc"})  # noqa: S606 - this very program


def settle() -> None:
    """Leave what start-up made out of all later collections: it stays to the end, and a collection stops requests."""
    gc.collect()
    gc.freeze()


def trimmed_bytes() -> int:
    """Memory in use, in bytes, once what nobody needs has gone back; 0 where the system does not say."""
    gc.collect()
    if (trim := _trim()) is not None:
        trim(0)
    return resident_bytes()


async def watch(busy: Callable[[], bool], at_start: int) -> None:
    """Give memory back whenever the server is quiet with much more of it than at its start.

    It looks again later and later: connections that end while it is quiet leave memory too. Does nothing where the
    system has no glibc.

    Args:
        busy: requests are in progress.
        at_start: `trimmed_bytes` before the first connection could come.
    """
    trim = _trim()
    if trim is None:
        return
    least, quiet, due = at_start, 0, QUIET_LOOKS
    while True:
        await asyncio.sleep(LOOK_S)
        if busy():
            quiet, due = 0, QUIET_LOOKS
            continue
        quiet += 1
        if quiet < due:
            continue
        due *= 2
        if resident_bytes() > least + GROWN_BYTES:
            gc.collect()
            await asyncio.to_thread(trim, 0)
            least = min(least, resident_bytes())


def _trim() -> Callable[[int], int] | None:
    """glibc's malloc_trim, which gives whole free pages back; None where there is none."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if _STATM.exists() else None


def resident_bytes() -> int:
    """Memory of this process that is in use, in bytes; 0 where the system does not say."""
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if _STATM.exists() else 0
