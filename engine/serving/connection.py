"""Where a server listens, and connections with limits: how many, and how long one holds a place without asking.

uvicorn ends idle connections only after their first answer, and counts connections with a bare 503. Both matter when
hundreds of slow clients come.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Any, cast

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from engine.errors import OptionError
from engine.serving.limits import send_refusal
from engine.serving.statuses import error_response, raw_response

BACKLOG = 8192
UNSENT_BYTES = 1 << 16


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        OptionError: the address is taken or not one of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named: else asyncio does not know TCP, leaves Nagle on, and each answer waits 40 ms for its ACK.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # What is not on its way yet stays here, where it is seen how much of an answer a slow client has fetched.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OptionError(f"{host}:{port} cannot be listened on: {error}. Choose another --port or --host.") from error
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


async def too_many(scope: Scope, receive: Receive, send: Send) -> None:
    """The application of connections above the limit."""
    response = error_response(503, "The server has as many connections as it takes. Ask again later.")
    await send_refusal(response, receive, send)


class Unfetched:
    """Answers that wait in memory for their clients to fetch them, bounded: the one that waits longest is given up.

    Args:
        most_bytes: of all of them together; one alone may have more.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes, self._waiting = most_bytes, dict[asyncio.Transport, None]()

    def add(self, transport: asyncio.Transport) -> None:
        """A client does not keep up."""
        self._waiting[transport] = None
        while len(self._waiting) > 1 and sum(one.get_write_buffer_size() for one in self._waiting) > self._most_bytes:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            oldest.abort()

    def discard(self, transport: asyncio.Transport) -> None:
        """It caught up, or is gone."""
        self._waiting.pop(transport, None)


def connection_class(
    *, most: int, idle_s: float, unfetched_bytes: int, refusing: ASGIApp, broken: Callable[[], None]
) -> type[H11Protocol]:
    """A connection for uvicorn.

    Args:
        most: connections above this number are answered with 503 and closed; above twice the number they are closed
            without a word, since each costs memory until it asks.
        unfetched_bytes: most bytes of answers in memory that clients are slow to fetch, all clients together.
        refusing: answers those above the limit.
        broken: told of each answer 400 to bytes that are no HTTP.
        idle_s: a connection without a whole request head, or of whose answer nothing is fetched, is closed after so
            long.
    """

    unfetched = Unfetched(unfetched_bytes)

    class Connection(H11Protocol):
        """An HTTP/1.1 connection that is closed when it does nothing."""

        _timer: asyncio.TimerHandle | None = None
        _left_bytes = 0

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > 2 * most:
                transport.abort()
                return
            if len(self.connections) > most:
                self.app = refusing
            self._arm()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            unfetched.discard(self.transport)
            if self._timer is not None:
                self._timer.cancel()

        def pause_writing(self) -> None:
            super().pause_writing()
            unfetched.add(self.transport)

        def resume_writing(self) -> None:
            super().resume_writing()
            unfetched.discard(self.transport)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._arm()

        def send_400_response(self, msg: str) -> None:
            if self._in_progress():
                if self.cycle.response_started:  # two answers in one would be worse than none
                    self.transport.abort()
                    return
                self.cycle.disconnected = True
                self.cycle.message_event.set()
            broken()
            self.transport.write(raw_response(400, "The request is not valid HTTP/1.1, or its head is too long."))
            self.transport.close()

        def _in_progress(self) -> bool:
            # uvicorn declares it without None, and begins with None.
            cycle = cast("RequestResponseCycle | None", self.cycle)
            return cycle is not None and not cycle.response_complete

        def _arm(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
            self._left_bytes = self.transport.get_write_buffer_size()
            self._timer = self.loop.call_later(idle_s, self._idle)

        def _idle(self) -> None:
            # Requests in progress have their own limits, and arm the timer again when they are answered; but one behind
            # an answer that is not fetched waits for that. Over a slow line an answer takes as long as it takes.
            if 0 < self.transport.get_write_buffer_size() < self._left_bytes:
                self._arm()
            elif not self._in_progress() or self.flow.write_paused:
                self.transport.abort()

    return Connection
