"""The pool: train items with what functions, label model and end model say about them, read from one snapshot.

Shape letters: N items of the pool, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from active.graph import Bools, Floats, Rows
from warehouse import DataError, Reader
from warehouse.reader import list_column_to_matrix


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """Train items by ascending id.

    Attributes:
        item_ids: [N].
        content_hashes: [N].
        class_names: [C].
        votes: [N, C] functions that voted for each class.
        weak: [N, C] weak labels; rows of zeros where the label model said nothing.
        predicted: [N, C] class probabilities of the end model; uniform where there are none.
        has_prediction: [N] the end model spoke about this item.
        labelled: places of the items that people labelled, ascending.
        gold: their labels, class ids; as many as `labelled`.
        queued: places of the items that are in a queue, whatever their state, and are not labelled.
    """

    item_ids: list[str]
    content_hashes: list[str]
    class_names: list[str]
    votes: Floats
    weak: Floats
    predicted: Floats
    has_prediction: Bools
    labelled: Rows
    gold: Rows
    queued: Rows

    def __len__(self) -> int:
        return len(self.item_ids)

    @property
    def taken(self) -> Rows:
        """Places of the items nobody needs to be asked about: labelled or queued."""
        return np.concatenate([self.labelled, self.queued])

    @property
    def open(self) -> Rows:
        """Places of the items that may be selected, ascending."""
        return np.setdiff1d(np.arange(len(self)), self.taken)


def read_pool(reader: Reader, indexed: Sequence[str]) -> Pool:
    """Read the train items that are in the index.

    Raises:
        DataError: probabilities or votes do not fit the classes, or probabilities are not finite.
    """
    class_names = [str(name) for (name,) in reader.rows("SELECT name FROM classes ORDER BY class_id")]
    table = reader.arrow(
        """
        SELECT i.item_id, i.content_hash, w.probs AS weak, p.probs AS predicted,
               g.item_id IS NOT NULL AS labelled, g.class_id AS gold, q.item_id IS NOT NULL AS queued
        FROM items i
        LEFT JOIN latest_weak_labels w ON w.item_id = i.item_id
        LEFT JOIN latest_predictions p ON p.item_id = i.item_id
        LEFT JOIN gold_labels g ON g.item_id = i.item_id
        LEFT JOIN (SELECT DISTINCT item_id FROM queue) q ON q.item_id = i.item_id
        WHERE i.split = 'train'
        ORDER BY i.item_id
        """
    )
    known = set(indexed)
    table = table.filter(pa.array([item_id in known for item_id in table.column("item_id").to_pylist()], pa.bool_()))
    item_ids: list[str] = table.column("item_id").to_pylist()
    labelled = table.column("labelled").to_numpy().astype(np.bool_)
    queued = table.column("queued").to_numpy().astype(np.bool_)
    count = len(class_names)
    return Pool(
        item_ids=item_ids,
        content_hashes=table.column("content_hash").to_pylist(),
        class_names=class_names,
        votes=_vote_counts(reader, item_ids, count),
        weak=_probabilities(table, "weak", count, missing=0.0),
        predicted=_probabilities(table, "predicted", count, missing=1 / max(1, count)),
        has_prediction=table.column("predicted").is_valid().to_numpy().astype(np.bool_),
        labelled=np.flatnonzero(labelled),
        gold=table.column("gold").fill_null(-1).to_numpy().astype(np.int64)[labelled],
        queued=np.flatnonzero(queued & ~labelled),
    )


def _probabilities(table: pa.Table, name: str, classes: int, *, missing: float) -> Floats:
    column = table.column(name)
    probs = np.full((len(column), classes), missing)
    known = column.is_valid().to_numpy().astype(np.bool_)
    if known.any():
        given = list_column_to_matrix(column.drop_null(), what="probs")
        if given.shape[1] != classes:
            raise DataError(
                f"The {name} probabilities have {given.shape[1]} classes, the warehouse knows {classes}. "
                "Run the label model and the end model again."
            )
        bad = np.flatnonzero(~np.isfinite(given).all(axis=1))
        if bad.size:
            item_ids = table.column("item_id").filter(column.is_valid()).take(pa.array(bad[:5])).to_pylist()
            raise DataError(
                f"The {name} probabilities of {bad.size} of {len(given)} items are not finite, items "
                f"{', '.join(item_ids)}. Delete these rows and run again."
            )
        probs[known] = given
    return probs


def _vote_counts(reader: Reader, item_ids: Sequence[str], classes: int) -> Floats:
    counts = np.zeros((len(item_ids), classes))
    votes = reader.arrow(
        """
        SELECT v.item_id, v.vote, count(*) AS functions FROM lf_votes v
        JOIN items i ON i.item_id = v.item_id AND i.split = 'train'
        WHERE v.vote >= 0 GROUP BY v.item_id, v.vote
        """
    )
    place = {item_id: row for row, item_id in enumerate(item_ids)}
    rows = np.array([place.get(item_id, -1) for item_id in votes.column("item_id").to_pylist()], np.int64)
    class_ids = votes.column("vote").to_numpy()
    if len(class_ids) and class_ids.max() >= classes:
        raise DataError(f"A labeling function voted class {class_ids.max()}; the warehouse knows 0 to {classes - 1}.")
    counts[rows[rows >= 0], class_ids[rows >= 0]] = votes.column("functions").to_numpy()[rows >= 0]
    return counts
