"""Memory that a load left behind goes back to the system when the server is quiet."""

import gc
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
