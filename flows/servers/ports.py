"""Servers on this machine: which port one gets, the one its clients know if it can be had, and no proxy before them."""

import os
import socket
import time

from warehouse import SettingsError
from warehouse.catalog.address import LOOPBACK, is_own

PORT_TIMEOUT_S = 10.0
"""A server that was killed may hold its port for a moment."""
TRIES = 100


def reach_loopback_directly() -> None:
    """Keep a proxy that the environment names for other machines: it cannot reach this one's own servers."""
    known = [part for name in ("no_proxy", "NO_PROXY") for part in os.environ.get(name, "").split(",") if part]
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(dict.fromkeys([*known, *LOOPBACK]))


def answers(url: str, timeout_s: float = 5.0) -> bool:
    """Whether a server says at an address that it is well."""
    import httpx  # takes longer to import than a command that asks nobody

    try:
        # Whatever answers may send on for ever: the body is not read.
        with httpx.stream("GET", url, timeout=timeout_s, trust_env=not is_own(url)) as answer:
            return answer.status_code == 200
    except httpx.HTTPError:
        return False


def take_port(first: int, former: int = 0) -> socket.socket:
    """A socket that listens at a free port, so that nobody else takes it before the server that it is for starts.

    Args:
        first: it and those after it are tried.
        former: the port that the server had before, 0 for none; it is waited for a little.

    Raises:
        SettingsError: none is free.
    """
    deadline = time.monotonic() + PORT_TIMEOUT_S
    while former:
        if (door := _listen(former)) is not None:
            return door
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    for port in range(first, first + TRIES):
        if (door := _listen(port)) is not None:
            return door
    raise SettingsError(f"no port from {first} to {first + TRIES - 1} on 127.0.0.1 is free")


def pick_port(first: int, former: int = 0) -> int:
    """A free port, as `take_port`, for a server that opens it itself."""
    with take_port(first, former) as door:
        return door.getsockname()[1]


def is_free(port: int) -> bool:
    """Whether a server could listen there."""
    door = _listen(port)
    if door is not None:
        door.close()
    return door is not None


def _listen(port: int) -> socket.socket | None:
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError:
        return None
