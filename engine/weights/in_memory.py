"""Models filled from their file, all weights in memory; of those that do not fit see `engine.weights.streamed`.

Weights go from the file to their place in chunks: file and model are never held whole together.

The file is proved by its sha256 and checked by names, shapes and types before a weight is used; finiteness is checked
chunk by chunk. Nothing is mapped into memory: what was read and used is gone, also from this process's books. An int8
model is made tensor by tensor while its float weights are read.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch

from engine.errors import ModelFileError
from engine.model.attention import RoutedAttention
from engine.model.config import EncoderConfig, RoutedConfig, ShallowConfig
from engine.model.dense import DenseEncoder, Linear
from engine.model.experts import RoutedFeedForward
from engine.model.families import TYPES
from engine.model.routed import RoutedEncoder
from engine.weights.quantize import Int8Weights, quantize_floats
from engine.weights.routed_file import FORMAT, SCALES, SHALLOW_FORMAT, TABLE, TOKENIZER, stored_type
from engine.weights.safetensors_file import TensorFile, sent
from engine.weights.shipped import MINILM, WEIGHTS, check_tensors, encoder_tensors, package_files, package_folder

Model = TypeVar("Model", bound=torch.nn.Module)

LAYER_NAMES: Mapping[str, tuple[str, ...]] = {
    "attention.qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.output": ("attention.output.dense",),
    "attention_norm": ("attention.output.LayerNorm",),
    "feed_forward.up": ("intermediate.dense",),
    "feed_forward.down": ("output.dense",),
    "feed_forward_norm": ("output.LayerNorm",),
}
"""Modules of a dense layer, and what a BERT checkpoint calls them."""
BEFORE_LAYERS: Mapping[str, str] = {
    "tokens.weight": "embeddings.word_embeddings.weight",
    "positions.weight": "embeddings.position_embeddings.weight",
    "norm.weight": "embeddings.LayerNorm.weight",
    "norm.bias": "embeddings.LayerNorm.bias",
}
"""Parameters of a model that come before its layers, and what a BERT checkpoint calls them."""


def open_minilm() -> tuple[EncoderConfig, bytes, TensorFile]:
    """Configuration, tokenizer.json and weights of the dense parent all-MiniLM-L6-v2, as `weights.read_minilm`."""
    files = package_files(MINILM, without=WEIGHTS)
    config = EncoderConfig.from_json(files["config.json"], files["1_Pooling/config.json"])
    return config, files["tokenizer.json"], TensorFile(package_folder(MINILM) / WEIGHTS, MINILM.sha256[WEIGHTS])


def without_memory(make: Callable[[], Model], dtype: torch.dtype) -> Model:
    """A model or a part of one without memory for its weights, which `placed` gives it.

    Args:
        make: makes it.
        dtype: of the weights and biases of products; tables, normalisations and routers have float32.
    """
    with torch.device("meta"):
        model = make().eval().requires_grad_(False).float()  # not what torch.set_default_dtype says
    for module in model.modules():
        if isinstance(module, Linear | RoutedAttention | RoutedFeedForward):
            module.to(dtype)
    return model


def placed(model: Model, device: str) -> Model:
    """The same with memory on a device, of any content. `Module.to_empty` would import sympy: 40 MiB."""
    state = model.state_dict()
    memory = {name: torch.empty(value.shape, dtype=value.dtype, device=device) for name, value in state.items()}
    model.load_state_dict(memory, assign=True)
    return model


def load_dense_model(
    file: TensorFile, config: EncoderConfig, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> DenseEncoder:
    """The dense model of a BERT checkpoint, its weights read straight to their places on a device.

    Args:
        file: the checkpoint.
        config: of the model.
        device: where it goes.
        dtype: as in `without_memory`.

    Raises:
        ModelFileError: a tensor is missing, unknown, of another shape or type, or not finite.
    """
    check_dense(file, config)
    model = placed(without_memory(lambda: DenseEncoder(config), dtype), device)
    for name, target in dense_targets(model).items():
        file.fill(name, target)
    finish_positions(file, model.positions.weight)
    return model


def dense_encoder(config: EncoderConfig, tensors: Mapping[str, torch.Tensor]) -> DenseEncoder:
    """The same of tensors in memory (`weights.encoder_tensors`), in float32 on the CPU."""
    model = placed(without_memory(lambda: DenseEncoder(config), torch.float32), "cpu")
    for name, target in dense_targets(model).items():
        target.copy_(tensors[name])
    model.positions.weight += tensors[TYPES][0]
    return model


def check_dense(file: TensorFile, config: EncoderConfig) -> None:
    """Raises: ModelFileError when the file does not hold exactly the tensors of this configuration."""
    found = {name: (place.shape, place.dtype) for name, place in file.places.items()}
    check_tensors(found, encoder_tensors(config), name=file.name)


def dense_targets(model: DenseEncoder, layers: Sequence[int] | None = None) -> dict[str, torch.Tensor]:
    """Where each tensor of the checkpoint goes, as a view of the stored shape.

    Args:
        model: the model.
        layers: what the checkpoint calls its layers; from 0 on when None.
    """
    targets: dict[str, torch.Tensor] = {stored: model.get_parameter(name) for name, stored in BEFORE_LAYERS.items()}
    for number, layer in zip(layers or range(len(model.layers)), model.layers, strict=True):
        targets |= layer_targets(layer, number)
    return targets


def layer_targets(layer: torch.nn.Module, number: int) -> dict[str, torch.Tensor]:
    """The same for one layer."""
    state = dict(layer.named_parameters())
    return {
        name: target
        for ours in LAYER_NAMES
        for kind in ("weight", "bias")
        for name, target in _stored(f"{ours}.{kind}", state[f"{ours}.{kind}"], number).items()
    }


def _stored(ours: str, value: torch.Tensor, number: int) -> dict[str, torch.Tensor]:
    """A layer's parameter as views of the checkpoint's tensors, which stand upright and have no query-key-value."""
    module, kind = ours.rsplit(".", 1)
    names = LAYER_NAMES[module]
    parts = (value.t() if value.dim() == 2 else value).chunk(len(names))
    return {f"encoder.layer.{number}.{name}.{kind}": part for name, part in zip(names, parts, strict=True)}


def finish_positions(file: TensorFile, positions: torch.Tensor) -> None:
    """Add the embedding of `TYPES` to a model's positions."""
    types = torch.empty(2, positions.shape[1], dtype=torch.float32)
    file.fill(TYPES, types)
    positions += types[0].to(positions.device)


def dense_int8(file: TensorFile, config: EncoderConfig, bits: int) -> Int8Weights:
    """The dense model in 8 bits. Each float tensor is read when it is quantised, so the file must stay open until then.

    Raises:
        ModelFileError: as `load_dense_model`, finiteness only when the weights are asked for.
        OptionError: as `engine.weights.quantize.quantize`.
    """
    check_dense(file, config)
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in DenseEncoder(config).state_dict().items()}

    def read(name: str) -> torch.Tensor:
        value = torch.empty(shapes[name], dtype=torch.float32)
        if name.startswith("layers."):
            _, number, ours = name.split(".", 2)
            if value.dim() == 2:
                value = torch.empty(shapes[name][::-1], dtype=torch.float32).t()  # as stored, and as quantised
            for stored, target in _stored(ours, value, int(number)).items():
                file.fill(stored, target)
            return value
        file.fill(BEFORE_LAYERS[name], value)
        if name == "positions.weight":
            finish_positions(file, value)
        return value

    def table(first: int, stop: int) -> torch.Tensor:
        rows = torch.empty(stop - first, config.width, dtype=torch.float32)
        file.fill(BEFORE_LAYERS["tokens.weight"], rows, (first, stop))
        return rows

    return quantize_floats(config, read, table, bits)


def stored_int8(file: TensorFile, bits: int = 8) -> tuple[Int8Weights, bytes]:
    """The model of a file of our own in 8 or 4 bits, and its tokenizer.json; read as in `dense_int8`.

    Raises:
        ModelFileError: as `load_stored_model`, finiteness only when the weights are asked for.
        OptionError: as `engine.weights.quantize.quantize`.
    """
    config = check_stored(file)
    width = config.base.width if isinstance(config, RoutedConfig) else config.width

    def read(name: str) -> torch.Tensor:
        value = torch.empty(file.places[name].shape, dtype=torch.float32)
        file.fill(name, value)
        return value

    def table(first: int, stop: int) -> torch.Tensor:
        rows = torch.empty(stop - first, width, dtype=torch.float32)
        fill_table(file, rows, (first, stop))
        return rows

    return quantize_floats(config, read, table, bits), file.content(TOKENIZER)


def load_stored_model(
    file: TensorFile, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[RoutedEncoder | DenseEncoder, bytes]:
    """The model of a file of our own, on a device, and its tokenizer.json; arguments as in `load_dense_model`.

    Raises:
        ModelFileError: the file is foreign, or a tensor is missing, unknown, of another shape or type, or not finite.
    """
    config = check_stored(file)
    model = placed(without_memory(lambda: model_of(config), dtype), device)
    for name, target in model.state_dict().items():
        if name == TABLE:
            fill_table(file, target)
        else:
            file.fill(name, target)
    return model, file.content(TOKENIZER)


def model_of(config: RoutedConfig | ShallowConfig) -> RoutedEncoder | DenseEncoder:
    """A model of this configuration."""
    return RoutedEncoder(config) if isinstance(config, RoutedConfig) else DenseEncoder(config)


def check_stored(file: TensorFile) -> RoutedConfig | ShallowConfig:
    """The configuration of a file of our own, when the file holds exactly its tensors.

    Raises:
        ModelFileError: it does not.
    """
    kind = {FORMAT: RoutedConfig, SHALLOW_FORMAT: ShallowConfig}.get(file.metadata.get("format", ""))
    if kind is None:
        raise ModelFileError(
            f"{file.name} has format {file.metadata.get('format')!r}, expected {FORMAT!r} or {SHALLOW_FORMAT!r}. Make "
            "one with: siftline engine convert. Of a quantised file, give the one that it was made from."
        )
    config = kind.parse(file.metadata.get("config", ""))
    with torch.device("meta"):
        state = model_of(config).state_dict()
    expected: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
        name: (torch.int8 if name == TABLE else stored_type(name), tuple(value.shape)) for name, value in state.items()
    }
    expected[SCALES] = (torch.float32, tuple(state[TABLE].shape[:1]))
    check_places(file, expected)
    return config


def check_places(file: TensorFile, expected: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> None:
    """Whether a file of our own holds exactly these tensors, by type and shape, and a tokenizer.

    Raises:
        ModelFileError: it does not.
    """
    for name, (dtype, shape) in expected.items():
        place = file.places.get(name)
        if place is None:
            raise ModelFileError(f"{file.name} is from another model: tensor {name} is missing.")
        if place.shape != (shape or (1,)) or place.dtype != dtype:
            raise ModelFileError(
                f"{file.name}: tensor {name} is {place.dtype} {place.shape}, expected {dtype} {shape}."
            )
    tokenizer = file.places.get(TOKENIZER)
    if tokenizer is None or tokenizer.dtype != torch.uint8 or len(tokenizer.shape) != 1:
        raise ModelFileError(f"{file.name} carries no tokenizer.")
    unknown = sorted(file.places.keys() - expected.keys() - {TOKENIZER})
    if unknown:
        raise ModelFileError(f"{file.name} is from another model: unknown tensors {unknown[:3]} ({len(unknown)}).")


def fill_table(file: TensorFile, target: torch.Tensor, rows: tuple[int, int] | None = None) -> None:
    """The embedding table, which is stored in 8 bits with a scale for each row; arguments as in `TensorFile.fill`."""
    first, stop = rows or (0, file.places[TABLE].shape[0])
    scales = torch.empty(stop - first, dtype=torch.float32, device=target.device)
    file.fill(SCALES, scales, (first, stop))
    for row, chunk in file.chunks(TABLE, first, stop):
        place = slice(row - first, row - first + len(chunk))
        torch.mul(sent(chunk, target).float(), scales[place].unsqueeze(1), out=target[place])
