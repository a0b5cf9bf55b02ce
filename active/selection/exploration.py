"""Exploration: a sample of the train items that selection cannot bias, and how often the end model is right on it.

Every item has a fixed place in an order drawn once by its id and the seed. A share of each batch goes to the first
items of that order that nobody was asked about; those that were labelled for another reason are there for nothing. So
all items up to the first unlabelled one are a fair sample, whatever was selected beside it. What is ingested later
finds its place between them and is unlabelled at first; so the sample may be one of the items that came before a time.
Items that people skipped are passed over: the sample speaks for the items that people can label. Each counts with what
the end model said of it before anybody had answered, so no model is asked about what it learned.

Shape letters: N items of the pool.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from active.pool.graph import Rows
from active.pool.pool import ANSWERED, ASKED, Pool
from warehouse import Reader

NEARLY_ALL = 0.9
"""Share of the largest sample that one of a larger pool must have to be taken in its place."""
LAST_LEAST = 10
"""Items from which on those that were answered last are counted for themselves."""
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
    if not count:  # the order of a million takes seconds
        return np.empty(0, np.int64)
    order = exploration_order(pool.item_ids, seed)
    return order[~np.isin(order, pool.taken)][:count]


def fair_sample(
    item_ids: Sequence[str], labelled: Rows, skipped: Rows, seed: int, came: Rows | None = None
) -> tuple[Rows, int | None]:
    """The labelled items that are a fair sample of the pool: all of the order up to the first that is still open.

    Where items come in all the time, one is open somewhere at the begin of the order. Then it is a fair sample of the
    items that came before some time, the latest by which it has nine tenths of what any has. Only which items are open,
    and when they came, decides about the time.

    Args:
        item_ids: of the pool [N].
        labelled: places of those with a label in force.
        skipped: places of those that people skipped; left out, so this is a sample of those that people can label.
        seed: of the order.
        came: when each came in [N]; without it the sample is one of the whole pool.

    Returns:
        Their places, and the time; None where it is a sample of the whole pool.
    """
    order = exploration_order(item_ids, seed)
    order = order[~np.isin(order, skipped)]
    opened = np.flatnonzero(~np.isin(order, labelled))
    if not len(opened):
        return order, None
    whole = order[: opened[0]], None
    if came is None:
        return whole
    came_M = came[order]
    earliest = np.minimum.accumulate(came_M[opened])
    news = np.flatnonzero(np.diff(earliest, prepend=earliest[0] + 1) < 0)
    # Of what came before each time, all is labelled up to where the first of the next earlier time is open.
    samples = [whole]
    for time, end in zip(earliest[news].tolist(), [*opened[news[1:]].tolist(), len(order)], strict=True):
        samples.append((order[:end][came_M[:end] < time], time))
    most = max(len(rows) for rows, _ in samples)
    return next((rows, time) for rows, time in samples if len(rows) >= NEARLY_ALL * most)


@dataclass(frozen=True, slots=True)
class FairScore:
    """Of how many items of the fair sample the end model had the label right before anybody had answered.

    In a multi-label project that is the whole set of classes.

    Attributes:
        before: it is a sample of the items that came in before this time; of all where that is None.
        last: the third of the items that was answered last; 0 where that is fewer than `LAST_LEAST`.
        last_right: of these.
        commonest: of all, those with the commonest label, which a model is right on that always says it.
    """

    items: int
    right: int
    before: datetime | None = None
    last: int = 0
    last_right: int = 0
    commonest: int = 0


def score_fair_sample(reader: Reader, seed: int) -> FairScore | None:
    """How right the end model was on the fair sample, one prediction per item; None where nothing was explored.

    The models are those of the cycles in which the items were labelled, so the present one is rather better: after many
    cycles much better, as the items that were answered last tell. Of these too few are hard ones, which selection asks
    for first. Items that were drawn for it are asked about without a suggestion, since people accept one more often
    than they would choose it; those that were selected for another reason had one. Items whose text was edited after
    people had been asked are left out: what a model said was about another text.

    Args:
        reader: of the warehouse.
        seed: `[select] seed`, of the order.

    Source: each label is predicted before it is learned from, as in Dawid (1984), Present Position and Potential
    Developments: The Prequential Approach.
    """
    if not reader.rows("SELECT 1 FROM queue WHERE starts_with(reason, ?) LIMIT 1", [EXPLORED]):
        return None
    pool = reader.arrow(
        f"""
        SELECT i.item_id, g.item_id IS NOT NULL AS labelled, {ANSWERED} AS answered, epoch_us(i.committed_at) AS came
        FROM items i {ASKED}
        WHERE i.split = 'train' AND i.item_id IN (SELECT item_id FROM vectors)
        ORDER BY i.item_id
        """
    )
    item_ids: list[str] = pool.column("item_id").to_pylist()
    labelled = pool.column("labelled").to_numpy().astype(np.bool_)
    answered = pool.column("answered").to_numpy().astype(np.bool_)
    came = pool.column("came").to_numpy()
    fair, time = fair_sample(item_ids, np.flatnonzero(labelled), np.flatnonzero(answered & ~labelled), seed, came)
    items, right, last, last_right, commonest = reader.rows(
        """
        WITH answered AS (
            SELECT item_id, min(committed_at) AS first FROM annotations
            WHERE action = 'labelled' AND item_id IN (SELECT unnest($1)) GROUP BY item_id
        ), said AS (
            SELECT p.item_id, max_by(p.class_id, p.committed_at) AS class_id, max_by(p.probs, p.committed_at) AS probs,
                   any_value(a.first) AS answered_at
            FROM predictions p JOIN answered a ON a.item_id = p.item_id AND p.committed_at < a.first
            GROUP BY p.item_id
        ), judged AS (
            SELECT CASE
                WHEN g.class_id >= 0 THEN s.class_id = g.class_id
                ELSE list_filter(range(len(s.probs)), lambda n: s.probs[n + 1] >= 0.5) = g.class_ids
            END AS hit, row_number() OVER (ORDER BY answered_at DESC, s.item_id) <= count(*) OVER () // 3 AS late,
                count(*) OVER (PARTITION BY g.class_ids) AS alike
            FROM said s JOIN gold_labels g ON g.item_id = s.item_id
            WHERE s.item_id NOT IN (SELECT item_id FROM asked_before WHERE why = 'edited')
        )
        SELECT count(*), count(*) FILTER (hit), count(*) FILTER (late), count(*) FILTER (hit AND late),
               coalesce(max(alike), 0) FROM judged
        """,
        [[item_ids[row] for row in fair]],
    )[0]
    before = None if time is None else datetime.fromtimestamp(time / 1e6, UTC)
    if last < LAST_LEAST:
        last = last_right = 0
    return FairScore(int(items), int(right), before, int(last), int(last_right), int(commonest))
