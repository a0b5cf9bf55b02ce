"""Clusters of the pool: seeded k-means for the strategies that partition before they pick.

Shape letters: N items, D embedding, K clusters.
"""

from typing import Any, cast

import numpy as np

from active.pool.graph import Floats, Rows, Vectors
from warehouse.numeric import one_core

MOST_STEPS = 20
FITTED_PER_CLUSTER = 256
"""Centres are fitted on at most so many items per cluster; more of them move a centre by less than clusters overlap."""


def k_means(vectors: Vectors, clusters: int, generator: np.random.Generator) -> tuple[Rows, Floats]:
    """Partition items by k-means.

    Args:
        vectors: [N, D] unit rows.
        clusters: clusters wanted; there are never more than distinct vectors.
        generator: draws the first centres.

    Returns:
        cluster of each item [N], and its distance to the centre [N], 0 or more.

    Source: Arthur, Vassilvitskii (2007), k-means++: The Advantages of Careful Seeding.
    """
    from sklearn.cluster import KMeans  # takes a second to import

    seed, count = int(generator.integers(2**31)), len(vectors)
    if count == 0:
        return np.empty(0, np.int64), np.empty(0)
    fitted = vectors
    if count > FITTED_PER_CLUSTER * clusters:
        fitted = vectors[np.sort(generator.choice(count, FITTED_PER_CLUSTER * clusters, replace=False))]
    wanted = min(clusters, len(fitted))
    if len(np.unique(fitted, axis=0)) < wanted:
        fitted = np.unique(fitted, axis=0)
        wanted = len(fitted)
    with one_core():  # more threads would add up the centres in another order
        model: Any = KMeans(wanted, n_init=cast(Any, 1), max_iter=MOST_STEPS, random_state=seed).fit(fitted)
        cluster = np.asarray(model.predict(vectors), np.int64)
        return cluster, np.linalg.norm(vectors - model.cluster_centers_[cluster], axis=1).astype(np.float64)
