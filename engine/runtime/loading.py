"""From files to encoders in this process: dense, routed, shallow, quantised; see `engine.load.load_encoder`."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import torch

from engine.errors import OptionError
from engine.kernels.native import int8_forward
from engine.kernels.native.float32 import float_forward, torch_forward
from engine.model.config import EncoderConfig, RoutedConfig
from engine.model.dense import DenseEncoder, Pack
from engine.model.deterministic import MOST_ROWS
from engine.model.device import CUDA_ROWS, computing
from engine.model.routed import RoutedEncoder
from engine.model.tokenizer import TextTokenizer
from engine.model.trace import Forward, LayerTrace, text_traces
from engine.runtime.local import LocalEncoder
from engine.runtime.request import Packed
from engine.weights.in_memory import dense_int8, load_dense_model, load_stored_model, open_minilm, stored_int8
from engine.weights.quantize import Int8Weights
from engine.weights.quantized_file import read_quantized
from engine.weights.safetensors_file import TensorFile
from engine.weights.shipped import MINILM
from engine.weights.streamed import streamed_dense, streamed_stored

CODE_VERSION = 3
"""Part of every encoder_id. Raise it when the engine's code changes any output bit."""

DEFAULT_MAX_TOKENS = 256
MIN_TOKENS = 3
BITS = {"int8": 8, "int4": 4}
_FLOATS = {"fp32": torch.float32, "bf16": torch.bfloat16}
_ARITHMETIC = {"fp32": "float32", "bf16": "bfloat16", "int4": "int4, query, key and value int8"}
"""Part of the encoder_id where the precision's name does not say it."""


def load_dense(
    *,
    max_tokens: int | None,
    threads: int | None,
    precision: str = "fp32",
    memory_budget: int | None = None,
    device: str = "cpu",
) -> LocalEncoder:
    """The dense parent all-MiniLM-L6-v2; see `engine.load.load_encoder`."""
    config, tokenizer, file = open_minilm()
    with ExitStack() as until_loaded:
        until_loaded.enter_context(file)
        streamed = None
        if precision in BITS:
            model = dense_int8(file, config, BITS[precision])
        else:
            dtype = _FLOATS[precision]
            with computing(device):
                if memory_budget is not None:
                    streamed = streamed_dense(file, config, memory_budget, device, dtype)
                model = streamed or load_dense_model(file, config, device, dtype)
        if streamed is not None:
            threads = 1
            until_loaded.pop_all()  # it reads the file for as long as it works
        sha256 = MINILM.sha256
        return encoder_of(
            model, tokenizer, sha256=sha256, max_tokens=max_tokens, threads=threads, device=device, precision=precision
        )


def load_stored(
    path: Path,
    sha256: str | None,
    *,
    active: float | None,
    max_tokens: int | None,
    threads: int | None,
    precision: str = "fp32",
    memory_budget: int | None = None,
    device: str = "cpu",
) -> LocalEncoder:
    """An encoder of our own, routed or shallow, from its file; see `engine.load.load_encoder`.

    Args:
        path: the file.
        sha256: what it must have; None for any.
        active: as there, like the others.
        max_tokens: longest text.
        threads: worker threads.
        precision: of the arithmetic.
        memory_budget: bytes.
        device: where it computes.

    Raises:
        OptionError: an argument is out of range.
        ModelFileError: the file is damaged or another one.
    """
    with ExitStack() as until_loaded:
        file = until_loaded.enter_context(TensorFile(path, sha256))
        streamed = None
        if precision in BITS:
            model, tokenizer = stored_int8(file, BITS[precision])
        else:
            dtype = _FLOATS[precision]
            with computing(device):
                if memory_budget is not None:
                    streamed = streamed_stored(file, memory_budget, device, dtype)
                model, tokenizer = streamed or load_stored_model(file, device, dtype)
        if streamed is not None:
            threads = 1
            until_loaded.pop_all()  # it reads the file for as long as it works
        _check_active(model.config, active, path.name)
        return encoder_of(
            model,
            tokenizer,
            sha256={"encoder": file.sha256},
            active=active,
            max_tokens=max_tokens,
            threads=threads,
            device=device,
            precision=precision,
        )


def load_quantized(
    path: Path, *, active: float | None, max_tokens: int | None, threads: int | None, precision: str
) -> LocalEncoder:
    """A file that `engine.weights.quantized_file` wrote; see `engine.load.load_encoder`.

    Raises:
        OptionError: the file has another precision, or an argument is out of range.
        ModelFileError: the file is damaged.
    """
    with TensorFile(path, None) as file:
        weights, tokenizer = read_quantized(file)
        if BITS.get(precision) != weights.bits:
            raise OptionError(
                f"{path.name} has the precision 'int{weights.bits}', and '{precision}' is wanted. Set the precision to "
                f"'int{weights.bits}', or name the encoder that the file was made from."
            )
        _check_active(weights.config, active, path.name)
        return encoder_of(
            weights,
            tokenizer,
            sha256={"encoder": file.sha256},
            precision=precision,
            active=active,
            max_tokens=max_tokens,
            threads=threads,
        )


def _check_active(config: EncoderConfig | RoutedConfig, active: float | None, name: str) -> None:
    if active is not None and not isinstance(config, RoutedConfig):
        raise OptionError(f"active is {active}; the encoder in {name} is dense and has no budget.")


def encoder_of(
    model: DenseEncoder | RoutedEncoder | Int8Weights,
    tokenizer: bytes,
    *,
    sha256: Mapping[str, str],
    active: float | None = None,
    max_tokens: int | None = None,
    threads: int | None = None,
    device: str = "cpu",
    precision: str = "fp32",
) -> LocalEncoder:
    """An encoder around a model: dense, shallow or routed, in floats or quantised.

    Args:
        model: the model, on the device.
        tokenizer: content of its tokenizer.json.
        sha256: of what it was made from, for its name.
        active: budget of a routed model, its default when None.
        max_tokens: longest text in tokens.
        threads: worker threads.
        device: where it computes.
        precision: that of the model's products, for its name.

    Raises:
        OptionError: there is no such budget, or the limit is out of range.
        ModelFileError: the tokenizer does not fit the model.
    """
    config = model.config
    routed, base = (config, config.base) if isinstance(config, RoutedConfig) else (None, config)
    kind, budget = config.kind, 0
    if routed is not None:
        active = routed.default_active if active is None else active
        kind, budget = f"{kind}{float(active)!r}".removesuffix(".0"), routed.budget(active)
    limit = _limit(max_tokens, base)
    if isinstance(model, Int8Weights):
        forward, _ = int8_forward(model)
        arithmetic, shapes = _ARITHMETIC.get(precision, precision), ()  # exact, so their number of rows is no matter
    else:
        forward, arithmetic, shapes = float_parts(model, device, precision)

    def compute(batch: Pack, traced: bool) -> Packed:
        if routed is None or not traced:
            vectors = forward(batch, budget, None)
            return Packed(vectors, [base.active_frac] * len(vectors), [""] * len(vectors))
        layers: list[LayerTrace] = []
        vectors = forward(batch, budget, layers)
        traces = text_traces(routed, layers, batch)
        return Packed(vectors, [trace.active_frac for trace in traces], [trace.to_json() for trace in traces])

    return LocalEncoder(
        compute,
        shapes,
        TextTokenizer(tokenizer, vocab=base.vocab, max_tokens=limit),
        encoder_id=make_encoder_id(
            kind if precision == "fp32" else f"{kind}-{precision}",
            sha256,
            max_tokens=limit,
            precision=arithmetic,
            device=device,
        ),
        dimension=base.width,
        max_tokens=limit,
        threads=threads or (torch.get_num_threads() if device == "cpu" else 1),
        device=device,
        active=None if routed is None else active,
        default_active=None if routed is None else routed.default_active,
        default_max_tokens=_default_limit(base),
    )


def float_parts(
    model: DenseEncoder | RoutedEncoder, device: str = "cpu", precision: str = "fp32"
) -> tuple[Forward, str, tuple[tuple[int, int], ...]]:
    """A float model's forward, its arithmetic for the `encoder_id`, and the shapes whose products are torch's.

    Raises:
        OptionError: SIFTLINE_KERNEL names a kernel that is not known or cannot run here.
    """
    forward, kernel = (torch_forward(model), "torch") if device != "cpu" else float_forward(model)
    return (forward, _ARITHMETIC[precision], model.shapes()) if kernel == "torch" else (forward, "float32, fused", ())


def _limit(max_tokens: int | None, config: EncoderConfig) -> int:
    limit = _default_limit(config) if max_tokens is None else int(max_tokens)
    if not MIN_TOKENS <= limit <= config.positions:
        raise OptionError(f"max_tokens is {limit}; the model takes {MIN_TOKENS} to {config.positions}.")
    return limit


def _default_limit(config: EncoderConfig) -> int:
    return min(DEFAULT_MAX_TOKENS, config.positions)


def make_encoder_id(
    kind: str, sha256: Mapping[str, str], *, max_tokens: int, precision: str, device: str = "cpu"
) -> str:
    """Name of an encoder from all that decides its output, such as `dense-256-3f0c9a1b2d4e`.

    Args:
        kind: kind of encoder.
        sha256: of each model file, by name.
        max_tokens: longest text in tokens.
        precision: number format of the arithmetic.
        device: where it is done; any but the CPU is named.
    """
    if device != "cpu":
        kind = f"{kind}-{device}"
    parts = {
        "kind": kind,
        "files": dict(sha256),
        "max_tokens": max_tokens,
        "precision": precision,
        "most_rows": MOST_ROWS if device == "cpu" else CUDA_ROWS,
        "code": CODE_VERSION,
    }
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode("utf-8")).hexdigest()
    return f"{kind}-{max_tokens}-{digest[:12]}"
