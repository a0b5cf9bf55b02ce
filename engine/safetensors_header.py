"""What a safetensors file says about itself: read without its tensors, and written in one order."""

import json
from pathlib import Path
from typing import Any, cast

from engine.errors import ModelFileError

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
