"""Writing a file so that a reader sees the old content or the whole new one, also after a crash; and its sha256."""

import hashlib
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from warehouse.errors import SettingsError
from warehouse.files.permissions import file_mode
from warehouse.files.scratch import collect, scratch_file

_PART, _OF_MANY = ".part", ".siftline."


@contextmanager
def replaced_file(path: Path, *, durable: bool = True, among_many: bool = False) -> Generator[Path]:
    """A temporary file beside `path` that takes its place when the block ends, and is removed when the block raises.

    It is readable for its owner only (mode 0600). Its content is on disk before it takes the place of the old file.
    What a killed process left of an earlier one is removed.

    Args:
        path: file to write; its folder exists.
        durable: else nobody waits for the disk, and after a power cut parts of the content may be missing: for caches
            whose readers find that by sums.
        among_many: the folder has so many files that looking through it each time takes longer than writing: what a
            killed process left is then removed by `remove_parts`.

    Raises:
        SettingsError: it is a device or a pipe, or the system refuses to write, for lack of rights or room.
    """
    refuse_special(path)
    try:
        prefix = _OF_MANY if among_many else f".{path.name[:64]}."
        with scratch_file(path.parent, prefix, _PART, tidy=not among_many) as temporary:
            yield temporary
            if durable:
                sync(temporary)
            os.replace(temporary, path)
        if durable:
            sync(path.parent)
    except OSError as error:
        way = "Mend the folder's permissions, make room, or name another place."
        if not path.parent.is_dir():
            way = "Its folder is not there: was it moved or removed, or is its disk away? Run again where it is now."
        raise SettingsError(f"{path} cannot be written: {error.strerror or error}. {way}") from error


def keep_from_git(folder: Path) -> None:
    """Have git leave out a folder of records, whatever its name and whatever the repository says of it.

    So `git add .`, `git stash -u` and `git clean -fd` pass it by. A `.gitignore` that is there stays.
    """
    with suppress(OSError):  # one is there, or the folder cannot be written to, which others say
        file = os.open(folder / ".gitignore", os.O_WRONLY | os.O_CREAT | os.O_EXCL, file_mode(folder))
        with open(file, "w", encoding="ascii") as ignored:
            ignored.write("*\n")


def refuse_special(path: Path) -> None:
    """Refuse a place that a plain file must not take: to root, one named /dev/null is null no more.

    Raises:
        SettingsError: it is a device, a pipe or a socket, or may be: /dev/stdout is what the shell made of it.
    """
    if path.absolute().parent == Path("/dev") or (path.exists() and not path.is_file() and not path.is_dir()):
        raise SettingsError(
            f"{path} is a device or a pipe, and a file would take its place. Name a file; what `siftline sql` and "
            "`siftline questions` answer goes to standard output where --output is left out."
        )


def remove_parts(folder: Path) -> None:
    """Remove what killed processes left in a folder of many files."""
    collect(folder, _OF_MANY, _PART)


def sha256_of(path: Path) -> str:
    """sha256 of a file's content, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Bring a file's content, or a folder's names, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
