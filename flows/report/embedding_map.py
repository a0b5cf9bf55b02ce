"""Vectors on a plane: where each item stands on the report's map.

t-SNE keeps neighbours together, which is what the map is read for. It runs on one thread: with two, the sums of a
busy machine come in another order and another run gives another map.
"""

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from warehouse.numeric import one_core
from warehouse.queries.reader import Matrix

FEWEST_FOR_TSNE = 60
PERPLEXITY = 30
PCA_DIMENSIONS = 50  # enough for neighbours; 384 dimensions make the neighbour search three times as slow
ITERATIONS = 600
SEED = 0


def lay_out(vectors: Matrix) -> tuple[npt.NDArray[np.float64], str]:
    """Places of items on a plane.

    Args:
        vectors: [N, D] float32, finite.

    Returns:
        places [N, 2] float64 between 0 and 1, and the method with its settings in words: t-SNE, or PCA where there
        are too few items or distinct vectors for neighbourhoods to mean anything.

    Source: van der Maaten and Hinton, Visualizing Data using t-SNE, JMLR 9 (2008); PCA start after Kobak and
    Berens, The art of using t-SNE for single-cell transcriptomics, Nature Communications 10 (2019).
    """
    n, d = vectors.shape
    distinct = len(np.unique(vectors, axis=0))
    if distinct < 2 or d < 2:
        return np.full((n, 2), 0.5), "PCA"
    with one_core():
        if distinct < FEWEST_FOR_TSNE:
            return _to_unit(PCA(2, random_state=SEED).fit_transform(vectors)), "PCA"
        reduced = PCA(min(PCA_DIMENSIONS, d, n), random_state=SEED).fit_transform(vectors)
        perplexity = min(PERPLEXITY, (n - 1) / 4)
        tsne = TSNE(2, init="pca", perplexity=perplexity, max_iter=ITERATIONS, random_state=SEED)
        how = f"t-SNE (perplexity {perplexity:.0f}, {ITERATIONS} iterations, PCA start, seed {SEED})"
        return _to_unit(tsne.fit_transform(reduced)), how


def _to_unit(places: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    low, high = places.min(axis=0), places.max(axis=0)
    return (places - low) / np.where(high > low, high - low, 1.0)
