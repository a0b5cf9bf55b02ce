"""The file of an encoder of our own, routed or shallow: configuration, tokenizer and weights, and how it is written.

The embedding table is stored in 8 bits with one scale per row, large matrices in float16, the rest in float32; all is
float32 again once it is loaded (`engine.weights.in_memory`). Nothing in the file is executed.
"""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save

from engine.errors import OptionError
from engine.model.config import ShallowConfig
from engine.model.dense import DenseEncoder
from engine.model.routed import RoutedEncoder
from engine.weights.safetensors_file import bad_values, with_sorted_metadata

FORMAT = "siftline-routed-1"
SHALLOW_FORMAT = "siftline-shallow-1"
TABLE, SCALES, TOKENIZER = "tokens.weight", "tokens.scale", "tokenizer.json"
_HALF = frozenset({"qkv", "shared_qkv", "output", "shared_output", "up", "down", "shared_up", "shared_down"})
_HALF_MODULES = frozenset({"qkv", "output", "up", "down"})
_HALF_NAMES = frozenset({"positions.weight"})


def write_routed(path: Path, model: RoutedEncoder, tokenizer: bytes, notes: Mapping[str, str] | None = None) -> None:
    """Write the file; one that was there stays until the new one is whole.

    Args:
        path: where.
        model: the encoder.
        tokenizer: content of its tokenizer.json.
        notes: what else to say about it, such as how it was trained.

    Raises:
        OptionError: the file cannot be written, or a weight is not finite or too large for it.
    """
    _write(path, model, tokenizer, {**(notes or {}), "format": FORMAT, "config": model.config.to_json()})


def write_shallow(path: Path, model: DenseEncoder, tokenizer: bytes, notes: Mapping[str, str] | None = None) -> None:
    """The same for a shallow encoder, whose configuration is a `ShallowConfig`."""
    assert isinstance(model.config, ShallowConfig), "a file has to say what the model is a part of"
    _write(path, model, tokenizer, {**(notes or {}), "format": SHALLOW_FORMAT, "config": model.config.to_json()})


def _write(path: Path, model: RoutedEncoder | DenseEncoder, tokenizer: bytes, notes: Mapping[str, str]) -> None:
    tensors: dict[str, torch.Tensor] = {TOKENIZER: torch.frombuffer(bytearray(tokenizer), dtype=torch.uint8)}
    for name, value in model.state_dict().items():
        value = value.detach().cpu().float()
        if name == TABLE:
            scales = value.abs().amax(dim=1).clamp_min(1e-8) / 127
            tensors[TABLE] = (value / scales.unsqueeze(1)).round().clamp(-127, 127).to(torch.int8)
            tensors[SCALES] = scales
        else:
            tensors[name] = value.to(stored_type(name)).contiguous()
    for name, value in tensors.items():
        if value.is_floating_point() and bool(bad_values(name, value).any()):
            raise OptionError(
                f"Tensor {name} holds weights that are not finite, or above 65,504 where the file keeps float16. Take "
                "another parent, or train with a lower rate."
            )
    write_tensors(path, tensors, notes)


def check_output(path: Path) -> None:
    """Whether a file may be written there, asked before the work of which it is the result. Nothing is made.

    Raises:
        OptionError: it cannot.
    """
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise OptionError(
            f"The encoder cannot be written to {path}: {path if path.is_dir() else folder} is "
            + ("a folder." if path.is_dir() else "no folder that may be written.")
        )


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], notes: Mapping[str, str]) -> None:
    """Write a safetensors file; one that was there stays until the new one is whole.

    Raises:
        OptionError: it cannot be written.
    """
    content = with_sorted_metadata(save(dict(tensors), metadata=dict(notes)))
    partial = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise OptionError(f"The encoder cannot be written to {path}: {error}.") from error


def stored_type(key: str) -> torch.dtype:
    """The type in which the file keeps a tensor of the model other than the embedding table."""
    module, _, kind = key.rpartition(".")
    matrix = kind == "weight" and module.rpartition(".")[2] in _HALF_MODULES
    half = key in _HALF_NAMES or kind in _HALF or matrix
    return torch.float16 if half else torch.float32
