"""The `Encoder` protocol, `Encoding`, and the names of encoders, devices and precisions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, overload

import numpy as np
import numpy.typing as npt

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
FLOAT = ("fp32", "bf16")
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
