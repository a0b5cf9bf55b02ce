"""What a search for neighbours has found so far, in a file: one that is cut off goes on there.

Of a million vectors it takes 25 minutes of two cores. Only a cache: believed where it is whole, of the same search and
of the shape that is wanted.

Shape letters: N vectors, D embedding, K neighbours, P inverted lists that a vector looks into.
"""

import hashlib
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from warehouse import SettingsError
from warehouse.files.array_cache import read_arrays, write_arrays

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

EVERY_S = 60.0
"""Between two writings."""
STEP = 16_384


@dataclass(slots=True)
class Begun:
    """The file of one search.

    Attributes:
        path: the file; None keeps nothing.
        search: digest of what is looked for and where.
        kept_at: seconds of the clock when it was written last.
    """

    path: Path | None
    search: str
    kept_at: float

    @classmethod
    def of(cls, path: Path | None, vectors: Array, looks: Array) -> "Begun":
        """The file of a search for the neighbours of vectors [N, D] in the lists that each looks into [N, P]."""
        digest = hashlib.sha256()
        for array in (vectors, looks) if path else ():
            for start in range(0, len(array), STEP):
                digest.update(np.ascontiguousarray(array[start : start + STEP]).data)
        return cls(path, digest.hexdigest(), time.monotonic())

    def found(self, shape: tuple[int, ...]) -> tuple[Floats, Rows, int] | None:
        """Similarities and rows of that shape [N, K], and lists that were gone through; None where nothing is kept."""
        content = read_arrays(self.path) if self.path else {}
        if content.get("search") != self.search:
            return None
        similarity, rows = content["similarity"], content["rows"]
        fits = similarity.shape == rows.shape == shape and (similarity.dtype, rows.dtype) == (np.float32, np.int64)
        return (similarity, rows, int(content["done"])) if fits else None

    def keep(self, similarity: Floats, rows: Rows, done: int) -> None:
        """Write what was found in so many lists, where the last time is a minute ago."""
        if self.path and time.monotonic() >= self.kept_at + EVERY_S:
            with suppress(SettingsError):  # then a search that is cut off begins anew
                kept = {"search": self.search, "similarity": similarity, "rows": rows, "done": done}
                write_arrays(self.path, kept)
            self.kept_at = time.monotonic()
