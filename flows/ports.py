"""Servers on this machine: which port one gets, the one its clients know if it can be had, and no proxy before them."""

import os
import socket
import time
from urllib.parse import urlsplit

from warehouse import SettingsError

PORT_TIMEOUT_S = 10.0
"""A server that was killed may hold its port for a moment."""
TRIES = 100


LOOPBACK = ("127.0.0.1", "localhost", "::1")


def reach_loopback_directly() -> None:
    """Keep a proxy that the environment names for other machines: it cannot reach this one's own servers."""
    known = [part for name in ("no_proxy", "NO_PROXY") for part in os.environ.get(name, "").split(",") if part]
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(dict.fromkeys([*known, *LOOPBACK]))


def is_own(url: str) -> bool:
    """Whether an address is one of this machine, which no proxy can reach."""
    return urlsplit(url).hostname in LOOPBACK


def is_free(port: int) -> bool:
    """Whether a server could listen there."""
    with socket.socket() as probe:
        # As servers do, so that connections that still close do not count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def pick_port(first: int, former: int = 0) -> int:
    """A free port.

    Args:
        first: it and those after it are tried.
        former: the port that the server had before, 0 for none; it is waited for a little.

    Raises:
        SettingsError: none is free.
    """
    deadline = time.monotonic() + PORT_TIMEOUT_S
    while former:
        if is_free(former):
            return former
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    for port in range(first, first + TRIES):
        if is_free(port):
            return port
    raise SettingsError(f"no port from {first} to {first + TRIES - 1} on 127.0.0.1 is free")
