"""Clients of a server over plain sockets: arrivals in open loop, thousands at once, slow ones. Loopback only.

Requests are bytes that are made before the clock starts, and an answer is read no further than its status and length,
so that the client costs as little as possible of the machine that it shares with the server. A latency runs from the
moment at which a request was due, not from when it could be sent: a server that lags does not slow its own test down.
"""

import asyncio
import resource
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import orjson

HOST = "127.0.0.1"
NO_ANSWER = 0
"""Status of a request whose connection broke or that was not answered in time."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request. Attributes: status; seconds from when it was due; the answer said when to come back; body."""

    status: int
    seconds: float
    retry_after: bool = False
    body: bytes = b""


@dataclass(slots=True)
class Load:
    """What a load came to. Attributes: outcomes by request; seconds from the first to the last answer."""

    outcomes: list[Outcome]
    seconds: float
    statuses: Counter[int] = field(init=False)

    def __post_init__(self) -> None:
        self.statuses = Counter(outcome.status for outcome in self.outcomes)

    def quantile(self, share: float) -> float:
        """Seconds within which this share of the answered requests had their answer; infinite when none had."""
        answered = [outcome.seconds for outcome in self.outcomes if outcome.status == 200]
        return float(np.quantile(answered, share)) if answered else float("inf")


def request_bytes(path: str, fields: dict[str, object]) -> bytes:
    """A whole POST request."""
    body = orjson.dumps(fields)
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return f"{head}\r\n\r\n".encode() + body


def allow_many_files() -> int:
    """Raise the limit of open files as far as it goes; returns it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


class _Connection:
    """One connection with one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @staticmethod
    async def open(port: int) -> "_Connection":
        return _Connection(*await asyncio.open_connection(HOST, port))

    async def ask(self, request: bytes, due: float, keep_body: bool) -> tuple[Outcome, bool]:
        """The outcome, and whether the connection can be used again."""
        self.writer.write(request)
        head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0]) if b"content-length:" in head else 0
        body = await self.reader.readexactly(length)
        seconds = time.monotonic() - due
        outcome = Outcome(int(head[9:12]), seconds, b"retry-after:" in head, body if keep_body else b"")
        return outcome, b"connection: close" not in head


_Pool = deque[_Connection]


async def _ask(
    pool: _Pool, port: int, request: bytes, due: float, timeout_s: float, *, keep_body: bool = False
) -> Outcome:
    """One request over a free connection of the pool or a new one."""
    connection: _Connection | None = None
    try:
        async with asyncio.timeout(timeout_s):
            connection = pool.popleft() if pool else await _Connection.open(port)
            outcome, again = await connection.ask(request, due, keep_body)
    except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
        outcome, again = Outcome(NO_ANSWER, time.monotonic() - due), False
    if again and connection is not None:
        pool.append(connection)
    elif connection is not None:
        connection.writer.close()
    return outcome


def _close(pool: _Pool) -> None:
    for connection in pool:
        connection.writer.close()


def open_loop(port: int, requests: Sequence[bytes], rate: float, *, seed: int, timeout_s: float = 30.0) -> Load:
    """Requests that come as they come, whatever the server does.

    Args:
        port: of the server.
        requests: what to send, in order.
        rate: requests per second on average; the times between two are exponential (Poisson arrivals).
        seed: fixes the times.
        timeout_s: an answer that takes longer is none.
    """
    gaps_s = np.random.default_rng(seed).exponential(1 / rate, len(requests))
    at_s = np.cumsum(gaps_s) - gaps_s[0]

    async def run() -> Load:
        pool, tasks = _Pool(), list[asyncio.Task[Outcome]]()
        began = time.monotonic() + 0.05
        for request, offset in zip(requests, at_s, strict=True):
            due = began + float(offset)
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            tasks.append(asyncio.create_task(_ask(pool, port, request, due, timeout_s)))
        outcomes = list(await asyncio.gather(*tasks))
        seconds = time.monotonic() - began
        _close(pool)
        return Load(outcomes, seconds)

    return asyncio.run(run())


def closed_loop(
    port: int,
    requests: Sequence[bytes],
    *,
    callers: int,
    pause_s: float = 0.0,
    keep_body: bool = False,
    timeout_s: float = 60.0,
) -> Load:
    """So many callers who each send the next request when they have an answer: what the server does at most."""
    waiting, outcomes = deque(requests), list[Outcome]()

    async def caller() -> None:
        pool = _Pool()
        while waiting:
            due = time.monotonic()
            outcomes.append(await _ask(pool, port, waiting.popleft(), due, timeout_s, keep_body=keep_body))
            await asyncio.sleep(pause_s)
        _close(pool)

    async def run() -> Load:
        began = time.monotonic()
        await asyncio.gather(*(caller() for _ in range(callers)))
        return Load(outcomes, time.monotonic() - began)

    return asyncio.run(run())


def one_by_one(port: int, requests: Sequence[bytes], *, pause_s: float = 0.0, keep_body: bool = False) -> Load:
    """A single caller on one connection, who waits for each answer."""
    return closed_loop(port, requests, callers=1, pause_s=pause_s, keep_body=keep_body)


def storm(port: int, requests: Sequence[bytes], *, over_s: float, timeout_s: float = 60.0, seed: int = 0) -> Load:
    """As many clients as requests, all connected before the first one asks, at random moments within `over_s`."""
    allow_many_files()
    offsets = np.sort(np.random.default_rng(seed).uniform(0, over_s, len(requests)))

    async def run() -> Load:
        gate = asyncio.Semaphore(256)  # connections being made at a time; the kernel's queue of them is finite

        async def connect() -> _Connection | None:
            async with gate:
                try:
                    async with asyncio.timeout(timeout_s):
                        return await _Connection.open(port)
                except (OSError, TimeoutError):
                    return None

        async def client(connection: _Connection | None, request: bytes, due: float) -> Outcome:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if connection is None:
                return Outcome(NO_ANSWER, time.monotonic() - due)
            return await _ask(_Pool([connection]), port, request, due, timeout_s)

        connections = await asyncio.gather(*(connect() for _ in requests))
        began = time.monotonic()
        asked = zip(connections, requests, offsets, strict=True)
        outcomes = await asyncio.gather(*(client(c, r, began + float(offset)) for c, r, offset in asked))
        seconds = time.monotonic() - began
        _close(_Pool(connection for connection in connections if connection is not None))
        return Load(list(outcomes), seconds)

    return asyncio.run(run())
