"""Writing a file so that a reader sees the old content or the whole new one, also after a crash."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from warehouse.errors import SettingsError
from warehouse.scratch import scratch_file


@contextmanager
def replaced_file(path: Path, *, durable: bool = True) -> Generator[Path]:
    """A temporary file beside `path` that takes its place when the block ends, and is removed when the block raises.

    It is readable for its owner only (mode 0600). Its content is on disk before it takes the place of the old file.
    What a killed process left of an earlier one is removed.

    Args:
        path: file to write; its folder exists.
        durable: else nobody waits for the disk, and after a power cut parts of the content may be missing: for caches
            whose readers find that by sums.

    Raises:
        SettingsError: the system refuses to write, for example for lack of rights or room.
    """
    try:
        with scratch_file(path.parent, f".{path.name[:64]}.", ".part") as temporary:
            yield temporary
            if durable:
                sync(temporary)
            os.replace(temporary, path)
        if durable:
            sync(path.parent)
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be written: {error.strerror or error}. Mend the folder's permissions, make room, or name "
            "another place."
        ) from error


def sync(path: Path) -> None:
    """Bring a file's content, or a folder's names, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
