"""A safetensors file that is read where and when a weight is wanted, and what its header must say.

Nothing is mapped into memory: what was read and used is gone, also from this process's books.
"""

import hashlib
import json
import math
import os
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import torch

from engine.errors import ModelFileError

CHUNK_BYTES = 1 << 20
MOST_DIMENSIONS = 8
THRESHOLDS = (".thresholds", ".thresholds_B")
_TYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I8": torch.int8,
    "I16": torch.int16,
    "U8": torch.uint8,
    "I64": torch.int64,
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies in its file. Attributes: type; shape; first byte."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, that is, of all but the first dimension."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def stop(self) -> int:
        """The byte behind its last one."""
        return self.start + self.shape[0] * self.row_bytes


class TensorFile:
    """A safetensors file that stays open and is read where and when a weight is wanted.

    Args:
        path: the file.
        sha256: what it must have; None to compute it only.

    Attributes:
        sha256: of the file.
        metadata: its text metadata.
        places: where each tensor lies.

    Raises:
        ModelFileError: the file cannot be read, has another sha256, or no sound header.
    """

    def __init__(self, path: Path, sha256: str | None = None) -> None:
        self.name = path.name
        try:
            self._file = os.open(path, os.O_RDONLY)
        except OSError as error:
            way = "Install the package again." if sha256 is not None else "Name a file that is there."
            raise ModelFileError(f"The model file {path} cannot be read: {error}. {way}") from error
        # At the latest with this object: a load that fails closes nothing, and a streamed model reads to its end.
        self._closed = weakref.finalize(self, os.close, self._file)
        try:
            self._state = self._now()
            self._size = self._state[0]
            self.sha256 = self._digest()
            if sha256 is not None and self.sha256 != sha256:
                raise ModelFileError(
                    f"The model file {path} has sha256 {self.sha256}, expected {sha256}. It is damaged or from another "
                    "model; install the package again."
                )
            size = int.from_bytes(self._read(0, min(8, self._size)), "little")
            head = self._read(0, min(8 + size, 8 + LARGEST_HEADER, self._size))
            self.metadata = metadata(head, name=self.name)
            self.places = self._places(json.loads(head[8:]), 8 + size)
        except OSError as error:
            raise ModelFileError(f"The model file {path} cannot be read: {error}.") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it; nothing can be read any more."""
        self._closed()

    def chunks(self, name: str, first: int = 0, stop: int | None = None) -> Iterator[tuple[int, torch.Tensor]]:
        """A tensor's rows from `first` on, about a megabyte at a time: number of the first row, and rows [R, ...]."""
        place = self.places[name]
        stop = place.shape[0] if stop is None else stop
        if not place.row_bytes:  # a part that the encoder does not have, such as a shared block
            return
        rows = max(1, CHUNK_BYTES // place.row_bytes)
        for row in range(first, stop, rows):
            count = min(rows, stop - row)
            content = bytearray(self._read(place.start + row * place.row_bytes, count * place.row_bytes))
            yield row, torch.frombuffer(content, dtype=place.dtype).view(count, *place.shape[1:])

    def fill(self, name: str, target: torch.Tensor, rows: tuple[int, int] | None = None) -> None:
        """Read a tensor, or some rows of it, into a tensor of its shape, which may be a view of another one.

        Args:
            name: of the tensor.
            target: takes all rows, or `rows[1] - rows[0]` of them.
            rows: first row and the one after the last.

        Raises:
            ModelFileError: a value is not finite.
        """
        first, stop = rows or (0, self.places[name].shape[0])
        for row, chunk in self.chunks(name, first, stop):
            if chunk.is_floating_point() and bool(bad_values(name, chunk).any()):
                raise ModelFileError(f"{self.name}: tensor {name} holds values that are not finite.")
            target[row - first : row - first + len(chunk)].copy_(sent(chunk, target))

    def content(self, name: str) -> bytes:
        """A tensor's bytes."""
        place = self.places[name]
        return self._read(place.start, place.shape[0] * place.row_bytes)

    def _read(self, start: int, count: int) -> bytes:
        """Bytes of the file. Raises: ModelFileError when it ends before, or is no longer the file that was hashed."""
        parts: list[bytes] = []
        while count:
            part = os.pread(self._file, count, start)
            if not part:
                raise ModelFileError(f"{self.name} ends at byte {start}, and {count} more are wanted. It is cut off.")
            parts.append(part)
            start, count = start + len(part), count - len(part)
        if self._now() != self._state:  # copied over, say; a file that takes its name is another one, and does no harm
            raise ModelFileError(f"{self.name} was changed since it was opened. Load the encoder again.")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _now(self) -> tuple[int, int]:
        found = os.fstat(self._file)
        return found.st_size, found.st_mtime_ns

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for start in range(0, self._size, CHUNK_BYTES):
            digest.update(self._read(start, min(CHUNK_BYTES, self._size - start)))
        return digest.hexdigest()

    def _places(self, header: Any, data: int) -> dict[str, Place]:
        if not isinstance(header, dict):
            raise ModelFileError(f"{self.name} has a safetensors header that is no object.")
        places: dict[str, Place] = {}
        for name, entry in cast("dict[str, Any]", header).items():
            if name == "__metadata__":
                continue
            try:
                dtype = _TYPES[entry["dtype"]]
                shape = tuple(int(length) for length in entry["shape"])
                start, stop = (data + int(offset) for offset in entry["data_offsets"])
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise ModelFileError(f"{self.name}: tensor {name:.80} is described by {entry!r:.200}.") from error
            # Bounded before they are multiplied: a header has room for numbers whose product takes hours.
            sound = len(shape) <= MOST_DIMENSIONS and all(0 <= length <= self._size for length in shape)
            sound = sound and data <= start <= stop <= self._size
            if not sound or stop - start != math.prod(shape) * dtype.itemsize:
                raise ModelFileError(
                    f"{self.name} is damaged or cut off: tensor {name:.80} of shape {shape!r:.80} should lie at bytes "
                    f"{start!r:.20} to {stop!r:.20} of {self._size}. Fetch or make the file again."
                )
            places[name] = Place(dtype, shape or (1,), start)
        self._check_every_byte_is_of_one(places, data)
        return places

    def _check_every_byte_is_of_one(self, places: Mapping[str, Place], data: int) -> None:
        """As the format wants it; two names for the same bytes would be a model that nobody has made."""
        end, before = data, "the header"
        for name, place in sorted(places.items(), key=lambda item: (item[1].start, item[1].stop)):
            if place.start != end:
                how = "lies in" if place.start < end else "leaves a gap behind"
                raise ModelFileError(
                    f"{self.name} is damaged: tensor {name}, from byte {place.start} on, {how} {before}, which ends at "
                    f"byte {end}. Fetch or make the file again."
                )
            end, before = place.stop, f"tensor {name}"
        if end != self._size:
            raise ModelFileError(
                f"{self.name} has {self._size} bytes, and {before} ends at byte {end}. Fetch or make the file again."
            )


def bad_values(name: str, values: torch.Tensor) -> torch.Tensor:
    """Which values of a tensor no encoder has: those not finite. A threshold of minus infinity lets everything work."""
    return torch.isnan(values) if name.endswith(THRESHOLDS) else ~torch.isfinite(values)


def sent(chunk: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The chunk on the target's device. To a GPU it is on its way while the next one is read: from a pinned buffer,
    which torch does not use again before the copy is done."""
    return chunk.pin_memory().to(target.device, non_blocking=True) if target.is_cuda else chunk


LARGEST_HEADER = 16 * 1024**2


def metadata(content: bytes, *, name: str) -> dict[str, str]:
    """The text metadata of a safetensors file.

    Args:
        content: the file, or its beginning up to the end of the header.
        name: what to call the file in messages.

    Raises:
        ModelFileError: there is no readable header.
    """
    size = int.from_bytes(content[:8], "little")
    if len(content) < 8 or not 2 <= size <= min(LARGEST_HEADER, len(content) - 8):
        raise ModelFileError(f"{name} is not a safetensors file, or is cut off.")
    try:
        header = json.loads(content[8 : 8 + size])
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{name} has no readable safetensors header: {error}.") from error
    found = cast("dict[str, Any]", header).get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(found, dict):
        return {}
    return {str(key): str(value) for key, value in cast("dict[Any, Any]", found).items()}


def file_metadata(path: Path) -> dict[str, str]:
    """The text metadata of a safetensors file on disk; no tensor is read.

    Raises:
        ModelFileError: there is no readable header.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(8)
        size = min(int.from_bytes(start, "little"), LARGEST_HEADER)
        return metadata(start + file.read(size), name=str(path))


def with_sorted_metadata(content: bytes) -> bytes:
    """The same file with its metadata in one order: the library writes it in another one each time."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + content[8 + size :]
