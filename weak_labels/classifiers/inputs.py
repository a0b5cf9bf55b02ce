"""What the end model sees of items: their vectors in one view or two, and words beside them, as columns side by side.

Where weak labels teach, one model sees vectors as they are and one sees them through the map. The
first is safer where functions are good, the second worth more where they are not, and gold labels tell (`gold_step`).
Gold labels alone are learned from through the map.

Shape letters: N items, E dimensions of the vectors, T terms.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy.sparse import csr_matrix, hstack

from weak_labels.classifiers.feature_map import FeatureMap
from weak_labels.classifiers.linear import Features, Vectors
from weak_labels.classifiers.self_training import Words


@dataclass(frozen=True, kw_only=True, slots=True)
class Sight:
    """How items are seen.

    Attributes:
        feature_map: the map of their vectors.
        words: what is seen of their texts, in each view; None where nothing is.
        as_they_are: whether there is a view of the vectors as they are too, the first one.
    """

    feature_map: FeatureMap
    words: Words | None = None
    as_they_are: bool = False

    @classmethod
    def plain(cls, dimensions: int) -> Self:
        """Vectors [N, E] as they are and nothing else."""
        return cls(feature_map=FeatureMap.identity(dimensions))

    def of(self, vectors: Vectors, texts: list[str]) -> Features:
        """All that is seen of items, the vectors of the first view first [N, D].

        Args:
            vectors: unit rows [N, E].
            texts: N texts where words are seen, else none are needed.

        Raises:
            SettingsError: vectors are no unit rows of finite numbers.
        """
        mapped = self.feature_map.of(vectors)
        words = [self.words.of(texts)] if self.words else []
        columns: list[Any] = [vectors, *words, mapped] if self.as_they_are else [mapped, *words]
        if words:
            return csr_matrix(hstack([csr_matrix(of) for of in columns]))
        return np.concatenate(columns, axis=1) if self.as_they_are else mapped

    def views(self, features: Features) -> tuple[slice, ...]:
        """The columns of features [N, D] that each view is of."""
        if not self.as_they_are:
            return (slice(0, features.shape[1]),)
        dimensions = self.feature_map.dimensions
        return slice(0, features.shape[1] - dimensions), slice(dimensions, features.shape[1])


@dataclass(frozen=True, slots=True)
class Seen:
    """All that is seen of N items [N, D], worked out for those that are asked for: of a million it is 3 GB.

    Attributes:
        sight: sees no words.
        vectors: unit rows [N, E].
        beside: numbers of each item that stand after these, such as what votes say of it [N, B].
    """

    sight: Sight
    vectors: Vectors
    beside: Vectors | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """N and D."""
        beside = 0 if self.beside is None else self.beside.shape[1]
        return len(self.vectors), self.vectors.shape[1] * (1 + self.sight.as_they_are) + beside

    def __getitem__(self, rows: Any) -> Features:
        """Those of some items, as an array."""
        seen = self.sight.of(self.vectors[rows], [])
        return seen if self.beside is None else np.concatenate([seen, self.beside[rows]], axis=1)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Features:
        """Those of all items; numpy asks for it."""
        return np.asarray(self[:], dtype)
