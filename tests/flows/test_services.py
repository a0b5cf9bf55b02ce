"""Processes in the background: what one leaves when it is killed is ended by `stop`, and it gets its port again."""

import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from flows import ports
from flows.processes import start_time
from flows.services import Background


def test_what_a_killed_service_left_is_stopped(tmp_path: Path) -> None:
    children = tmp_path / "children"
    service = Background("deployments", tmp_path)
    script = f"sleep 300 & echo $! > {children}.part; mv {children}.part {children}; wait"
    running = service.start(["/bin/sh", "-c", script], dict(os.environ), url="", ready=children.exists)
    child = int(children.read_text())
    began = start_time(child)
    assert began
    os.kill(running.pid, signal.SIGKILL)
    while start_time(running.pid) == running.started:
        time.sleep(0.01)
    assert start_time(child) == began, "it outlives the process that started it"

    assert service.stop()
    deadline = time.monotonic() + 10
    while start_time(child) == began and time.monotonic() < deadline:
        time.sleep(0.01)
    assert start_time(child) != began
    assert not service.stop(), "nothing is left"


def test_a_stranger_with_the_former_number_is_left_alone(tmp_path: Path) -> None:
    stranger = subprocess.Popen(["/bin/sleep", "300"], start_new_session=True)
    service = Background("deployments", tmp_path)
    try:
        record = tmp_path / "services" / "deployments.json"
        record.parent.mkdir()
        record.write_text(f'{{"pid": {stranger.pid}, "started": 1, "url": ""}}')
        assert service.status() is None
        assert not service.stop()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_port_that_is_held_for_a_moment_is_waited_for() -> None:
    holder = socket.socket()
    holder.bind(("127.0.0.1", 0))
    holder.listen()
    former = holder.getsockname()[1]
    assert not ports.is_free(former)
    threading.Timer(0.5, holder.close).start()
    assert ports.pick_port(former + 1, former=former) == former


def test_a_port_that_another_keeps_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "PORT_TIMEOUT_S", 0.3)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        former = holder.getsockname()[1]
        assert ports.pick_port(20_000, former=former) != former
