"""What the end model learns from: vectors, the latest weak labels and the gold labels of one snapshot.

Only the view `gold_labels` tells this file what people answered.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa

from warehouse import DataError, Reader
from warehouse.queries.reader import list_column_to_matrix
from weak_labels.classifiers.checkpoints import KeptModels
from weak_labels.classifiers.feature_map import FeatureMap
from weak_labels.classifiers.heads import Heads, Learned
from weak_labels.classifiers.inputs import Seen, Sight
from weak_labels.classifiers.linear import CHUNK, VERSION, Bools, EndModelConfig, Floats, Ints, Vectors
from weak_labels.classifiers.one_vs_rest import Label, LearnedSets, OneVsRestHeads, truth, voted_for
from weak_labels.classifiers.self_training import self_trained


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """What the end model can learn from: items that have a vector, in the order of their ids.

    Attributes:
        item_ids: [N].
        train: [N] items that may be learned from; the others are only predicted.
        read_vectors: reads `vectors`, as long as the snapshot is open.
        label_model_id: the latest label model, empty when there is none.
        probs: its weak labels [N, C]; zeros where an item has none.
        weights: [N] 1 for train items on which a function voted, else 0; all 0 where every weak label is for one class,
            or all are tied between the same, which tells no classes apart: a model of these says one of everything.
        content: hash of all of this but the gold labels (vectors by their texts), and of the model's version.
        gold: label by item, for train items with a vector.
        gold_left_out: gold labels of other items.
        texts: [N] where the end model trains itself, else none.
    """

    item_ids: list[str]
    train: Bools
    read_vectors: Callable[[], Vectors]
    label_model_id: str
    probs: Floats
    weights: Floats
    content: str
    gold: dict[str, Label]
    gold_left_out: int
    texts: list[str]

    @cached_property
    def vectors(self) -> Vectors:
        """[N, D], read when first asked for: who learns nothing needs none, and a million take 30 s.

        Raises:
            DataError: one is not finite.
        """
        vectors_ND = self.read_vectors()
        if len(bad := np.flatnonzero(~np.isfinite(vectors_ND).all(axis=1))):
            raise DataError(
                f"{len(bad)} vectors are not finite, such as that of item '{self.item_ids[bad[0]]}'. Embed these items "
                "again."
            )
        return vectors_ND

    @cached_property
    def _map(self) -> FeatureMap:
        return FeatureMap.fit(self.vectors, np.flatnonzero(self.train))

    @property
    def tells_apart(self) -> bool:
        """Whether votes or people's labels tell items apart; a model of others is sure of one class for all of them."""
        return bool(self.weights.any()) or len(set(self.gold.values())) > 1

    def heads(self, config: EndModelConfig, *, weak: bool = True) -> Heads | OneVsRestHeads:
        """The end model before gold labels; with `weak` false, only what one without weak labels begins with."""
        weights = self.weights if weak else np.zeros_like(self.weights)
        rows, probs = np.flatnonzero(weights), self.probs
        kept = KeptModels.of(config.kept, self.vectors, self.content) if config.kept and weights.any() else None
        if config.multi_label:
            taught = bool(weights.any())
            sight = Sight.plain(self.vectors.shape[1])
            if not (taught and voted_for(probs).all()):  # some class learns from people's labels alone
                sight = Sight(feature_map=self._map, as_they_are=taught)
            return OneVsRestHeads.fit(config, sight, self.vectors, self.train, probs, weights, kept)
        sight = Sight(feature_map=self._map, as_they_are=bool(weights.any()))
        if self.texts and self.weights.any():
            rows = np.flatnonzero(self.train)
            taught = self_trained(
                self.vectors[rows], [self.texts[row] for row in rows], probs[rows], self.weights[rows]
            )
            sight = replace(sight, words=taught.words)
            features = sight.of(self.vectors, self.texts)
            return Heads.fit(config, sight, features, rows, taught.probs, taught.weights * weak, kept)
        return Heads.fit(config, sight, Seen(sight, self.vectors), rows, probs[rows], weights[rows], kept)

    @property
    def gold_rows(self) -> Ints:
        """Place of each item that has a gold label [M]."""
        row_of = {item_id: row for row, item_id in enumerate(self.item_ids)}
        return np.array([row_of[item_id] for item_id in self.gold], np.int64)

    def learned(self, heads: Heads | OneVsRestHeads, config: EndModelConfig) -> Learned | LearnedSets:
        """The end model: what `heads` of this go on to from all gold labels."""
        labels = truth(list(self.gold.values()), len(config.classes), multi_label=config.multi_label)
        return heads.learned(self.gold_rows, labels)

    def fingerprint(self, config: EndModelConfig) -> str:
        """Hash of all that decides the model that learns from this."""
        learned = json.dumps([config.params(), self.content, sorted(self.gold.items())])
        return hashlib.sha256(learned.encode()).hexdigest()


def read_training_data(reader: Reader, config: EndModelConfig) -> TrainingData:
    """The latest weak labels and the gold labels of items that have a vector, from one snapshot.

    Raises:
        DataError: a gold label or a weak label does not fit the classes.
    """
    classes = len(config.classes)
    table = reader.arrow(
        """
        SELECT i.item_id, i.split = 'train' AS train, i.content_hash, w.probs, coalesce(w.votes, 0) AS votes
        FROM items i
        JOIN vectors v ON v.item_id = i.item_id AND v.encoder_id = ? AND v.content_hash = i.content_hash
        LEFT JOIN latest_weak_labels w ON w.item_id = i.item_id
        ORDER BY i.item_id
        """,
        [config.encoder_id],
    )
    item_ids: list[str] = table.column("item_id").to_pylist()

    def read_vectors() -> Vectors:
        # By themselves: sorted beside their items, a million of 384 numbers take 4 GB more.
        return reader.matrix_of(
            table.column("item_id"),
            """
            SELECT i.item_id, v.vector
            FROM items i
            JOIN vectors v ON v.item_id = i.item_id AND v.encoder_id = ? AND v.content_hash = i.content_hash
            """,
            [config.encoder_id],
        )

    train_N = table.column("train").to_numpy().astype(np.bool_)
    votes_N = table.column("votes").to_numpy()
    probs_NC = np.zeros((len(item_ids), classes))
    labelled_N = table.column("probs").is_valid().to_numpy()
    if labelled_N.any():
        weak = list_column_to_matrix(table.column("probs").drop_null(), what="probs")
        if weak.shape[1] != classes:
            raise DataError(
                f"Weak labels have {weak.shape[1]} classes, the settings name {classes}. To bring them up to date: "
                "siftline run"
            )
        probs_NC[labelled_N] = weak
    known = dict(zip(item_ids, train_N.tolist(), strict=True))
    answers = read_answers(reader, config)
    gold = {item_id: label for item_id, label in answers if known.get(item_id, False)}
    label_model_id = str(
        reader.scalar("SELECT model_id FROM models WHERE stage = 'label_model' ORDER BY sequence DESC LIMIT 1") or ""
    )
    content = hashlib.sha256()
    for part in json_parts([VERSION], [table.column(name) for name in ("item_id", "content_hash", "train")]):
        content.update(part)
    for numbers in (probs_NC, votes_N):
        content.update(np.ascontiguousarray(numbers).data)
    weights_N = ((votes_N > 0) & train_N).astype(np.float64)
    if not config.multi_label and _alike(probs_NC[weights_N > 0]):
        weights_N[:] = 0.0
    texts: list[str] = []
    if config.kind != "linear":
        content.update(f"{config.kind} 1, seed {config.seed}".encode())
    if config.calibrate:
        content.update(b"calibrate 2")
    if config.balanced:
        content.update(b"balanced 1")
    if config.multi_label:
        content.update(b"multi-label 2")
    if config.self_training:
        content.update(b"self-training 3")
        text_of = dict(reader.rows("SELECT item_id, content FROM items"))
        texts = [text_of[item_id] for item_id in item_ids]
    return TrainingData(
        item_ids=item_ids,
        train=train_N,
        read_vectors=read_vectors,
        label_model_id=label_model_id,
        probs=probs_NC,
        weights=weights_N,
        content=content.hexdigest(),
        gold=gold,
        gold_left_out=len(answers) - len(gold),
        texts=texts,
    )


def json_parts(first: list[int], columns: Sequence[pa.ChunkedArray]) -> Iterator[bytes]:
    """Some values, then each column as a list, as one list in JSON; whole it would take 300 bytes of each item.

    Args:
        first: what the list begins with.
        columns: lists that follow.
    """
    yield json.dumps(first)[:-1].encode()
    for column in columns:
        yield b", ["
        for start in range(0, len(column), CHUNK):
            some = json.dumps(column.slice(start, CHUNK).to_pylist())[1:-1]
            yield f"{', ' * (start > 0)}{some}".encode()
        yield b"]"
    yield b"]"


def _alike(probs_NC: Floats) -> bool:
    """Whether the same classes are the most probable ones of every item; two that are tied are both."""
    most_NC = probs_NC == probs_NC.max(axis=1, keepdims=True)
    return not (most_NC != most_NC[:1]).any()


def read_answers(reader: Reader, config: EndModelConfig) -> list[tuple[str, Label]]:
    """The gold labels by item.

    Raises:
        DataError: one does not fit the classes.
    """
    rows: list[tuple[str, list[int]]] = reader.rows("SELECT item_id, class_ids FROM gold_labels ORDER BY item_id")
    for item_id, class_ids in rows:
        for class_id in class_ids:
            if not 0 <= class_id < len(config.classes):
                raise DataError(
                    f"The gold label of item '{item_id}' is class {class_id}; the settings name classes 0 to "
                    f"{len(config.classes) - 1}. Mend `classes` or that annotation."
                )
    if config.multi_label:
        return [(item_id, tuple(class_ids)) for item_id, class_ids in rows]
    return [(item_id, class_ids[0]) for item_id, class_ids in rows]
