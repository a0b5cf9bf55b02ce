"""Modules beside a file of labeling functions, which the file and its functions may import.

Where to look for modules, and which are there, is the whole process's. In it may be several threads, a second project,
and the program that uses them; and each of these may have a `helper.py`.
"""

import os
import sys
import threading
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb
from types import ModuleType

from weak_labels.functions.version import is_library

SIFTLINES = frozenset(("active", "engine", "features", "flows", "warehouse", "weak_labels"))
"""Siftline's own packages: what lies beside a file under one of these names is not found."""
_paths = threading.Lock()
_users = Counter[str]()
_modules = threading.RLock()


@contextmanager
def importable(folder: Path | None) -> Generator[None]:
    """Let code import the modules beside a file of labeling functions, until the last thread is out of such a block."""
    place = str(folder)
    with _paths:
        ours = folder is not None and (place in _users or place not in sys.path)
        if ours:
            if place not in _users:
                sys.path.insert(0, place)
            _users[place] += 1
    try:
        yield
    finally:
        if ours:
            with _paths:
                _users[place] -= 1
                if not _users[place]:
                    del _users[place]
                    sys.path.remove(place)


@contextmanager
def own_modules(folder: Path) -> Generator[None]:
    """Let code import what lies in a folder also where the process has other modules of these names.

    Those are back after the block. One thread is in such a block at a time.
    """
    with _modules:
        names = {file.stem for file in folder.glob("*.py")} | {file.parent.name for file in folder.glob("*/*.py")}
        names -= {*SIFTLINES, "__main__"}
        there = {name: module for name, module in sys.modules.copy().items() if _top(name) in names}
        taken = {_top(name) for name, module in there.items() if _is_of_others(module, folder / _top(name))}
        others = {name: module for name, module in there.items() if _top(name) in taken}
        for name in others:
            del sys.modules[name]
        try:
            yield
        finally:
            if others:
                for name in [name for name in sys.modules.copy() if _top(name) in taken]:
                    del sys.modules[name]
                sys.modules.update(others)


def another_place(error: BaseException) -> str:
    """Words behind an error for a file that is looked for in the folder that a command was called from."""
    name: object = error.filename if isinstance(error, FileNotFoundError) else None
    if not isinstance(name, str | os.PathLike) or Path(name).is_absolute():
        return ""
    if any(frame.f_globals.get("__name__") == "subprocess" for frame, _ in walk_tb(error.__traceback__)):
        return ""  # it is a program, which is looked for elsewhere
    return (
        ". A relative path begins in the folder that a command is called from; for a file beside the functions write: "
        f"Path(__file__).parent / {str(name)!r}"
    )


def _top(name: str) -> str:
    return name.partition(".")[0]


def _is_of_others(module: ModuleType, place: Path) -> bool:
    """Whether a module lies neither at a place, which is a file's without its ending or a folder, nor in a library."""
    file = getattr(module, "__file__", None)
    if file is None or is_library(module):
        return False
    lies, place = Path(file).resolve(), place.resolve()
    return not lies.is_relative_to(place) and lies != place.with_name(f"{place.name}.py")
