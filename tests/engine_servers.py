"""Real engine servers on loopback for tests: a process of `siftline engine serve`, or a thread around any encoder."""

import os
import queue
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from engine.runtime.local import LocalEncoder
from engine.serving.app import Service
from engine.serving.config import ServerConfig
from engine.serving.connection import listen
from engine.serving.run import Server
from tests.projects import ROOT

WAIT_S = 60.0
_ADDRESS = re.compile(r"listens on (http://\S+)")


@dataclass
class ServerProcess:
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    url: str
    lines: list[str]

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def memory_mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024


@contextmanager
def server_process(*options: str, key: str | None = None) -> Generator[ServerProcess]:
    """`siftline engine serve` on a free port; it is gone at the end of the block."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("SIFTLINE_ENGINE_KEY", None)
    if key is not None:
        environment["SIFTLINE_ENGINE_KEY"] = key
    command = [sys.executable, "-m", "flows.cli.main", "engine", "serve", "--port", "0", *options]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    lines: list[str] = []
    arrived: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            arrived.put(line)
        arrived.put(None)

    threading.Thread(target=read, daemon=True).start()
    try:
        while True:
            line = arrived.get(timeout=WAIT_S)
            assert line is not None, f"the server ended: {''.join(lines)}"
            if found := _ADDRESS.search(line):
                break
        yield ServerProcess(process, found[1], lines)
    finally:
        process.kill()
        process.wait(WAIT_S)


@dataclass
class ServerThread:
    """A server in this process, around any encoder."""

    url: str
    service: Service
    server: Server
    thread: threading.Thread

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])


@contextmanager
def server_thread(
    encoder: LocalEncoder, config: ServerConfig | None = None, **about: object
) -> Generator[ServerThread]:
    """The application behind a real socket."""
    config = config or ServerConfig()
    service = Service(encoder, config, {"name": "tiny", **about})
    listener = listen("127.0.0.1", 0)
    server = Server(service, lambda _: None)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    end = time.monotonic() + WAIT_S
    while not server.started and time.monotonic() < end:
        time.sleep(0.005)
    try:
        yield ServerThread(f"http://127.0.0.1:{listener.getsockname()[1]}", service, server, thread)
    finally:
        server.should_exit = True
        thread.join(WAIT_S)


@pytest.fixture(scope="session")
def engine_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server with the dense encoder for all tests that leave it as it was."""
    with server_process("--encoder", "dense", "--max-tokens", "64", "--threads", "2") as server:
        yield server


def raw_request(port: int, content: bytes, *, timeout_s: float = WAIT_S, close_early: bool = False) -> bytes:
    """What the server answers to these bytes, until it closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(content)
        if close_early:
            return b""
        parts: list[bytes] = []
        while part := connection.recv(65536):
            parts.append(part)
        return b"".join(parts)


def post(url: str, path: str = "/embed", key: str | None = None, **fields: object) -> httpx.Response:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return httpx.post(url + path, json=fields, headers=headers, timeout=WAIT_S)
