"""Whether a process that was started earlier, perhaps by another command, still is the same one."""

import contextlib
import os
from pathlib import Path


def start_time(pid: int) -> int:
    """Kernel start time of a process in clock ticks, 0 when it is gone; also takes in a child that ended."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    try:
        # The name in parentheses may hold spaces; fields are counted behind it. Source: man 5 proc.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])
