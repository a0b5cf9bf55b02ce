"""Processes that outlive the command that starts them: started, ended, and known for the same ones by a later one."""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

EXEC_S = 2.0
"""While a process becomes another program, its environment is empty for a moment, longer on a busy machine."""
_SHELL = "/bin/sh"
_WAITS = 'read -r _ && exec "$@" </dev/null'
"""Becomes the command, with the same id and start time, when a line comes; ends when nobody can send one any more."""


def last_words(log: Path) -> str:
    """The end of what a process printed, for a message."""
    try:
        lines = log.read_text("utf-8", "replace").strip().splitlines()
    except FileNotFoundError:
        return "its log is gone"
    return " | ".join(lines[-5:])[-500:] if lines else "it printed nothing"


def spawn(command: Sequence[str], environment: Mapping[str, str], log: Path, record: Callable[[int, int], T]) -> T:
    """Start a process in a session of its own.

    Args:
        command: an absolute path and arguments.
        environment: all of its variables.
        log: what it prints is added to this file, its owner's only.
        record: writes down its id and `start_time`. The process begins its work only then, since nobody would find it
            again: where that fails it is killed, and where this process is killed it ends.

    Returns:
        What `record` returns.
    """
    gate, opens = os.pipe()
    try:
        # posix_spawn rather than Popen: the process outlives this one, and no object waits for its end.
        pid = os.posix_spawn(
            _SHELL,
            [_SHELL, "-c", _WAITS, _SHELL, *command],
            environment,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, gate, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )
        try:
            recorded = record(pid, start_time(pid))
            os.write(opens, b"\n")
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            raise
        return recorded
    finally:
        os.close(gate)
        os.close(opens)


def end(pid: int, started: int, patience_s: float) -> bool:
    """End a process that `spawn` started and what it leaves of its session; False where it outlives even a SIGKILL.

    Args:
        pid, started: its id and `start_time`.
        patience_s: so long it has after SIGTERM.
    """
    for number, wait_s in ((signal.SIGTERM, patience_s), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            # SIGTERM to the one, which ends its children in order; SIGKILL to all of its session.
            (os.kill if number == signal.SIGTERM else os.killpg)(pid, number)
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline:
            if start_time(pid) != started:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
                return True
            time.sleep(0.05)
    return False


def start_time(pid: int) -> int:
    """Kernel start time of a process in clock ticks, 0 when it is gone; also takes in a child that ended."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    fields = _fields(pid)
    return 0 if not fields or fields[0] in "ZX" else int(fields[19])


def started_for(pid: int, variable: str, place: Path) -> bool:
    """Whether a process was started for a place and not for the one that this was copied from, file by file.

    A folder that was moved keeps its processes: the place that they were told of is gone. A process whose environment
    cannot be read, or says nothing, is taken for one of this place.

    Args:
        pid: a live process.
        variable: variable of its environment that names the place.
        place: a file or folder.
    """
    told = _told(pid, variable)
    return told is None or not told.exists() or (place.exists() and told.samefile(place))


def moved_since(pid: int, variable: str) -> bool:
    """Whether the place that a process was told of is gone: its folder was moved, and it asks for its files in vain.

    Args:
        pid: a live process.
        variable: variable of its environment that names the place.
    """
    told = _told(pid, variable)
    return told is not None and not told.exists()


def left_of_session(leader: int, variable: str, value: str) -> list[int]:
    """Live processes of a session whose leader is gone.

    Args:
        leader: process id that the leader had; another process may have it by now.
        variable, value: what stands in the environment of the session's processes, and in no other's.
    """
    mark = f"{variable}={value}".encode()
    found: list[int] = []
    for pid in _session(leader):
        with contextlib.suppress(OSError):
            if mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.append(pid)
    return found


def session_listens(leader: int, port: int) -> bool:
    """Whether a process of a session accepts TCP connections on a port, of whatever address.

    Args:
        leader: process id of the session's leader.
        port: the port.
    """
    return any(found == port for pid in _session(leader) for _, found in listening_addresses(pid))


def listening_addresses(pid: int) -> set[tuple[str, int]]:
    """Addresses and ports on which a process accepts TCP connections, from /proc; IPv6 ones as hexadecimal text."""
    inodes: set[str] = set()
    with contextlib.suppress(OSError):
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                target = os.readlink(f"/proc/{pid}/fd/{descriptor}")
                if target.startswith("socket:["):
                    inodes.add(target[8:-1])
    found: set[tuple[str, int]] = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and fields[9] in inodes:
                    address, port = fields[1].split(":")
                    if table == "tcp":
                        address = socket.inet_ntoa(bytes.fromhex(address)[::-1])
                    found.add((address, int(port, 16)))
    return found


def holds_lock(pid: int | None, path: Path) -> bool:
    """Whether a process, or any one for None, holds a lock on a file (`flock`), without taking part in the lock."""
    with contextlib.suppress(OSError):
        inode = str(path.stat().st_ino)
        for line in Path("/proc/locks").read_text().splitlines():
            # "1: FLOCK  ADVISORY  WRITE 1234 fd:00:5678 0 EOF"; who only waits has "->" behind the number.
            fields = line.split()
            held = len(fields) > 5 and fields[1] != "->" and fields[5].rpartition(":")[2] == inode
            if held and pid in (None, int(fields[4])):
                return True
    return False


def has_lost(pid: int, path: Path) -> bool:
    """Whether a process has a file open that was there under a path and is no longer: removed, or another in its place.

    Args:
        pid: a live process.
        path: the file's path, absolute and without links.
    """
    with contextlib.suppress(OSError):
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{pid}/fd/{descriptor}") == f"{path} (deleted)":
                    return True
    return False


def _session(leader: int) -> Iterator[int]:
    for folder in Path("/proc").iterdir():
        fields = _fields(int(folder.name)) if folder.name.isdecimal() else []
        if fields and fields[0] not in "ZX" and int(fields[3]) == leader:
            yield int(folder.name)


def _told(pid: int, variable: str) -> Path | None:
    deadline = time.monotonic() + EXEC_S
    try:
        while not (content := Path(f"/proc/{pid}/environ").read_bytes()) and time.monotonic() < deadline:
            time.sleep(0.01)
    except OSError:
        return None
    variables = content.split(b"\0")
    prefix = f"{variable}=".encode()
    return next((Path(os.fsdecode(v.removeprefix(prefix))) for v in variables if v.startswith(prefix)), None)


def _fields(pid: int) -> list[str]:
    """State and what follows it; empty when there is no such process."""
    try:
        # The name in parentheses may hold spaces; fields are counted behind it. Source: man 5 proc.
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
