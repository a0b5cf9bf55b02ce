"""Whether a process that was started earlier, perhaps by another command, still is the same one, and what it left."""

import contextlib
import os
from pathlib import Path


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
    for folder in Path("/proc").iterdir():
        fields = _fields(int(folder.name)) if folder.name.isdecimal() else []
        if fields and fields[0] not in "ZX" and int(fields[3]) == leader:
            with contextlib.suppress(OSError):
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
    return found


def _told(pid: int, variable: str) -> Path | None:
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    prefix = f"{variable}=".encode()
    return next((Path(os.fsdecode(v.removeprefix(prefix))) for v in variables if v.startswith(prefix)), None)


def _fields(pid: int) -> list[str]:
    """State and what follows it; empty when there is no such process."""
    try:
        # The name in parentheses may hold spaces; fields are counted behind it. Source: man 5 proc.
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
