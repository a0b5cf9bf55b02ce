"""An encoder whose vectors take half the room: each number is one that 16 bits hold.

DuckDB has no 16-bit numbers, so the column of vectors stays FLOAT[]; the zeros at the end of each number compress. The
rounding is done before anybody sees a vector, so what is stored, searched and given to functions are the same bits, and
the encoder's name says so.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, overload

import numpy as np

from engine.protocol import Encoder, Encoding, Progress, Vectors


class CompactEncoder(Encoder):
    """Another encoder's vectors, rounded to float16; cosines change by less than 0.0001.

    Args:
        inner: gives the vectors.
    """

    def __init__(self, inner: Encoder) -> None:
        self._inner = inner

    @property
    def encoder_id(self) -> str:
        """That of the inner encoder with a mark."""
        return f"{self._inner.encoder_id}-float16"

    @property
    def dimension(self) -> int:
        """D, the length of a vector."""
        return self._inner.dimension

    @property
    def max_tokens(self) -> int:
        """Longest text in tokens."""
        return self._inner.max_tokens

    @overload
    def encode(self, texts: Sequence[str], *, trace: Literal[False] = False) -> Vectors: ...

    @overload
    def encode(self, texts: Sequence[str], *, trace: Literal[True]) -> Encoding: ...

    def encode(self, texts: Sequence[str], *, trace: bool = False) -> Vectors | Encoding:
        """Vectors [N, D] float32 whose numbers float16 holds; with `trace` what `embed` returns."""
        return self.embed(texts) if trace else _rounded(self._inner.encode(texts))

    def embed(self, texts: Sequence[str], progress: Progress | None = None) -> Encoding:
        """Vectors and what they cost; raises what the inner encoder raises."""
        encoding = self._inner.embed(texts, progress)
        return replace(encoding, vectors=_rounded(encoding.vectors))


def _rounded(vectors: Vectors) -> Vectors:
    with np.errstate(over="ignore"):  # beyond float16 becomes infinite; whoever stores vectors refuses it
        return vectors.astype(np.float16).astype(np.float32)
