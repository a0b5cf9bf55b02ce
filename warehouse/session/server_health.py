"""A catalogue's server that hangs: noticed beside what waits for it, and made one that went away.

PostgreSQL's client waits for an answer for ever, and no signal gets through to it: where the server was frozen, or its
machine is gone without a word, a command stood still and Ctrl-C did nothing. A limit on the time of an answer would end
good ones too, since a commit may wait for another's lock. So a thread asks the server that is waited for whether it is
there, over a connection of its own, and where nobody answers that either, it shuts those that wait: then the client
says that its connection is closed, and all goes on as after any server that went away.
"""

import contextlib
import errno
import os
import re
import socket
import stat
import struct
import threading
import time

LOOK_S = 15.0
"""Seconds between two looks at what waits."""
PATIENCE_S = 30.0
"""So long an answer may take before the server is asked whether it is there, and so long it then has to say so."""

_IS_IT_THERE = struct.pack("!ii", 8, 80877103)
"""Asks whether the server speaks TLS, which it says before it knows who asks; where nothing follows, it logs nothing.

Source: PostgreSQL documentation, Message Formats, SSLRequest.
"""
_TCP_INFO = struct.Struct("8B13I")  # Source: struct tcp_info in linux/tcp.h, up to tcpi_last_ack_recv
_UNREACHABLE = (errno.EHOSTUNREACH, errno.ENETUNREACH)
_ports: set[int] = set()
_watching = 0  # process id: a fork has the number and not the thread


def watch(dsn: str) -> None:
    """Watch this process's connections to a server from now on.

    Args:
        dsn: libpq connection string.
    """
    global _watching
    named = re.search(r"\bport\s*=\s*'?([\d,]+)", dsn)
    ports = named[1] if named else os.environ.get("PGPORT", "")
    _ports.update(int(port) for port in re.findall(r"\d+", ports) or ["5432"])
    if _watching != os.getpid():
        _watching = os.getpid()
        threading.Thread(target=_look_on, daemon=True, name="siftline-catalogue").start()


def _look_on() -> None:
    while True:
        time.sleep(LOOK_S)
        with contextlib.suppress(OSError):  # no more files may be open, say: the next look is soon
            shut_hung()


def shut_hung() -> None:
    """Shut the connections on which an answer is waited for and whose server does not say that it is there."""
    there: dict[object, bool] = {}
    with contextlib.ExitStack() as stack:
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # closed meanwhile, or no connection
                connection = stack.enter_context(_second(int(name)))
                peer = connection.getpeername()
                if _port(peer) not in _ports or not _waits(connection):
                    continue
                if peer not in there:
                    there[peer] = _is_there(connection.family, peer)
                if not there[peer]:
                    connection.shutdown(socket.SHUT_RDWR)


def _second(number: int) -> socket.socket:
    """A connection of this process under a second number, which is closed without closing the connection.

    A file gets none: to close any number of a file drops all locks that the process has on it, SQLite's among them.
    """
    if not stat.S_ISSOCK(os.fstat(number).st_mode):
        raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))
    return socket.socket(fileno=os.dup(number))  # a number that became a file meanwhile stays open


def _port(peer: object) -> int:
    """Port of a server's address; PostgreSQL names its files of local connections by it. 0 for any other's."""
    if isinstance(peer, tuple):
        return int(peer[1])
    name = os.path.basename(os.fsdecode(peer)) if isinstance(peer, str | bytes) else ""
    return int(found[1]) if (found := re.fullmatch(r"\.s\.PGSQL\.(\d+)", name)) else 0


def _waits(connection: socket.socket) -> bool:
    """Whether what was sent last was sent `PATIENCE_S` ago and nothing came since; true also where nobody can tell."""
    if connection.family == socket.AF_UNIX:
        return True
    told = _TCP_INFO.unpack(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size))
    sent_ms_ago, came_ms_ago = told[8 + 9], told[8 + 11]
    return PATIENCE_S * 1000 <= sent_ms_ago <= came_ms_ago  # of the same clock tick: maybe


def _is_there(family: int, peer: object) -> bool:
    """Whether a server answers, or is gone in a way that the connections to it will say themselves."""
    with socket.socket(family) as asking:
        asking.settimeout(PATIENCE_S)
        try:
            asking.connect(peer)  # pyright: ignore[reportArgumentType]
            asking.sendall(_IS_IT_THERE)
            asking.recv(1)
        except (TimeoutError, BlockingIOError):  # the latter where its queue of local connections is full
            return False
        except OSError as error:
            return error.errno not in _UNREACHABLE
    return True
