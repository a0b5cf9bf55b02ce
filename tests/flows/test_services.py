"""One process in the background: what it leaves when it is killed is ended by `stop`, and nothing else is."""

import os
import signal
import subprocess
import time
from pathlib import Path

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
