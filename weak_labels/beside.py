"""Modules beside a file of labeling functions, which the file and its functions may import.

Where to look for modules, and which are there, is the whole process's. In it may be several threads, a second project,
and the program that uses them; and each of these may have a `helper.py`.
"""

import sys
import threading
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from weak_labels.fingerprint import is_library

_SIFTLINES = frozenset(("active", "engine", "features", "flows", "warehouse", "weak_labels"))
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
        names = {file.stem for file in folder.glob("*.py")}
        names |= {file.parent.name for file in folder.glob("*/__init__.py")}
        taken = {name for name in names - _SIFTLINES - {"__main__"} if _is_of_others(name, folder)}
        others = {name: module for name, module in list(sys.modules.items()) if name.partition(".")[0] in taken}
        for name in others:
            del sys.modules[name]
        try:
            yield
        finally:
            if others:
                for name in [name for name in list(sys.modules) if name.partition(".")[0] in taken]:
                    del sys.modules[name]
                sys.modules.update(others)


def _is_of_others(name: str, folder: Path) -> bool:
    """Whether the process has a module of this name that is neither from a folder nor from an installed library."""
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    return file is not None and not is_library(module) and not Path(file).resolve().is_relative_to(folder.resolve())
