"""The pool: train items with what functions, label model and end model say about them, read from one snapshot.

Shape letters: N items of the pool, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from active.pool.graph import Bools, Floats, Rows, check_places
from warehouse import DataError, Reader, SettingsError
from warehouse.numeric import pc
from warehouse.queries.reader import list_column_to_matrix
from warehouse.schema.answer_views import sent_hash, shown_keys

ASKED = """
        LEFT JOIN gold_labels g ON g.item_id = i.item_id
        LEFT JOIN (
            SELECT item_id, any_value(content_hash) FILTER (WHERE state = 'answered') AS hash
            FROM queue GROUP BY item_id
        ) q ON q.item_id = i.item_id
"""
"""Joins the items `i` with the labels in force `g` and with what people were asked `q`."""
MANY = 20
"""Labels that say something by being the same: a class that 15 of 100 items have is among 20 drawn ones in 96 of 100
cases, so what is missing from them is rare."""
ANSWERED = f"coalesce(q.hash = {sent_hash(shown_keys('q.hash'))}, false)"
"""There, whether enough people have seen an item as it is now: without a label it was skipped."""
UNTAUGHT = """
        SELECT class_id FROM classes
        WHERE class_id NOT IN (SELECT DISTINCT vote FROM lf_votes)
          AND class_id NOT IN (SELECT DISTINCT unnest(class_ids) FROM gold_labels)
"""
"""The classes that no vote and no label names: in a multi-label project the end model says no to them, of all items.

DISTINCT as 20 million votes take 0.1 s with it and 1.9 s without."""
SUGGESTED = f"CASE WHEN k.multi_label AND (p.class_ids <> [] OR NOT EXISTS ({UNTAUGHT})) THEN p.class_ids END"
"""What the predictions `p` suggest in a multi-label project: not that no class fits while there are such classes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """Train items by ascending id.

    Attributes:
        item_ids: [N].
        content_hashes: [N].
        class_names: [C].
        votes: [N, C] functions that voted for each class.
        weak: [N, C] weak labels; rows of zeros where no function voted and it has the class shares alone.
        predicted: [N, C] class probabilities of the end model; where there are none uniform, or 1/2 if multi-label.
        has_prediction: [N] the end model spoke about this item.
        labelled: places of the items that people labelled, ascending.
        gold: their labels, class ids; as many as `labelled`. In a multi-label project all -1: nothing here reads sets.
        queued: places of the items that are in a queue, whatever their state, and are not labelled.
        skipped: places of those of the queued ones that enough people have seen and nobody labelled, ascending.
        multi_label: an item may have several classes or none; `predicted` and `weak` then hold a probability of its own
            for each class.
        untaught: in a multi-label project the classes of `UNTAUGHT`, ascending.

    Raises:
        SettingsError: votes, weak labels, predictions or places do not fit the items and classes.
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
    skipped: Rows = field(default_factory=lambda: np.empty(0, np.int64))
    multi_label: bool = False
    untaught: Rows = field(default_factory=lambda: np.empty(0, np.int64))

    def __post_init__(self) -> None:
        shape = (len(self.item_ids), len(self.class_names))
        for name in ("votes", "weak", "predicted"):
            given: object = getattr(self, name)
            if not isinstance(given, np.ndarray) or given.shape != shape:
                what = f"of shape {given.shape}" if isinstance(given, np.ndarray) else type(given).__name__
                raise SettingsError(f"{name} of the pool is {what}; give an array [N, C] of shape {shape}.")
        for name in ("labelled", "queued", "skipped"):
            check_places(getattr(self, name), len(self), f"The {name} of the pool")
        if len(self.gold) != len(self.labelled):
            raise SettingsError(f"There are {len(self.gold)} gold labels for {len(self.labelled)} labelled items.")
        places, counts = np.unique(self.labelled, return_counts=True)
        if (again := places[counts > 1]).size:
            raise SettingsError(
                f"Item {again[0]} of the pool is labelled {counts[counts > 1][0]} times; give one label for each item."
            )
        check_places(self.gold, shape[1], "The gold labels of the pool", least=-1 if self.multi_label else 0)

    def __len__(self) -> int:
        return len(self.item_ids)

    @property
    def question(self) -> Floats:
        """What is open about each item, as probabilities that sum to 1.

        Returns:
            [N, C] of the classes; in a multi-label project [N, 2] that it has not and that it has the class about which
            the end model is least sure.

        Source: Brinker (2006), On Active Learning in Multi-label Classification, which takes the least sure class.
        """
        if not self.multi_label:
            return self.predicted
        nearest = np.abs(self.predicted - 0.5).argmin(axis=1)
        has = self.predicted[np.arange(len(self)), nearest]
        return np.stack([1.0 - has, has], axis=1)

    @property
    def weakly_taught(self) -> bool:
        """Whether weak labels taught the end model, by the same rule as `weak_labels.end_model.training_data`."""
        weak = self.weak[self.weak.any(axis=1)]
        if self.multi_label or not len(weak):
            return bool(len(weak))
        most = weak == weak.max(axis=1, keepdims=True)  # of two classes that are tied, both
        return bool((most != most[:1]).any())

    @property
    def all_alike(self) -> bool:
        """Whether many labels are there, all of them the same, and nothing else has taught the end model.

        In a multi-label project the end model is silent just while people gave all items the same classes.
        """
        silent = not self.has_prediction.any() and not self.weakly_taught
        return silent and len(self.labelled) >= MANY and len(np.unique(self.gold)) == 1

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
    named = reader.rows("SELECT name, coalesce(multi_label, false) FROM classes ORDER BY class_id")
    class_names = [str(name) for name, _ in named]
    multi_label = any(several for _, several in named)
    table = reader.arrow(
        f"""
        SELECT i.item_id, i.content_hash, CASE WHEN w.votes > 0 THEN w.probs END AS weak, p.probs AS predicted,
               g.item_id IS NOT NULL AS labelled, g.class_id AS gold, q.item_id IS NOT NULL AS queued,
               {ANSWERED} AS answered
        FROM items i
        LEFT JOIN latest_weak_labels w ON w.item_id = i.item_id
        LEFT JOIN latest_predictions p ON p.item_id = i.item_id
        {ASKED}
        WHERE i.split = 'train'
        ORDER BY i.item_id
        """
    )
    known = pa.chunked_array([pa.array(indexed, pa.string())])
    if not table.column("item_id").equals(known):
        table = table.filter(pc.is_in(table.column("item_id"), value_set=known.combine_chunks()))
    item_ids: list[str] = table.column("item_id").to_pylist()
    labelled = table.column("labelled").to_numpy().astype(np.bool_)
    queued = table.column("queued").to_numpy().astype(np.bool_)
    answered = table.column("answered").to_numpy().astype(np.bool_)
    count = len(class_names)
    return Pool(
        item_ids=item_ids,
        content_hashes=table.column("content_hash").to_pylist(),
        class_names=class_names,
        votes=_vote_counts(reader, item_ids, count),
        weak=_probabilities(table, "weak", count, missing=0.0),
        predicted=_probabilities(table, "predicted", count, missing=0.5 if multi_label else 1 / max(1, count)),
        has_prediction=table.column("predicted").is_valid().to_numpy().astype(np.bool_),
        labelled=np.flatnonzero(labelled),
        gold=table.column("gold").fill_null(-1).to_numpy().astype(np.int64)[labelled],
        queued=np.flatnonzero(queued & ~labelled),
        skipped=np.flatnonzero(answered & ~labelled),
        multi_label=multi_label,
        untaught=_untaught(reader) if multi_label else np.empty(0, np.int64),
    )


def _untaught(reader: Reader) -> Rows:
    return np.array([class_id for (class_id,) in reader.rows(f"{UNTAUGHT} ORDER BY class_id")], np.int64)


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
    if not votes.num_rows:
        return counts
    rows = pc.index_in(votes.column("item_id"), value_set=pa.array(item_ids, pa.string())).fill_null(-1).to_numpy()
    class_ids = votes.column("vote").to_numpy()
    if class_ids.max() >= classes:
        raise DataError(f"A labeling function voted class {class_ids.max()}; the warehouse knows 0 to {classes - 1}.")
    counts[rows[rows >= 0], class_ids[rows >= 0]] = votes.column("functions").to_numpy()[rows >= 0]
    return counts
