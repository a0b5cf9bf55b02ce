"""Connections with limits: how many there are, and how long one may hold a place without asking anything.

uvicorn ends idle connections only after their first answer, and counts connections with a bare 503. Both matter when
hundreds of slow clients come.
"""

import asyncio
from typing import Any, cast

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from engine.serving.body import send_refusal
from engine.serving.statuses import error_response


async def _too_many(scope: Scope, receive: Receive, send: Send) -> None:
    response = error_response(503, "The server has as many connections as it takes. Ask again later.")
    await send_refusal(
        receive, send, status=response.status_code, headers=response.raw_headers, body=bytes(response.body)
    )


def connection_class(*, most: int, idle_s: float) -> type[H11Protocol]:
    """A connection for uvicorn.

    Args:
        most: connections above this number are answered with 503 and closed.
        idle_s: a connection without a whole request head, or whose answer is not fetched, is closed after so long.
    """

    class Connection(H11Protocol):
        """An HTTP/1.1 connection that is closed when it does nothing."""

        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > most:
                self.app = _too_many
            self._arm()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            if self._timer is not None:
                self._timer.cancel()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._arm()

        def _in_progress(self) -> bool:
            # uvicorn declares it without None, and begins with None.
            cycle = cast("RequestResponseCycle | None", self.cycle)
            return cycle is not None and not cycle.response_complete

        def _arm(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self.loop.call_later(idle_s, self._idle)

        def _idle(self) -> None:
            # Requests in progress have their own limits, and arm the timer again when they are answered.
            if not self._in_progress():
                self.transport.abort()

    return Connection
