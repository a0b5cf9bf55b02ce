"""The servers that are compared, each a process on loopback: ours, padded static batches, infinity."""

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.harness import ROOT, peer_python
from engine.weights.shipped import MINILM, package_folder

START_S = 180.0
PATH = "/v1/embeddings"


@dataclass(frozen=True, slots=True)
class Served:
    """A running server. Attributes: its process and port; the model to name; seconds to its first answer."""

    process: "subprocess.Popen[bytes]"
    port: int
    model: str
    start_s: float

    def memory_mib(self, what: str = "VmRSS") -> float:
        """Resident memory now, or its peak ("VmHWM")."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(rf"{what}:\s+(\d+)", status)[0]) / 1024


def ours_command(encoder: str, precision: str, *options: str, max_tokens: int = 256) -> list[str]:
    """The command of our server."""
    command = [sys.executable, "-m", "flows.cli.main", "engine", "serve", "--encoder", encoder]
    return [*command, "--precision", precision, "--max-tokens", str(max_tokens), *options]


@contextmanager
def server(
    command: Sequence[str], *, model: str, threads: int = 1, settings: Mapping[str, str] | None = None
) -> Generator[Served]:
    """A server on a free port, up to its first answer; it is gone after the block.

    Raises:
        RuntimeError: it ended, or does not answer.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads), **(settings or {})}
    environment.pop("SIFTLINE_ENGINE_KEY", None)
    began = time.monotonic()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([*command, "--port", str(port)], cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            while not _answers(port, model):
                if process.poll() is not None or time.monotonic() - began > START_S:
                    log.seek(0)
                    words = log.read().decode("utf-8", "replace")[-1500:]
                    raise RuntimeError(f"{' '.join(command)} ended or does not answer: {words}")
                time.sleep(0.005)
            yield Served(process, port, model, time.monotonic() - began)
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(15)


def _answers(port: int, model: str) -> bool:
    with socket.socket() as probe:  # costs less than a whole request, and is asked often
        if probe.connect_ex(("127.0.0.1", port)):
            return False
    try:
        asked = {"input": ["Are you there?"], "model": model}
        return httpx.post(f"http://127.0.0.1:{port}{PATH}", json=asked, timeout=60).is_success
    except httpx.HTTPError:
        return False


@contextmanager
def infinity(*, threads: int, device: str = "cpu") -> Generator[Served]:
    """infinity with torch on the very same model files, no network."""
    program, files = peer_python("serving").with_name("infinity_emb"), package_folder(MINILM)
    command = [str(program), "v2", "--model-id", str(files), "--engine", "torch", "--device", device]
    command += ["--dtype", "float32", "--host", "127.0.0.1", "--url-prefix", "/v1", "--served-model-name", "dense"]
    command += ["--no-bettertransformer", "--no-model-warmup"]
    settings = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0", "PYTHONPATH": ""}
    with server(command, model="dense", threads=threads, settings=settings) as served:
        yield served
