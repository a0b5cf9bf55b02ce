"""A file of an encoder of our own as tests look at it: through the engine's loader, and without it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from engine.model.config import RoutedConfig
from engine.model.dense import DenseEncoder
from engine.model.routed import RoutedEncoder
from engine.weights.in_memory import load_stored_model
from engine.weights.safetensors_file import TensorFile, file_metadata


@dataclass(frozen=True, slots=True)
class Stored:
    """An encoder as it lies in its file."""

    model: RoutedEncoder | DenseEncoder
    tokenizer: bytes
    notes: Mapping[str, str]


def stored(path: Path) -> Stored:
    """What the engine reads; it raises what `load_stored_model` raises."""
    with TensorFile(path) as file:
        model, tokenizer = load_stored_model(file)
        return Stored(model, tokenizer, file.metadata)


def routed_of(path: Path) -> RoutedEncoder:
    """The routed model of a file."""
    model = stored(path).model
    assert isinstance(model, RoutedEncoder)
    return model


def read_at_once(path: Path) -> RoutedEncoder:
    """A routed model as the library of the format reads it, whole: what the engine's own reading is compared with."""
    found = load_file(path)
    found.pop("tokenizer.json")
    scales = found.pop("tokens.scale")
    state = {name: value.float() for name, value in found.items()}
    state["tokens.weight"] *= scales.unsqueeze(1)
    with torch.device("meta"):
        model = RoutedEncoder(RoutedConfig.parse(file_metadata(path)["config"]))
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False)
