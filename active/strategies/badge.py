"""BADGE on the head: items whose gradients would pull the classifier far and in different directions."""

import numpy as np

from active.strategies.base import Pick, Picking, Situation


def pick_badge(situation: Situation, batch: int) -> Pick:
    """k-means++ on the gradients of the linear head for the predicted class; values fall evenly with the order.

    The gradient of item n is (p_n - onehot) x vector_n. It is never written out: a product of two gradients is the
    product of their two parts.

    Source: Ash et al. (2020), Deep Batch Active Learning by Diverse, Uncertain Gradient Lower Bounds, algorithm 1.
    """
    pool, vectors = situation.pool, situation.graph.vectors
    pick = Picking(situation)
    if not pick.wants(batch):
        return pick.in_order()
    error = pool.predicted.copy()
    error[np.arange(len(error)), error.argmax(axis=1)] -= 1.0
    squared = (error**2).sum(axis=1) * (vectors.astype(np.float64) ** 2).sum(axis=1)
    distance = squared.copy()
    while pick.wants(batch):
        row = pick.draw(distance, situation.generator)
        apart = squared + squared[row] - 2.0 * (error @ error[row]) * (vectors @ vectors[row])
        distance = np.minimum(distance, np.maximum(apart, 0.0))
    return pick.in_order()
