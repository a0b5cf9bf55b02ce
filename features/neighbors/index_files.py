"""The file of a FAISS index and its sidecar, a cache: believed only where its sums say that it is of these vectors.

FAISS trusts what it reads, so nothing unproved may reach it.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from features.neighbors.search import Floats
from features.neighbors.unique import Distinct
from warehouse import SettingsError
from warehouse.files.atomic_file import replaced_file

FORMAT = 1
HEADER_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Content:
    """An encoder's vectors by ascending item id, of which the index file is made."""

    item_ids: list[str]
    vectors: Floats
    distinct: Distinct

    def sha256(self) -> str:
        """Of ids and vectors."""
        digest = hashlib.sha256(json.dumps(self.item_ids).encode("ascii"))
        digest.update(np.ascontiguousarray(self.vectors).data)
        return digest.hexdigest()


class IndexFiles:
    """The index file of one encoder and its sidecar, and where other files about its vectors are."""

    def __init__(self, folder: Path, encoder_id: str) -> None:
        # An id is never a file name: it could hold anything.
        name = hashlib.sha256(encoder_id.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        self._encoder_id = encoder_id
        self._file = folder / f"{name}.faiss"
        self._sidecar = folder / f"{name}.json"
        self._name = name

    def beside(self, ending: str) -> Path:
        """A file of something else about the vectors, such as their neighbour lists; its folder is there."""
        self._make_folder()
        return self._file.with_name(f"{self._name}.{ending}")

    def load(self, content: Content) -> tuple[Any, str] | None:
        """The index and the file's sha256; None when it is missing, damaged or made from other vectors."""
        vectors = content.vectors[content.distinct.first]
        try:
            sidecar = json.loads(self._sidecar.read_bytes())
            if self._file.stat().st_size > vectors.nbytes + HEADER_BYTES:
                return None
            stored = self._file.read_bytes()
        except (OSError, ValueError, RecursionError):
            return None
        sha256 = hashlib.sha256(stored).hexdigest()
        if sidecar != self._describe(content, sha256):
            return None
        try:
            index = faiss.deserialize_index(np.frombuffer(stored, np.uint8))
        except RuntimeError:
            return None
        found = (type(index), index.ntotal, index.d)
        return (index, sha256) if found == (faiss.IndexFlatIP, *vectors.shape) else None

    def build(self, content: Content) -> tuple[Any, str]:
        """Build the index, write file and sidecar, and return the index and the file's sha256."""
        index = flat(content.vectors[content.distinct.first])
        data: bytes = faiss.serialize_index(index).tobytes()
        sha256 = hashlib.sha256(data).hexdigest()
        self._make_folder()
        with replaced_file(self._file) as temporary:
            temporary.write_bytes(data)
        with replaced_file(self._sidecar) as temporary:
            temporary.write_text(json.dumps(self._describe(content, sha256), indent=1), "utf-8")
        return index, sha256

    def _make_folder(self) -> None:
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise SettingsError(f"The folder {self._file.parent} cannot be made: {error.strerror}.") from error

    def _describe(self, content: Content, sha256: str) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "encoder_id": self._encoder_id,
            "count": len(content.item_ids),
            "dimension": int(content.vectors.shape[1]),
            "vectors_sha256": content.sha256(),
            "sha256": sha256,
        }


def flat(vectors: Floats) -> Any:
    """A FAISS index that compares a query with each of some vectors [U, D]."""
    index: Any = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors))
    return index
