"""What the end model sees of vectors: moved toward what stands around them, and stretched along how items differ.

Both come from vectors alone, and are worth most where labels are few (docs/decisions/end-model-sees-mapped-vectors.md):

1. Texts that are alike mostly have the same class, so an item's vector is mixed with those of the items around it.
2. A ridge takes every direction of the vectors for as likely to matter. Items of different classes lie apart, though,
   so directions in which items differ more are likelier to tell classes apart: along these a weight may be larger.

Source: a spectral prior and propagation of features as in Wu et al. 2019, Simplifying graph convolutional networks,
https://arxiv.org/abs/1902.07153, over attention to a sample of the items instead of a graph, so that a text that is no
item is seen in the same way.

Shape letters: N items, D dimensions, L landmarks.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from warehouse import SettingsError
from warehouse.numeric import one_core, side_by_side
from weak_labels.functions import arguments
from weak_labels.losses import softmax

Vectors = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]

OFF_LENGTH = 0.01
"""By how much the length of a vector may be off 1: it may be rounded to 16 bits."""
LANDMARKS = 1_024
"""Items that stand for all of them."""
SHARPNESS = 20.0
"""By how much the logarithm of a landmark's weight grows with its cosine: one that is .1 nearer weighs seven times."""
AROUND = 0.2
"""Share of what stands around an item in what is seen of it."""
PRIOR_POWER = 0.75
"""Power of the variance of the items along a direction that the prior variance of a weight along it is taken to be."""
MOST_ROWS = 20_000
"""Items that variances are estimated from; more would not change them."""
CHUNK = 8_192
ROUNDING = 1e-12
"""Variance that the rounding of equal mapped vectors may leave."""
SAME = 0.9999
"""Cosine from which a landmark is the item itself, or its double, and says nothing new of it."""


@dataclass(frozen=True, slots=True)
class FeatureMap:
    """How vectors are seen: mixed with those of `landmarks_LD`, which stand for all items, then times `stretch_DD`.

    Without landmarks they are seen as they are.
    """

    landmarks_LD: Vectors
    stretch_DD: Vectors

    @property
    def dimensions(self) -> int:
        """Of the vectors, E."""
        return len(self.stretch_DD)

    @classmethod
    def identity(cls, dimensions: int) -> Self:
        """Vectors [N, D] as they are."""
        return cls(np.zeros((0, dimensions), np.float32), np.eye(dimensions, dtype=np.float32))

    @classmethod
    def fit(cls, vectors: Vectors, rows: Ints | None = None) -> Self:
        """Learn the map from vectors alone.

        No mean is taken away: by what all vectors share, people's labels move a class as a whole. The mean square of
        the distances of mapped vectors from their mean is 1. Vectors that do not differ, or not once they are mixed,
        are left as they are.

        Args:
            vectors: of items [N, D], unit rows; N may be 0.
            rows: those that may be learned from; None for all.

        Raises:
            SettingsError: they are no unit rows of finite numbers.
        """
        vectors = _checked(vectors)
        rows = np.arange(len(vectors)) if rows is None else rows
        landmarks_LD, rows_ND = _some(vectors, rows, LANDMARKS), _some(vectors, rows, MOST_ROWS)
        if not len(rows_ND):
            return cls.identity(rows_ND.shape[1])
        with one_core():  # equal bits on any number of cores
            mixed_ND = _mixed(rows_ND, landmarks_LD).astype(np.float64)
            apart_ND = mixed_ND - mixed_ND.mean(axis=0)
            variance_D, axes_DD = np.linalg.eigh(apart_ND.T @ apart_ND / len(apart_ND))
            variance_D = np.maximum(variance_D, 0.0)
            if variance_D.sum() < ROUNDING:
                return cls.identity(rows_ND.shape[1])
            prior_D = (variance_D + variance_D.mean()) ** PRIOR_POWER
            stretch_DD = (axes_DD * np.sqrt(prior_D / (variance_D @ prior_D))) @ axes_DD.T
        return cls(landmarks_LD, stretch_DD.astype(np.float32))

    def of(self, vectors: Vectors) -> Vectors:
        """Vectors [N, D], unit rows, as the end model sees them [N, D]. Raises what `fit` raises."""
        vectors = _checked(vectors)
        if not len(self.landmarks_LD):
            return vectors
        seen_ND = np.empty(vectors.shape, np.float32)

        def see(part: slice) -> None:
            seen_ND[part] = _mixed(vectors[part], self.landmarks_LD) @ self.stretch_DD

        with one_core():
            for _ in side_by_side(see, len(vectors), CHUNK):
                pass
        return seen_ND


def _checked(vectors: Vectors) -> Vectors:
    """Vectors as an array; refused where they are not of length 1, which cosines are taken for, or of zeros."""
    vectors = arguments.finite(vectors, "Vectors", 2)
    length_N = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.result_type(vectors, np.float32)))
    off = np.flatnonzero((length_N > 0) & (np.abs(length_N - 1.0) > OFF_LENGTH))
    if off.size:
        raise SettingsError(
            f"The vectors of {off.size} of {len(vectors)} items are not of length 1, the first is item {off[0]} "
            f"(counted from 0) with {length_N[off[0]]:.3g}. Divide each by its length."
        )
    return vectors


def _some(vectors: Vectors, rows: Ints, most: int) -> Vectors:
    """Vectors evenly taken from those of some rows, `most` at most [M, D], float32."""
    return np.asarray(vectors[rows[:: -(-len(rows) // most) or 1]], np.float32)


def _mixed(vectors: Vectors, landmarks: Vectors) -> Vectors:
    """Vectors [N, D] mixed with the landmarks [L, D] around them, unit rows, float32."""
    rows_ND = np.asarray(vectors, np.float32)
    cosine_NL = rows_ND @ landmarks.T
    cosine_NL[cosine_NL > SAME] = -np.inf
    cosine_NL[np.isneginf(cosine_NL).all(axis=1)] = 0.0  # nothing but the item itself stands around it
    around_ND = _unit(softmax(SHARPNESS * cosine_NL) @ landmarks)
    return _unit((1 - AROUND) * rows_ND + AROUND * around_ND)


def _unit(vectors: Vectors) -> Vectors:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
