"""Exploration: a sample of the train items that selection cannot bias, for figures about all of them.

Every item has a fixed place in an order drawn once by its id and the seed. A share of each batch goes to the first
items of that order that nobody was asked about; those that were labelled for another reason are there for nothing. So
all items up to the first unlabelled one are a fair sample, whatever was selected beside it or is ingested later. Items
that people skipped are passed over: the sample speaks for the items that people can label.

Shape letters: N items of the pool.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from active.graph import Rows
from active.pool import Pool

EXPLORED = "Drawn at random, whatever its value: part of the fair sample of all records."
"""Begins the reason of such an item in the queue, also once it is asked again; the saved questions look for it."""


def is_explored(reason: str) -> bool:
    """Whether an item with this reason was drawn for the fair sample, so that its value says nothing."""
    return reason.startswith(EXPLORED)


def exploration_order(item_ids: Sequence[str], seed: int) -> Rows:
    """Places of the items in the order in which exploration asks about them [N].

    It depends on ids and seed alone: an item that is ingested later finds its place between the others.
    """
    key = seed.to_bytes(8, "big")
    digests = [hashlib.blake2b(name.encode("utf-8", "surrogatepass"), key=key).digest() for name in item_ids]
    return np.array(sorted(range(len(digests)), key=digests.__getitem__), np.int64)


def exploration_next(pool: Pool, seed: int, count: int) -> Rows:
    """The first `count` items of the order that are neither labelled nor queued."""
    order = exploration_order(pool.item_ids, seed)
    return order[~np.isin(order, pool.taken)][:count]


def fair_sample(pool: Pool, seed: int) -> Rows:
    """The labelled items that are a fair sample of the pool: all of the order up to the first that is still open.

    Skipped items are left out, so this is a sample of those that people can label.
    """
    order = exploration_order(pool.item_ids, seed)
    order = order[~np.isin(order, pool.skipped)]
    labelled = np.isin(order, pool.labelled)
    return order[: len(order) if labelled.all() else int(np.argmin(labelled))]
