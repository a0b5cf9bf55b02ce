"""Files of arrays that are only caches: whatever is wrong with one, it counts as missing."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from warehouse.files import replaced_file


def read_arrays(path: Path) -> Mapping[str, Any]:
    """The arrays of a file by name; none where it is missing or damaged, which its sums tell."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile):  # a bit may say "encrypted"
        return {}


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Put arrays in the place of what the file holds, all at once; its folder exists.

    Raises:
        SettingsError: the file cannot be written.
    """
    with replaced_file(path, durable=False) as temporary, temporary.open("wb") as handle:
        np.savez(handle, **arrays)
