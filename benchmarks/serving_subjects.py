"""The servers that are compared, each a process on loopback: ours, padded static batches, infinity."""

import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import httpx

from benchmarks.engine_data import ROOT
from engine.weights.shipped import MINILM

PEERS = ROOT / ".venv-peers-serving"
PEER_PACKAGES = ("infinity-emb[torch,server]==0.0.78",)
START_S = 180.0
_ADDRESS = re.compile(r"listens on http://127\.0\.0\.1:(\d+)")


@dataclass(frozen=True, slots=True)
class Served:
    """A running server. Attributes: name; process; port; path of OpenAI's schema; model to name; start in seconds."""

    name: str
    process: "subprocess.Popen[str]"
    port: int
    path: str
    model: str
    start_s: float

    def memory_mib(self, what: str = "VmRSS") -> float:
        """Resident memory now, or its peak ("VmHWM")."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(rf"{what}:\s+(\d+)", status)[0]) / 1024


def ours_command(encoder: str, precision: str, *options: str, max_tokens: int = 256) -> list[str]:
    """The command of our server on a free port."""
    command = [sys.executable, "-m", "flows.cli.main", "engine", "serve", "--port", "0", "--encoder", encoder]
    return [*command, "--precision", precision, "--max-tokens", str(max_tokens), *options]


@contextmanager
def ours(name: str, command: Sequence[str], *, model: str, threads: int = 1) -> Generator[Served]:
    """A server that prints its address, up to its first answer; it is gone after the block."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads)}
    environment.pop("SIFTLINE_ENGINE_KEY", None)
    began = time.monotonic()
    with _process(command, environment, cwd=ROOT) as (process, lines):
        while True:
            line = lines.get(timeout=START_S)
            if line is None:
                raise RuntimeError(f"{name} ended before it listened: {' '.join(command)}")
            if found := _ADDRESS.search(line):
                port = int(found[1])
                break
        path = "/v1/embeddings"
        httpx.post(f"http://127.0.0.1:{port}{path}", json={"input": "Are you there?"}, timeout=60).raise_for_status()
        yield Served(name, process, port, path, model, time.monotonic() - began)


def make_peers() -> str | None:
    """Install infinity in an environment of its own, once; returns why that did not work."""
    if not (PEERS / ".done").exists():
        for command in (
            [sys.executable, "-m", "venv", str(PEERS)],
            [str(PEERS / "bin" / "pip"), "install", "--quiet", *PEER_PACKAGES],
        ):
            ended = subprocess.run(command, capture_output=True, text=True, check=False)
            if ended.returncode:
                return f"{command[-1]} cannot be installed: {ended.stderr.strip()[-300:]}"
        (PEERS / ".done").touch()
    return None


@contextmanager
def infinity(*, threads: int, device: str = "cpu", port: int = 18_997) -> Generator[Served]:
    """infinity with torch on the very same model files, no network."""
    spec = find_spec(MINILM.module)
    assert spec is not None
    assert spec.submodule_search_locations
    model = str(Path(next(iter(spec.submodule_search_locations))) / "model")
    command = [str(PEERS / "bin" / "infinity_emb"), "v2", "--model-id", model, "--engine", "torch", "--device", device]
    command += ["--dtype", "float32", "--port", str(port), "--host", "127.0.0.1", "--url-prefix", "/v1"]
    command += ["--served-model-name", "dense", "--no-bettertransformer", "--no-model-warmup"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
    environment |= {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": ""}
    began = time.monotonic()
    with _process(command, environment, cwd=ROOT) as (process, lines):
        url = f"http://127.0.0.1:{port}/v1/embeddings"
        while True:
            if process.poll() is not None:
                said = "".join(line or "" for line in list(lines.queue))[-1500:]
                raise RuntimeError(f"infinity ended before it listened: {said}")
            try:
                httpx.post(url, json={"input": ["x"], "model": "dense"}, timeout=5).raise_for_status()
                break
            except httpx.HTTPError as error:
                if time.monotonic() - began > START_S:
                    raise RuntimeError(f"infinity does not answer: {error}") from error
                time.sleep(0.1)
        yield Served("infinity", process, port, "/v1/embeddings", "dense", time.monotonic() - began)


@contextmanager
def _process(
    command: Sequence[str], environment: dict[str, str], cwd: Path
) -> Generator[tuple["subprocess.Popen[str]", "queue.Queue[str | None]"]]:
    process = subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    try:
        yield process, lines
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(15)
