"""Memory that a load left behind goes back to the system when the server is quiet."""

import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from engine.serving import memory
from tests.engine.test_every_status_is_produced import broken_encoder
from tests.engine_servers import post, server_thread

PIECE_BYTES, PIECES = 8 << 10, 6000
needs_glibc = pytest.mark.skipif(memory._trim() is None, reason="needs glibc")  # pyright: ignore[reportPrivateUsage]


def left_behind() -> list[object]:
    """What stays of 48 MiB in pieces: every 16th, so that the rest is free memory between memory in use."""
    pieces: list[object] = [bytearray(PIECE_BYTES) for _ in range(PIECES)]
    kept = pieces[::16]
    pieces.append(pieces)  # a cycle: only the collector frees them
    return kept


def grown_from_now() -> Callable[[], int]:
    """Bytes of memory that came since now; what was free before is gone, and would else be used first."""
    before = memory.trimmed_bytes()
    return lambda: memory.resident_bytes() - before


def wait_until_back(grown: Callable[[], int], most: int) -> None:
    """Wait until less than a part of it is there."""
    end = time.monotonic() + 15
    while grown() > 0.3 * most:
        assert time.monotonic() < end, f"{grown() >> 20} of {most >> 20} MiB are still there"
        time.sleep(0.05)


@needs_glibc
def test_a_quiet_server_gives_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "LOOK_S", 0.05)
    with server_thread(broken_encoder()) as server:
        grown = grown_from_now()
        gc.disable()
        try:
            server.service.in_progress += 1
            kept = left_behind()
            time.sleep(0.5)
            most = grown()
            assert most > 0.8 * PIECE_BYTES * PIECES, "a busy server is left alone"
            server.service.in_progress -= 1
            wait_until_back(grown, most)
        finally:
            gc.enable()
        assert len(kept) == PIECES // 16
        assert post(server.url, inputs="bank trade").status_code == 200


@needs_glibc
def test_memory_that_the_first_look_found_in_use_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with thousands of connections that come before the first request, and end when the server is quiet."""
    monkeypatch.setattr(memory, "LOOK_S", 0.05)
    with server_thread(broken_encoder()):
        grown = grown_from_now()
        pieces = [bytearray(PIECE_BYTES) for _ in range(PIECES)]
        time.sleep(0.5)
        most = grown()
        kept = pieces[::16]
        del pieces
        wait_until_back(grown, most)
        assert len(kept) == PIECES // 16


SMALL_OBJECTS = """
import ctypes, os
from pathlib import Path
from engine.serving.memory import use_systems_allocator

use_systems_allocator()
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
before = resident()
objects = [str(number).encode() * 8 for number in range(500_000)]
grown = resident() - before
kept, objects = objects[::2000], None
ctypes.CDLL(None).malloc_trim(0)
print(os.getpid(), (resident() - before) / grown)
"""


@needs_glibc
@pytest.mark.parametrize(("given", "most", "least"), [({}, 0.3, 0.0), ({"PYTHONMALLOC": "pymalloc"}, 1.5, 0.5)])
def test_small_objects_go_back_too(given: dict[str, str], most: float, least: float) -> None:
    """One of 2,000 stays: with Python's own allocator it holds nearly all of the memory; who names one gets it."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONMALLOC"} | given
    command = [sys.executable, "-c", SMALL_OBJECTS]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    said, _ = process.communicate(timeout=60)
    pid, left = said.split()
    assert int(pid) == process.pid, "whoever started the server knows it by this number"
    assert least <= float(left) <= most
