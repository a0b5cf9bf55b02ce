"""What other packages may import from the engine: the `Encoder` protocol, `Encoding` and `load_encoder`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from engine.errors import OptionError

Vectors = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]
"""Called with (texts done, texts in all) while `embed` works."""

ENCODERS = {"dense": "dense", "default": "dense"}
"""Names that `load_encoder` knows, and the encoder each stands for."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """What an encoder made of N texts.

    Attributes:
        vectors: [N, D] float32, unit rows.
        tokens: [N] int32, tokens encoded, after truncation, [CLS] and [SEP] included.
        truncated: [N] bool, the text was longer than the encoder's limit.
        active_frac: [N] float32, share of the layer parameters that worked for the text, 0 to 1.
        routes: N routes through the encoder as JSON; "" for a dense one.
    """

    vectors: Vectors
    tokens: npt.NDArray[np.int32]
    truncated: npt.NDArray[np.bool_]
    active_frac: npt.NDArray[np.float32]
    routes: list[str]


class Encoder(Protocol):
    """Turns texts into unit vectors. A text gets the same bits alone, in any batch and in any order."""

    @property
    def encoder_id(self) -> str:
        """Changes whenever any output bit could by code, model or options; equal in all processes and machines."""
        ...

    @property
    def dimension(self) -> int:
        """D, the length of a vector."""
        ...

    @property
    def max_tokens(self) -> int:
        """Longest text in tokens; what follows is cut off."""
        ...

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors [N, D] float32 of N texts. Raises what `embed` raises."""
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
    name: str = "default", *, max_tokens: int | None = None, device: str = "cpu", threads: int | None = None
) -> Encoder:
    """Load an encoder from the installed packages; nothing is fetched.

    Args:
        name: a key of `ENCODERS`.
        max_tokens: longest text in tokens, [CLS] and [SEP] included; 256 when None, the model's own setting.
        device: "cpu".
        threads: worker threads; as many as torch uses when None. Results do not depend on it.

    Raises:
        OptionError: an argument is wrong.
        ModelFileError: the model is not installed, damaged or another one.
    """
    if name not in ENCODERS:
        raise OptionError(f"There is no encoder '{name}'. Known are: {', '.join(sorted(ENCODERS))}.")
    if device != "cpu":
        raise OptionError(f"The device is '{device}'; the encoder '{name}' runs on 'cpu' only.")
    if threads is not None and threads < 1:
        raise OptionError(f"threads is {threads}; it must be 1 or more.")
    # torch takes a second to import; commands that load no encoder must not pay for it.
    from engine.local import load_dense

    return load_dense(max_tokens=max_tokens, threads=threads)
