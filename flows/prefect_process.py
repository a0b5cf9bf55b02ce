"""The process of a Prefect server that Siftline starts: one that stays (`siftline up`), or one beside a single run.

Both answer only under a name of this machine. A site may lead its own name to 127.0.0.1 (DNS rebinding); its pages
could then ask a server on loopback as if they were its own, and whoever may ask Prefect can have any code run.
"""

import os
import socket
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp

NAMES = ("127.0.0.1", "localhost")


def serve_staying(door: socket.socket, *names: str) -> None:
    """Serve with the pages and all services, as `prefect server start` does.

    Args:
        door: socket that listens.
        names: further names under which it answers, such as a container's.
    """
    import uvicorn
    from prefect.server.api.server import create_app
    from prefect.settings import get_current_settings

    level = get_current_settings().server.logging_level.lower()
    app = _under_our_names(create_app(final=True), *names)
    uvicorn.Server(uvicorn.Config(app, log_level=level)).run(sockets=[door])


def serve_beside(door: socket.socket) -> None:
    """Serve without pages, at a port that the parent has taken, until the pipe from it closes."""
    os.environ["PREFECT_UI_ENABLED"] = "0"

    def end_with_parent() -> None:
        # Not by sys.stdin, whose lock makes Python abort where the server fails, with words that hide the reason.
        os.read(0, 1)
        os._exit(0)

    threading.Thread(target=end_with_parent, daemon=True).start()

    import uvicorn
    from prefect.server.api.server import create_app

    app = _under_our_names(create_app(ephemeral=True, final=True))
    uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[door])


def _under_our_names(app: "ASGIApp", *more: str) -> "ASGIApp":
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    return TrustedHostMiddleware(app, allowed_hosts=(*NAMES, *more), www_redirect=False)


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
        serve_staying(socket.socket(fileno=number))
    else:
        serve_staying(socket.create_server((host, number)), *names)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
