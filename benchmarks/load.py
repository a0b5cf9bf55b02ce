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
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


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

    async def ask(self, request: bytes, due: float, *, keep_body: bool = False) -> tuple[Outcome, bool]:
        """The outcome, and whether the connection can be used again."""
        self.writer.write(request)
        head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        status = int(head[9:12])
        length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0]) if b"content-length:" in head else 0
        body = await self.reader.readexactly(length)
        again = b"connection: close" not in head
        outcome = Outcome(status, time.monotonic() - due, b"retry-after:" in head, body if keep_body else b"")
        return outcome, again

    def close(self) -> None:
        self.writer.close()


async def _ask(pool: deque[_Connection], port: int, request: bytes, due: float, timeout_s: float) -> Outcome:
    connection: _Connection | None = None
    try:
        async with asyncio.timeout(timeout_s):
            connection = pool.popleft() if pool else await _Connection.open(port)
            outcome, again = await connection.ask(request, due)
    except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
        if connection is not None:
            connection.close()
        return Outcome(NO_ANSWER, time.monotonic() - due)
    if again:
        pool.append(connection)
    else:
        connection.close()
    return outcome


async def _open_loop(port: int, requests: Sequence[bytes], at_s: np.ndarray, timeout_s: float) -> Load:
    pool: deque[_Connection] = deque()
    began = time.monotonic() + 0.05
    tasks: list[asyncio.Task[Outcome]] = []
    for request, offset in zip(requests, at_s, strict=True):
        due = began + float(offset)
        if (wait := due - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(_ask(pool, port, request, due, timeout_s)))
    outcomes = list(await asyncio.gather(*tasks))
    seconds = time.monotonic() - began
    for connection in pool:
        connection.close()
    return Load(outcomes, seconds)


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
    return asyncio.run(_open_loop(port, requests, np.cumsum(gaps_s) - gaps_s[0], timeout_s))


async def _one_by_one(port: int, requests: Sequence[bytes], pause_s: float, keep_body: bool) -> Load:
    connection = await _Connection.open(port)
    outcomes: list[Outcome] = []
    began = time.monotonic()
    for request in requests:
        outcome, again = await connection.ask(request, time.monotonic(), keep_body=keep_body)
        outcomes.append(outcome)
        if not again:
            connection.close()
            connection = await _Connection.open(port)
        await asyncio.sleep(pause_s)
    seconds = time.monotonic() - began
    connection.close()
    return Load(outcomes, seconds)


def one_by_one(port: int, requests: Sequence[bytes], *, pause_s: float = 0.0, keep_body: bool = False) -> Load:
    """A single caller on one connection, who waits for each answer."""
    return asyncio.run(_one_by_one(port, requests, pause_s, keep_body))


async def _closed_loop(port: int, requests: Sequence[bytes], callers: int, timeout_s: float) -> Load:
    waiting = deque(requests)
    outcomes: list[Outcome] = []

    async def caller() -> None:
        pool: deque[_Connection] = deque()
        while waiting:
            outcomes.append(await _ask(pool, port, waiting.popleft(), time.monotonic(), timeout_s))
        for connection in pool:
            connection.close()

    began = time.monotonic()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return Load(outcomes, time.monotonic() - began)


def closed_loop(port: int, requests: Sequence[bytes], *, callers: int, timeout_s: float = 60.0) -> Load:
    """So many callers who each send the next request when they have an answer: what the server does at most."""
    return asyncio.run(_closed_loop(port, requests, callers, timeout_s))


async def _storm(port: int, requests: Sequence[bytes], over_s: float, timeout_s: float, seed: int) -> Load:
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
        return await _ask(deque([connection]), port, request, due, timeout_s)

    connections = await asyncio.gather(*(connect() for _ in requests))
    offsets = np.sort(np.random.default_rng(seed).uniform(0, over_s, len(requests)))
    began = time.monotonic()
    outcomes = await asyncio.gather(
        *(client(c, r, began + float(o)) for c, r, o in zip(connections, requests, offsets, strict=True))
    )
    seconds = time.monotonic() - began
    for connection in connections:
        if connection is not None:
            connection.close()
    return Load(list(outcomes), seconds)


def storm(port: int, requests: Sequence[bytes], *, over_s: float, timeout_s: float = 60.0, seed: int = 0) -> Load:
    """As many clients as requests, all connected before the first one asks.

    Args:
        port: of the server.
        requests: one for each client.
        over_s: the clients ask at random moments within so many seconds.
        timeout_s: an answer that takes longer is none.
        seed: fixes the moments.
    """
    allow_many_files()
    return asyncio.run(_storm(port, requests, over_s, timeout_s, seed))
