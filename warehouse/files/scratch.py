"""Folders and files that hold what is not whole yet; those that a killed process left are removed by the next one.

Who uses one holds a lock on it, which ends with the process: so the dead are told from the living without guessing.
"""

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

_DRAWN = "[a-z0-9_]{8}"
"""What `tempfile` puts into a name."""
_SMALL, _ON_DISK = "/tmp", "/var/tmp"  # noqa: S108 - what is made there has a drawn name, or none


def roomy_folder() -> str:
    """The folder for temporary files of any size: the one that TMPDIR names and that can be used, else /var/tmp rather
    than /tmp.

    On many systems /tmp is in memory, which such files are there to save. Source:
    https://systemd.io/TEMPORARY_DIRECTORIES/

    Raises:
        OSError: there is none that can be written to.
    """
    folder = tempfile.gettempdir()
    named = _SMALL in [os.path.abspath(os.environ.get(name) or _ON_DISK) for name in ("TMPDIR", "TEMP", "TMP")]
    return _ON_DISK if folder == _SMALL and not named and os.access(_ON_DISK, os.W_OK | os.X_OK) else folder


@contextmanager
def scratch_folder(parent: Path, prefix: str, rescue: Callable[[Path], None] | None = None) -> Generator[Path]:
    """A new folder of its owner's only that is gone after the block; first those go that dead processes left.

    Args:
        parent: folder to make it in.
        prefix: how its name begins; one purpose has one.
        rescue: called with each folder that was left, before it is removed.
    """
    collect(parent, prefix, rescue=rescue)
    while True:
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
        lock = os.open(folder, os.O_RDONLY)
        if _held(lock, folder, wait=True):
            break
        os.close(lock)  # another process took it for one that was left, between its making and our lock
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


@contextmanager
def scratch_file(parent: Path, prefix: str, suffix: str, *, tidy: bool = True) -> Generator[Path]:
    """As `scratch_folder`, an empty file; the block may move it to another name, and then it stays.

    Args:
        parent, prefix: as of `scratch_folder`.
        suffix: how its name ends.
        tidy: look for those that dead processes left first, which takes as long as the folder has names.
    """
    if tidy:
        collect(parent, prefix, suffix)
    while True:
        lock, name = tempfile.mkstemp(dir=parent, prefix=prefix, suffix=suffix)
        if _held(lock, Path(name), wait=True):
            break
        os.close(lock)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)
        os.close(lock)


def collect(parent: Path, prefix: str, suffix: str = "", *, rescue: Callable[[Path], None] | None = None) -> None:
    """Remove this user's scratch folders and files whose process is dead; what cannot be told or removed stays."""
    pattern = re.compile(re.escape(prefix) + _DRAWN + re.escape(suffix))
    with suppress(OSError):
        for found in [Path(entry) for entry in os.scandir(parent) if pattern.fullmatch(entry.name)]:
            with suppress(OSError):
                lock = os.open(found, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    if os.fstat(lock).st_uid == os.getuid() and _held(lock, found, wait=False):
                        if rescue is not None:
                            rescue(found)
                        shutil.rmtree(found) if found.is_dir() else found.unlink()
                finally:
                    os.close(lock)


def in_use(parent: Path, prefix: str) -> bool:
    """Whether a live process, of any user and in any container of this machine, has a scratch folder of this name."""
    pattern = re.compile(re.escape(prefix) + _DRAWN)
    with suppress(OSError):
        for found in [Path(entry) for entry in os.scandir(parent) if pattern.fullmatch(entry.name)]:
            with suppress(FileNotFoundError):
                lock = os.open(found, os.O_RDONLY | os.O_NOFOLLOW)
                try:
                    fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return True
                finally:
                    os.close(lock)
    return False


def _held(lock: int, path: Path, *, wait: bool) -> bool:
    """Whether this descriptor now holds the lock of a path that is still there.

    A file system without locks gives none; then nothing in it is ever taken for left.
    """
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return wait
    try:
        return os.path.samestat(os.fstat(lock), path.lstat())
    except FileNotFoundError:
        return False
