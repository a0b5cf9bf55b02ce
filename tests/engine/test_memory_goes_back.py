"""Memory that a load left behind goes back to the system when the server is quiet."""

import gc
import os
import subprocess
import sys
import time

import pytest

from engine.serving import memory
from tests.engine.test_every_status_is_produced import broken_encoder
from tests.engine_servers import post, server_thread

PIECE_BYTES, PIECES = 8 << 10, 6000


def left_behind() -> list[object]:
    """What stays of 48 MiB in pieces: every 16th, so that the rest is free memory between memory in use."""
    pieces: list[object] = [bytearray(PIECE_BYTES) for _ in range(PIECES)]
    kept = pieces[::16]
    pieces.append(pieces)  # a cycle: only the collector frees them
    return kept


@pytest.mark.skipif(memory._trim() is None, reason="needs glibc")  # pyright: ignore[reportPrivateUsage]
def test_a_quiet_server_gives_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "LOOK_S", 0.05)
    resident = memory._resident_bytes  # pyright: ignore[reportPrivateUsage]
    trim = memory._trim()  # pyright: ignore[reportPrivateUsage]
    assert trim is not None
    with server_thread(broken_encoder()) as server:
        gc.collect()
        trim(0)  # what earlier tests left free would be used first
        gc.disable()
        try:
            before = resident()
            server.service.in_progress += 1
            kept = left_behind()
            time.sleep(0.5)
            grown = resident() - before
            assert grown > 0.8 * PIECE_BYTES * PIECES, "a busy server is left alone"
            server.service.in_progress -= 1
            end = time.monotonic() + 10
            while resident() - before > 0.3 * grown:
                assert time.monotonic() < end, f"{(resident() - before) >> 20} of {grown >> 20} MiB are still there"
                time.sleep(0.05)
        finally:
            gc.enable()
        assert len(kept) == PIECES // 16
        assert post(server.url, inputs="bank trade").status_code == 200


@pytest.mark.skipif(memory._trim() is None, reason="needs glibc")  # pyright: ignore[reportPrivateUsage]
def test_memory_that_the_first_look_found_in_use_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with thousands of connections that come before the first request, and end when the server is quiet."""
    monkeypatch.setattr(memory, "LOOK_S", 0.05)
    resident = memory._resident_bytes  # pyright: ignore[reportPrivateUsage]
    trim = memory._trim()  # pyright: ignore[reportPrivateUsage]
    assert trim is not None
    gc.collect()
    trim(0)
    with server_thread(broken_encoder()):
        before = resident()
        pieces = [bytearray(PIECE_BYTES) for _ in range(PIECES)]
        time.sleep(0.5)
        grown = resident() - before
        kept = pieces[::16]
        del pieces
        end = time.monotonic() + 15
        while resident() - before > 0.3 * grown:
            assert time.monotonic() < end, f"{(resident() - before) >> 20} of {grown >> 20} MiB are still there"
            time.sleep(0.05)
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


@pytest.mark.skipif(memory._trim() is None, reason="needs glibc")  # pyright: ignore[reportPrivateUsage]
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
