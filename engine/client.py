"""What other packages may import from the engine: the `Encoder` protocol, `Encoding` and `load_encoder`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, overload

import numpy as np
import numpy.typing as npt

from engine.errors import OptionError

Vectors = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]
"""Called with (texts done, texts in all) while `embed` works; a text may count by its share of the work."""

ENCODERS = {"dense": "dense", "routed": "routed", "shallow": "shallow", "default": "dense"}
"""Names that `load_encoder` knows, and the encoder each stands for."""
WITHOUT_BUDGET = ("dense", "shallow")
"""Encoders in which everything always works."""
DEVICES = ("cpu", "cuda")
"""Where an encoder computes; "cuda" is the CUDA device that torch takes first, see CUDA_VISIBLE_DEVICES."""
PRECISIONS = ("fp32", "bf16", "int8", "int4")
"""Number formats of the arithmetic: float32, bfloat16 products (on "cuda"), 8 bits, and 8 bits with weights that went
through 4 (both on "cpu")."""
_FLOAT = ("fp32", "bf16")
DEFAULT_ACTIVE = 0.3
"""Budget of the routed encoder: share of the parent's layer parameters that work for a text on average."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """What an encoder made of N texts.

    Attributes:
        vectors: [N, D] float32, unit rows.
        tokens: [N] int32, tokens encoded, after truncation, [CLS] and [SEP] included.
        truncated: [N] bool, the text was longer than the encoder's limit.
        unread: [N] float32, share of a text's tokens with letters that are unknown to the encoder or single letters of
            a word; 0 from a server that does not tell it.
        active_frac: [N] float32, share of the dense parent's layer parameters that worked for the text, mean over its
            tokens; 1 for a dense encoder, layers over the parent's for a shallow one, and slightly more where a routed
            one has all on, because routers count.
        routes: N routes through the encoder as JSON: by layer the routed heads that worked, by layer on how many tokens
            each expert worked, and the multiplications done; "" for a dense or shallow one.
    """

    vectors: Vectors
    tokens: npt.NDArray[np.int32]
    truncated: npt.NDArray[np.bool_]
    unread: npt.NDArray[np.float32]
    active_frac: npt.NDArray[np.float32]
    routes: list[str]


class Encoder(Protocol):
    """Turns texts into unit vectors. A text gets the same bits alone, in any batch and in any order."""

    @property
    def encoder_id(self) -> str:
        """Changes whenever any output bit could by code, model or options.

        Equal in all processes, and on another machine where the same kind of kernel computes.
        """
        ...

    @property
    def dimension(self) -> int:
        """D, the length of a vector."""
        ...

    @property
    def max_tokens(self) -> int:
        """Longest text in tokens; what follows is cut off."""
        ...

    @overload
    def encode(self, texts: Sequence[str], *, trace: Literal[False] = False) -> Vectors: ...

    @overload
    def encode(self, texts: Sequence[str], *, trace: Literal[True]) -> Encoding: ...

    def encode(self, texts: Sequence[str], *, trace: bool = False) -> Vectors | Encoding:
        """Unit vectors [N, D] float32 of N texts; with `trace` what `embed` returns. Raises what `embed` raises."""
        ...

    def embed(self, texts: Sequence[str], progress: Progress | None = None) -> Encoding:
        """Unit vectors and what they cost.

        Args:
            texts: N texts. An empty one is a text too and has a vector.
            progress: told how many texts are done.

        Raises:
            InputError: some texts cannot be encoded; `reasons` says which and why. Nothing was computed.
            NumericError: the model gave a vector that is not of unit length; `indexes` says for which texts.
        """
        ...


def load_encoder(
    name: str = "default",
    *,
    active: float | None = None,
    max_tokens: int | None = None,
    device: str = "cpu",
    threads: int | None = None,
    precision: str = "fp32",
    memory_budget: int | None = None,
) -> Encoder:
    """Load an encoder from the installed packages or from a file; nothing is fetched.

    Args:
        name: a key of `ENCODERS`, or the path of a file that `siftline engine convert`, `distill` or `quantize` wrote.
        active: budget of a routed encoder, one of those it has; when None, `DEFAULT_ACTIVE`, or everything where it has
            no such. Not for a dense or shallow one.
        max_tokens: longest text in tokens, [CLS] and [SEP] included; 256 when None, the model's own setting.
        device: one of `DEVICES`. Vectors of two devices differ in the last bits, so `encoder_id` does too.
        threads: worker threads; as many as torch uses when None, and 1 on "cuda". Results do not depend on it.
        precision: one of `PRECISIONS`; a quantised file has one only.
        memory_budget: most bytes of weights in the device's memory; with fewer than the model has, what is missing is
            read from its file for each batch, one batch at a time. Vectors and name stay the same. Not for 8 bits.

    Raises:
        OptionError: an argument is wrong, or this machine has no such device or precision.
        ModelFileError: the model is not installed, damaged or another one.
        OverloadError: the weights do not fit into the device's memory at present.
        WorkerError: this process is a fork of one that loaded an encoder, where torch would wait for ever.
    """
    if not _is_text(name):
        raise OptionError(f"The encoder's name is {name!r}; give text: {_known()}.")
    for what, given in (("max_tokens", max_tokens), ("threads", threads), ("memory_budget", memory_budget)):
        if given is not None and not _is_whole(given):
            raise OptionError(f"{what} is {given!r}; it must be a whole number.")
    file = name.endswith(".safetensors")
    if name not in ENCODERS and not file:
        raise OptionError(f"There is no encoder '{name}'. Known are: {_known()}.")
    if threads is not None and threads < 1:
        raise OptionError(f"threads is {threads}; it must be 1 or more.")
    if precision not in PRECISIONS:
        raise OptionError(f"The precision is '{precision}'; known are: {', '.join(PRECISIONS)}.")
    if memory_budget is not None and precision not in _FLOAT:
        raise OptionError(
            f"The precision is '{precision}' and the memory budget {memory_budget}; only fp32 and bf16 weights are "
            "streamed. Leave one of the two out."
        )
    if device == "cuda" and precision not in _FLOAT:
        raise OptionError(
            f"The device is 'cuda' with the precision '{precision}'; fp32 and bf16 compute there. Use one of them, or "
            "the device 'cpu'."
        )
    if device == "cpu" and precision == "bf16":
        raise OptionError(
            "The device is 'cpu' with the precision 'bf16'; a processor's bfloat16 products have other bits in other "
            "batches. Use the precision 'int8', which is faster there, or 'fp32', or the device 'cuda'."
        )
    # torch takes a second to import; commands that load no encoder must not pay for it.
    from engine.device import check_device, refuse_fork
    from engine.loading import load_dense, load_quantized, load_stored
    from engine.quantized_file import is_quantized
    from engine.weights import shipped

    check_device(device, precision)
    refuse_fork()
    kind = None if file else ENCODERS[name]
    if kind in WITHOUT_BUDGET and active is not None:
        raise OptionError(f"active is {active}; the encoder '{name}' is dense and has no budget.")
    if kind == "dense":
        return load_dense(
            max_tokens=max_tokens, threads=threads, precision=precision, memory_budget=memory_budget, device=device
        )
    path, sha256 = (Path(name), None) if kind is None else shipped(kind)
    if kind is None and is_quantized(path):
        return load_quantized(path, active=active, max_tokens=max_tokens, threads=threads, precision=precision)
    return load_stored(
        path,
        sha256,
        active=active,
        max_tokens=max_tokens,
        threads=threads,
        precision=precision,
        memory_budget=memory_budget,
        device=device,
    )


def _known() -> str:
    return f"{', '.join(sorted(ENCODERS))}, or the path of a .safetensors file"


def _is_text(given: object) -> bool:
    return isinstance(given, str)


def _is_whole(given: object) -> bool:
    return isinstance(given, int | np.integer)
