"""Files of arrays that are only caches: whatever is wrong with one, it counts as missing."""

import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from warehouse.files.atomic_file import replaced_file

# A bit may say "encrypted"; NumPy reads a shape as Python, before any sum is compared; a shape may be of any size.
_DAMAGED = (
    OSError,
    ValueError,
    EOFError,
    RuntimeError,
    SyntaxError,
    tokenize.TokenError,
    MemoryError,
    zlib.error,
    zipfile.BadZipFile,
)


def read_arrays(path: Path) -> Mapping[str, Any]:
    """The arrays of a file by name; none where it is missing or damaged, which its sums tell."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except _DAMAGED:
        return {}


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Put arrays in the place of what the file holds, all at once; its folder exists.

    Raises:
        SettingsError: the file cannot be written.
    """
    with replaced_file(path, durable=False) as temporary, temporary.open("wb") as handle:
        np.savez(handle, **arrays)
