"""A process in the background: what a killed one leaves, who finds it, and what is not taken for it."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from flows.servers.background import MARK, Background
from flows.servers.processes import start_time
from tests.prefect_runs import wait_for
from tests.projects import ROOT
from warehouse import ServiceError, SettingsError


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


def test_one_that_was_gone_before_its_start_time_was_read_does_not_run(tmp_path: Path) -> None:
    gone = subprocess.Popen(["/bin/true"])
    gone.wait()
    record = tmp_path / "services" / "deployments.json"
    record.parent.mkdir()
    record.write_text(f'{{"pid": {gone.pid}, "started": 0, "url": ""}}')
    service = Background("deployments", tmp_path, patience_s=20.0)
    assert service.status() is None
    assert not service.stop()
    last = service.last()
    assert last is not None
    with pytest.raises(ServiceError, match="deployments ended while it started: its log is gone"):
        service.await_ready(last, lambda: False)


def test_one_that_ends_while_it_starts_is_told_with_its_last_words(tmp_path: Path) -> None:
    service = Background("engine", tmp_path, patience_s=20.0)
    with pytest.raises(ServiceError, match="engine ended while it started: no such model"):
        service.start(["/bin/sh", "-c", "echo no such model"], {}, url="", ready=lambda: False)


def test_what_answers_at_the_port_of_one_that_starts_may_be_anothers(tmp_path: Path) -> None:
    service = Background("engine", tmp_path, patience_s=0.5)
    with socket.create_server(("127.0.0.1", 0)) as other:
        url = f"http://127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(ServiceError, match="engine was not ready within 0 s and was stopped"):
            service.start(["/bin/sleep", "300"], {}, url=url, ready=lambda: True)
    assert service.status() is None


def test_a_copied_project_leaves_the_processes_of_the_first_one_alone_and_a_moved_one_keeps_its_own(
    tmp_path: Path,
) -> None:
    first = Background("deployments", tmp_path / "first" / ".siftline")
    running = first.start(["/bin/sleep", "300"], dict(os.environ), url="", ready=lambda: True)
    try:
        shutil.copytree(tmp_path / "first", tmp_path / "copy")
        copy = Background("deployments", tmp_path / "copy" / ".siftline")
        assert copy.last() == running
        assert copy.status() is None
        assert not copy.stop()
        (tmp_path / "link").symlink_to(tmp_path / "first")
        assert first.status() == Background("deployments", tmp_path / "link" / ".siftline").status() == running
        (tmp_path / "first").rename(tmp_path / "moved")
        assert Background("deployments", tmp_path / "moved" / ".siftline").stop()
        assert start_time(running.pid) != running.started
    finally:
        if start_time(running.pid) == running.started:
            os.kill(running.pid, signal.SIGKILL)


def test_a_process_whose_starter_is_killed_before_it_is_written_down_does_nothing_and_ends(tmp_path: Path) -> None:
    """Else the next `up` starts a second one beside it, and no `down` finds the first."""
    code = """
        import os, signal, sys
        from pathlib import Path
        from flows.servers.processes import spawn

        def record(pid, started):
            print(pid, started, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

        spawn(["/bin/sh", "-c", "echo it works"], dict(os.environ), Path(sys.argv[1]), record)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), tmp_path / "log"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    pid, started = map(int, ended.stdout.split())
    wait_for(lambda: start_time(pid) != started)
    assert (tmp_path / "log").read_text() == ""


def test_a_process_that_cannot_be_written_down_is_not_left_running(tmp_path: Path) -> None:
    record = tmp_path / "services" / "deployments.json"
    record.mkdir(parents=True)
    with pytest.raises(SettingsError, match=r"deployments\.json cannot be written"):
        Background("deployments", tmp_path).start(["/bin/sleep", "300"], {}, url="", ready=lambda: True)
    mark = f"{MARK}={record}".encode()

    def left() -> list[Path]:
        found: list[Path] = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (folder / "environ").read_bytes():
                    found.append(folder)
        return found

    wait_for(lambda: not left())
