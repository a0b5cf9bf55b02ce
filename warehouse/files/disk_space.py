"""A full disk of temporary files, in words, and how much room a disk has left."""

import errno
import os
from pathlib import Path

from warehouse.errors import DiskFull
from warehouse.files.scratch import roomy_folder
from warehouse.files.spill import PREFIX

FULL = (errno.ENOSPC, errno.EDQUOT)


def temporary_fault(text: str) -> DiskFull | None:
    """The error to raise when an error of DuckDB's is one of its temporary folder; None when it means something else.

    Args:
        text: DuckDB's message.
    """
    if PREFIX in text and os.strerror(errno.ENOENT) in text:
        return DiskFull(
            f"The temporary folder of this process, {roomy_folder()}/{PREFIX}..., was removed while it worked; nothing "
            "was written to the warehouse. Run again, and let no clean-up remove such folders while they are in use."
        )
    return temporary_full() if PREFIX in text or "failed to offload data block" in text else None


def temporary_full() -> DiskFull:
    """The error to raise where the temporary folder has no room for rows on their way, or that memory does not hold."""
    folder = roomy_folder()
    return DiskFull(
        f"The disk of the temporary folder {folder} is full, or your quota on it ({room(Path(folder))}); nothing was "
        "written to the warehouse. Free space, or let the environment variable TMPDIR name a folder with more, and run "
        "again."
    )


def room(folder: Path) -> str:
    """What is left on the disk of a folder, for messages; a disk with much space can be full of small files."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return "how full cannot be told"
    words = f"{found.f_bavail * found.f_frsize // 1024} KiB free"
    few = found.f_files and found.f_favail < 100  # no number of files at all where the file system has no such limit
    return f"{words}, room for {found.f_favail} more files" if few else words
