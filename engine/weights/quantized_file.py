"""Files of quantised encoders, 8 or 4 bits: what `siftline engine quantize` writes, and how it is proved before use.

A file holds the tensors of `quantize.stored_layout`, configuration and tokenizer, and says what it was made from. It
computes bit for bit what its source computes at the same precision; it is only smaller.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import torch

from engine.errors import ModelFileError, OptionError
from engine.model.config import EncoderConfig, RoutedConfig, ShallowConfig
from engine.protocol import ENCODERS
from engine.weights.in_memory import check_places, dense_int8, open_minilm, stored_int8
from engine.weights.quantize import MOST_ROUTER, Int8Weights, Sizes, stored_layout
from engine.weights.routed_file import TOKENIZER, check_output, write_tensors
from engine.weights.safetensors_file import TensorFile, file_metadata
from engine.weights.shipped import SHIPPED, shipped

FORMAT = "siftline-quantized-1"
_KINDS = {"routed": RoutedConfig, "shallow": ShallowConfig, "dense": EncoderConfig}
_MOST = {torch.int8: 127, torch.int16: MOST_ROUTER}


def quantize_encoder(name: str, bits: int, output: Path) -> int:
    """Write a smaller file of an encoder.

    Args:
        name: one of `engine.protocol.ENCODERS`, or the path of a file of our own.
        bits: 8 or 4.
        output: where; it must end in .safetensors.

    Returns:
        Bytes of the file.

    Raises:
        OptionError: an argument is wrong, or the file cannot be written.
        ModelFileError: the encoder is damaged or quantised already.
    """
    if output.suffix != ".safetensors":
        raise OptionError(f"The output is {output}; its name must end in .safetensors.")
    check_output(output)
    with ExitStack() as open_files:
        kind = ENCODERS.get(name, name)
        if kind == "dense":
            config, tokenizer, file = open_minilm()
            weights = dense_int8(open_files.enter_context(file), config, bits)
        else:
            path, sha256 = shipped(kind) if kind in SHIPPED else (Path(name), None)
            if output.exists() and path.exists() and output.samefile(path):
                raise OptionError(f"The output {output} is the encoder itself. Give another name.")
            file = open_files.enter_context(TensorFile(path, sha256))
            weights, tokenizer = stored_int8(file, bits)
        write_quantized(output, weights, tokenizer, {"source": Path(name).name, "source_sha256": file.sha256})
    return output.stat().st_size


def write_quantized(path: Path, weights: Int8Weights, tokenizer: bytes, notes: Mapping[str, str]) -> None:
    """Write the file; one that was there stays until the new one is whole.

    Args:
        path: where.
        weights: the model.
        tokenizer: content of its tokenizer.json.
        notes: what it was made from.

    Raises:
        OptionError: the file cannot be written.
    """
    tensors = {name: value.contiguous() for part in weights.stored() for name, value in part.items()}
    tensors[TOKENIZER] = torch.frombuffer(bytearray(tokenizer), dtype=torch.uint8)
    about = {
        "format": FORMAT,
        "bits": str(weights.bits),
        "kind": weights.config.kind,
        "config": weights.config.to_json(),
    }
    write_tensors(path, tensors, {**notes, **about})


def is_quantized(path: Path) -> bool:
    """Whether a file says that it is one of these; False where it cannot be read."""
    try:
        return file_metadata(path).get("format") == FORMAT
    except (OSError, ModelFileError):
        return False


def read_quantized(file: TensorFile) -> tuple[Int8Weights, bytes]:
    """The model of a file, and its tokenizer.json. Tensors are read when they are wanted; the file must stay open.

    Raises:
        ModelFileError: it is foreign or damaged; a tensor is missing, unknown, of another shape or type. Values that no
            quantised model has are found when the weights are asked for.
    """
    notes = file.metadata
    if notes.get("format") != FORMAT or notes.get("bits") not in ("4", "8"):
        raise ModelFileError(f"{file.name} is no quantised encoder. Make one with: siftline engine quantize")
    kind = _KINDS.get(notes.get("kind", ""))
    if kind is None:
        raise ModelFileError(f"{file.name} has the kind {notes.get('kind')!r}; known are {', '.join(_KINDS)}.")
    config = kind.parse(notes.get("config", ""))
    sizes, bits = Sizes.of(config), int(notes["bits"])
    layout = stored_layout(sizes, bits)
    check_places(file, layout)

    def stored() -> Iterator[dict[str, torch.Tensor]]:
        groups: list[list[str]] = [[] for _ in range(1 + sizes.layers)]
        for name in layout:
            groups[1 + int(name.split(".")[1]) if name.startswith("layers.") else 0].append(name)
        for names in groups:
            yield {name: _read(file, name, *layout[name]) for name in names}

    return Int8Weights(config, sizes, bits, stored), file.content(TOKENIZER)


def _read(file: TensorFile, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    value = torch.empty(shape, dtype=dtype)
    file.fill(name, value)
    most = _MOST.get(dtype)
    # Larger ones would pass the sums that the forward counts on.
    if most is not None and value.numel() and not -most <= int(value.min()) <= int(value.max()) <= most:
        raise ModelFileError(f"{file.name}: tensor {name} holds values beyond {most}.")
    return value
