"""The folder of a distillation: one run at a time works in it.

The lock belongs to an open file, which the kernel closes with its process: a run that was killed leaves none behind.
"""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from engine.errors import OptionError

LOCK = "run.lock"


@contextmanager
def only_run(folder: Path) -> Generator[None]:
    """Make the folder and hold its lock for a block.

    Raises:
        OptionError: another process or thread works in it, or it cannot be written.
    """
    lock = FileLock(str(folder / LOCK), timeout=0, mode=0o600)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise OptionError(
            f"Another distillation is at work in {folder}, and two would overwrite each other's checkpoints. Wait for "
            "its end, or give another folder."
        ) from error
    except OSError as error:
        raise OptionError(f"The folder {folder} cannot be used: {error}. Give another folder.") from error
    try:
        yield
    finally:
        lock.release()
