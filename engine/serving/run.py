"""The running server: uvicorn around the application, from the socket to the end after SIGTERM."""

import asyncio
import resource
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import FrameType

import uvicorn

from engine.errors import OptionError
from engine.serving import memory
from engine.serving.app import Counted, Service, build_app
from engine.serving.connection import BACKLOG, connection_class, listen, too_many

SPARE_FILES = 128
SWITCH_S = 0.0005
"""A float32 forward is hundreds of calls that each ask for the interpreter's lock again. With Python's 5 ms the event
loop of a server that refuses hundreds of requests a second would hold a batch up for a second."""
LAST_WORDS_S = 1.0
"""After the drain, so long is left for answers to be fetched."""


class Server(uvicorn.Server):
    """uvicorn that keeps listening while it drains, so that health says 503 and callers are told to come back.

    Args:
        service: the service.
        told: called with a line for people.
    """

    def __init__(self, service: Service, told: Callable[[str], None]) -> None:
        config = service.config
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        most = min(config.max_connections, max(1, hard - SPARE_FILES))
        super().__init__(
            uvicorn.Config(
                build_app(service),
                http=connection_class(
                    most=most,
                    idle_s=config.idle_s,
                    unfetched_bytes=config.max_held_bytes,
                    refusing=Counted(too_many, service.metrics),
                    broken=partial(service.metrics.answered, "", 400),
                ),
                ws="none",
                lifespan="off",
                access_log=False,
                log_level="critical",
                log_config=None,
                backlog=BACKLOG,
                server_header=False,
                timeout_keep_alive=max(1, round(config.idle_s)),
                timeout_graceful_shutdown=max(1, round(LAST_WORDS_S)),
            )
        )
        self._service, self._told = service, partial(_tell, told)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._drain: asyncio.Task[None] | None = None
        self._memory: asyncio.Task[None] | None = None
        service.told = self._told
        service.connections = lambda: len(self.server_state.connections)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        self._loop = asyncio.get_running_loop()
        at_start = memory.trimmed_bytes()
        await super().startup(sockets)
        self._memory = self._loop.create_task(memory.watch(lambda: self._service.in_progress > 0, at_start))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM or SIGINT: drain; a second one ends at once."""
        self.stop()

    def stop(self) -> None:
        """Begin to drain; from any thread. A second call ends at once."""
        if self._loop is None:
            self.should_exit = True
        else:
            self._loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        if self._drain is not None:
            self.should_exit = True
            return
        self._service.begin_drain()
        self._drain = asyncio.get_running_loop().create_task(self._finish())

    async def _finish(self) -> None:
        queued = self._service.scheduler.queued[0]
        self._told(f"Shutting down: {queued} texts wait, {self._service.config.drain_s:g} s are left for them.")
        loop = asyncio.get_running_loop()
        done = await loop.run_in_executor(None, self._service.scheduler.drain, self._service.config.drain_s)
        end = time.monotonic() + LAST_WORDS_S
        while self._service.in_progress and time.monotonic() < end:
            await asyncio.sleep(0.02)
        self._told("All that was admitted is answered." if done else "The time is over; the rest was refused with 503.")
        self.should_exit = True


def _tell(told: Callable[[str], None], line: str) -> None:
    """Say it, or go on where nobody can hear it: behind a pipe that was closed, on a disk that is full."""
    with suppress(OSError, SystemExit):  # rich ends the process at a closed pipe
        told(line)


def serve(service: Service, told: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT and the drain after it.

    Args:
        service: the service.
        told: called with lines for people; the first one ends with the address.

    Raises:
        OptionError: the address cannot be listened on, or the queue can never hold the longest text.
    """
    config, longest = service.config, service.encoder.max_tokens
    if config.room.tokens < longest:
        raise OptionError(
            f"The queue has room for {config.room.tokens} tokens, and a text may have {longest}: such a text would be "
            f"refused for ever. Give --queue-tokens {longest} or more, or a smaller --max-tokens."
        )
    listener = listen(config.host, config.port)
    port = listener.getsockname()[1]
    host = f"[{config.host}]" if ":" in config.host else config.host
    told(f"{service.encoder.encoder_id} listens on http://{host}:{port}")
    sys.setswitchinterval(SWITCH_S)
    memory.settle()
    Server(service, told).run(sockets=[listener])
