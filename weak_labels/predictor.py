"""The end model for texts that are no items: what the last run learned, or where that is gone, learned once more."""

import contextlib
import hashlib
import json
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from warehouse import Reader, SettingsError
from weak_labels.calibration import Floats as Probs
from weak_labels.classifier import EndModel, EndModelConfig, Floats, Vectors
from weak_labels.heads import Heads, Learned
from weak_labels.label_models.multi_label import probs_by
from weak_labels.one_vs_rest import Label, LearnedSets, OneVsRest, OneVsRestHeads, confidence, said_by_votes
from weak_labels.predictor_file import read_predictor, write_predictor
from weak_labels.sight import Sight
from weak_labels.training_data import TrainingData, read_answers, read_training_data

Votes = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Said:
    """What the end model says of N texts.

    Attributes:
        labels: of each its class; in a multi-label project those whose probability is at least 1/2, maybe none.
        confidence: how sure it is of each, 0 to 1 [N].
        probs: of each class, in the order of the settings [N, C].
    """

    labels: list[str] | list[list[str]]
    confidence: Probs
    probs: Probs

    def __repr__(self) -> str:
        # A notebook shows it, of a hundred thousand texts too.
        return f"Said(labels={reprlib.repr(self.labels)}, confidence={self.confidence!r}, probs={self.probs!r})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictor:
    """What one run of the end model learned.

    Attributes:
        config: the end model.
        sight: what it sees of items.
        model: what it learned.
        shares: of items that have each class by the label model [C]; of a multi-label project only.
        label_model: what the label model of a multi-label project says of votes, see `probs_by`; empty without one.
        gold_labels: how many of people's labels it learned from.
        weak_labels: how many weak labels it learned from.
        answers: hash of these labels of people.
        anew: it was learned just now, since what a run learned is not kept here.
    """

    config: EndModelConfig
    sight: Sight
    model: EndModel | OneVsRest
    shares: Floats = field(default_factory=lambda: np.zeros(0))
    label_model: Mapping[str, Any] = field(default_factory=dict[str, Any])
    gold_labels: int
    weak_labels: int
    answers: str
    anew: bool = False

    @classmethod
    def of(cls, reader: Reader, config: EndModelConfig) -> Self:
        """The end model of a snapshot: as its last run learned it, or learned from all that it holds.

        Args:
            reader: the snapshot.
            config: the end model, and where what it learned is kept.

        Raises:
            SettingsError: there is nothing to learn from yet.
            DataError: see `read_training_data`.
        """
        made_from = reader.scalar(
            "SELECT detail->>'fingerprint' FROM models WHERE stage = 'end_model' ORDER BY sequence DESC LIMIT 1"
        )
        if config.kept and (kept := read_predictor(config.kept, made_from, config)):
            return cls(config=config, **kept)
        data = read_training_data(reader, config)
        if made_from and not data.item_ids:
            raise SettingsError(
                f"The end model learned from vectors of another encoder than the settings' one, {config.encoder_id}, "
                "which has given none yet. To learn from its vectors: siftline run. Or set [encoder] back."
            )
        if not (data.item_ids and data.tells_apart):
            raise SettingsError(
                "There is no end model yet: neither votes for two classes nor two different labels of people to learn "
                "from. Run the pipeline: siftline run. Then `siftline status` says what is missing."
            )
        heads = data.heads(config)
        found = cls.learned(reader, data, heads, data.learned(heads, config), config, anew=True)
        if data.fingerprint(config) == made_from:  # else the next run learns this
            found.keep(made_from)
        return found

    @classmethod
    def learned(
        cls,
        reader: Reader,
        data: TrainingData,
        heads: Heads | OneVsRestHeads,
        learned: Learned | LearnedSets,
        config: EndModelConfig,
        *,
        anew: bool = False,
    ) -> Self:
        """What was learned of some data of a snapshot."""
        detail = reader.scalar("SELECT detail FROM models WHERE stage = 'label_model' ORDER BY sequence DESC LIMIT 1")
        of_sets = isinstance(heads, OneVsRestHeads)
        return cls(
            config=config,
            sight=heads.sight,
            model=learned.model,
            shares=heads.shares if of_sets else np.zeros(0),
            label_model=json.loads(detail).get("learned", {}) if of_sets and detail else {},
            gold_labels=len(data.gold),
            weak_labels=int((data.weights > 0).sum()),
            answers=_hash(data.gold),
            anew=anew,
        )

    def keep(self, made_from: str) -> None:
        """Put it where the next `of` finds it; where it cannot be written, that one learns anew.

        Args:
            made_from: `fingerprint` of the data that it learned from.
        """
        if self.config.kept:
            with contextlib.suppress(SettingsError, OSError):
                write_predictor(self.config.kept, made_from, self)

    def is_behind(self, reader: Reader) -> bool:
        """Whether a snapshot has other labels of people to learn from than it learned from."""
        gold = dict(read_answers(reader, self.config))
        sql = """
            SELECT i.item_id FROM items i JOIN gold_labels g ON g.item_id = i.item_id
            JOIN vectors v ON v.item_id = i.item_id AND v.encoder_id = ? AND v.content_hash = i.content_hash
            WHERE i.split = 'train'
        """
        return self.answers != _hash(
            {item_id: gold[item_id] for (item_id,) in reader.rows(sql, [self.config.encoder_id])}
        )

    @property
    def functions(self) -> tuple[str, ...]:
        """The labeling functions whose votes on a text count."""
        return tuple(self.label_model.get("functions", ()))

    def predict(self, vectors: Vectors, texts: list[str], votes: Mapping[str, Votes] | None = None) -> Said:
        """Say what some texts are.

        Args:
            vectors: of the texts, by the encoder of the settings [N, D].
            texts: N texts.
            votes: of `functions` by name [N], negative where one has none.
        """
        seen, multi_label = self.sight.of(vectors, texts), self.config.multi_label
        if multi_label:
            probs_NC = np.zeros((len(texts), len(self.shares)))
            if self.functions:
                # In single precision, as weak labels are stored.
                probs_NC = probs_by(self.label_model, votes or {}, len(texts)).astype(np.float32)
            beside_NC = said_by_votes(probs_NC.astype(np.float64), self.shares)
            seen = np.concatenate([seen, beside_NC.astype(seen.dtype)], axis=1)
        probs_NC, names = self.model.predict_proba(seen), self.config.classes
        if multi_label:
            labels = [[names[class_id] for class_id in (of >= 0.5).nonzero()[0]] for of in probs_NC]
        else:
            labels = [names[class_id] for class_id in probs_NC.argmax(axis=1)]
        return Said(labels=labels, confidence=confidence(probs_NC, multi_label=multi_label), probs=probs_NC)


def _hash(gold: Mapping[str, Label]) -> str:
    return hashlib.sha256(json.dumps(sorted(gold.items())).encode()).hexdigest()
