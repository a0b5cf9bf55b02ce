"""The process of a Prefect server that Siftline starts: one that stays (`siftline up`), or one beside a single run.

Both answer only under a name of this machine, and to pages of their own. A site may lead its own name to 127.0.0.1
(DNS rebinding); its pages could then ask a server on loopback as if they were its own. Under any name a page may send
what it need not read the answer to, and open a WebSocket, which tells it the ids to send. And
whoever may ask Prefect can have any code run.
"""

import gc
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from flows.servers.clock import Clock

if TYPE_CHECKING:
    from starlette.datastructures import Headers
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

NAMES = ("127.0.0.1", "localhost")
LOOK_S = 10.0
"""Time between two looks at the clock."""
END_S = 15.0
"""So long requests may take that are being answered when the server starts anew."""
_REFUSED = (
    "Pages of other sites may not ask this server. Where a proxy shows its own ones under another address, add that to "
    "PREFECT_SERVER_CORS_ALLOWED_ORIGINS, which the server reads when it starts.\n"
)


def serve_staying(door: socket.socket, *names: str) -> None:
    """Serve with the pages and all services, as `prefect server start` does.

    Its services wait until a time on the clock (see `flows.servers.clock`). Where that was set back it starts anew as
    the same process, and whoever asks meanwhile waits at the door.

    Args:
        door: socket that listens.
        names: further names under which it answers, such as a container's.
    """
    import uvicorn
    from prefect.server.api.server import create_app
    from prefect.settings import get_current_settings

    level = get_current_settings().server.logging_level.lower()
    app = _guarded(create_app(final=True), *names)
    server = uvicorn.Server(uvicorn.Config(app, log_level=level))
    number, kept = door.fileno(), os.dup(door.fileno())  # the server closes what it listens at
    anew = threading.Event()

    def start_anew() -> None:
        os.dup2(kept, number, inheritable=True)
        way = ("-P", "-m", "flows.servers.prefect_process", "taken", str(number), NAMES[0], *names)
        os.execv(sys.executable, (sys.executable, *way))  # noqa: S606 - our own module

    def end() -> None:
        print("The clock was set back; starting anew, so that nothing waits until it is there again.", file=sys.stderr)
        anew.set()
        server.should_exit = True
        time.sleep(END_S)
        start_anew()

    threading.Thread(target=when_set_back, args=(end,), daemon=True).start()
    server.run(sockets=[door])
    if anew.is_set():
        start_anew()


def when_set_back(then: Callable[[], None]) -> None:
    """Wait until the clock is set back, and do something then."""
    clock = Clock()
    while not clock.was_set_back():
        time.sleep(LOOK_S)
    then()


def serve_beside(door: socket.socket) -> None:
    """Serve without pages, at a port that the parent has taken, until the pipe from it closes."""
    os.environ["PREFECT_UI_ENABLED"] = "0"

    def end_with_parent() -> None:
        # Not by sys.stdin, whose lock makes Python abort where the server fails, with words that hide the reason.
        os.read(0, 1)
        os._exit(0)

    threading.Thread(target=end_with_parent, daemon=True).start()

    gc.disable()  # else it goes over all that is imported again and again, and finds nothing: a sixth of the start
    import uvicorn
    from prefect.server.api.server import create_app

    app = _guarded(create_app(ephemeral=True, final=True))
    gc.freeze()
    gc.enable()
    uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[door])


class OwnPages:
    """Refuses what pages of other sites send: Prefect takes JSON that is not called JSON, which no browser asks about.

    And its own pages ask this server alone: Prefect's ask a service of Amplitude for settings, also where its analytics
    are off.

    Args:
        app: the server.
        origins: of pages that may ask it beside those that it serves itself; `*` for all.
    """

    def __init__(self, app: "ASGIApp", origins: Collection[str]) -> None:
        self._app, self._origins = app, frozenset(origins)
        # The pages ask for the API under its name in the settings, and they may be open under another one.
        also = [of for origin in sorted(self._origins) for of in (origin, origin.replace("http", "ws", 1))]
        self._policy = " ".join(["connect-src 'self'", *also]).encode()

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Pass it on, or answer 403."""
        from starlette.datastructures import Headers
        from starlette.responses import PlainTextResponse

        if scope["type"] == "lifespan" or self._may_ask(Headers(scope=scope)):
            await self._app(scope, receive, self._asking_nobody_else(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # before it was accepted: 403
        else:
            await PlainTextResponse(_REFUSED, 403)(scope, receive, send)

    def _asking_nobody_else(self, send: "Send") -> "Send":
        async def sent(message: "Message") -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"content-security-policy", self._policy)]
            await send(message)

        return sent

    def _may_ask(self, headers: "Headers") -> bool:
        """By `Origin`, which browsers send along with all but a plain look and which no page can change."""
        own = {f"{scheme}://{host}" for scheme in ("http", "https") for host in headers.getlist("host")}
        return "*" in self._origins or own | self._origins >= set(headers.getlist("origin"))


def _guarded(app: "ASGIApp", *more: str) -> "ASGIApp":
    from prefect.settings import get_current_settings
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    origins = get_current_settings().server.api.cors_allowed_origins.split(",")
    pages = OwnPages(app, [origin.strip() for origin in origins])
    return TrustedHostMiddleware(pages, allowed_hosts=(*NAMES, *more), www_redirect=False)


def main(way: str, number: int, host: str = NAMES[0], *names: str) -> None:
    """Serve.

    Args:
        way: "beside" a run, or "taken": at a socket that the parent has taken; or "staying", which opens a port.
        number: the socket's file descriptor; of "staying", the port.
        host: address to listen at; another one than loopback in a container, which publishes the port itself.
        names: further names under which it answers.
    """
    if way == "beside":
        serve_beside(socket.socket(fileno=number))
    elif way == "taken":
        serve_staying(socket.socket(fileno=number), *names)
    else:
        serve_staying(socket.create_server((host, number)), *names)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
