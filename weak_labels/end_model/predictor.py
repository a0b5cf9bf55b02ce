"""The end model for texts that are no items: what the last run learned, or where that is gone, learned once more."""

import contextlib
import hashlib
import json
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from warehouse import Reader, SettingsError
from warehouse.files.array_cache import read_arrays, write_arrays
from weak_labels.calibration import Floats as Probs
from weak_labels.classifiers.checkpoints import arrays_of, model_of
from weak_labels.classifiers.feature_map import FeatureMap
from weak_labels.classifiers.heads import Heads, Learned
from weak_labels.classifiers.inputs import Sight
from weak_labels.classifiers.linear import VERSION, EndModel, EndModelConfig, Floats, Vectors
from weak_labels.classifiers.one_vs_rest import Label, LearnedSets, OneVsRest, OneVsRestHeads, confidence, said_by_votes
from weak_labels.classifiers.self_training import Words
from weak_labels.classifiers.vote_fusion import Weighed
from weak_labels.end_model.training_data import TrainingData, read_answers, read_training_data
from weak_labels.label_models.multi_label import probs_by

Votes = npt.NDArray[np.integer[Any]]

FORMAT = 2
NAME = "learned.npz"
"""The file in which what the last run learned is kept. It is a cache: it is read only where the model in force was made
from exactly what it was made from, and it holds numbers and text only."""


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
        if config.kept and (kept := _read(config.kept, made_from, config)):
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
                _write(self.config.kept, made_from, self)

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


def _read(folder: Path, made_from: str | None, config: EndModelConfig) -> dict[str, Any] | None:
    """The attributes of the `Predictor` that is kept, but `config`; None where none is, or another.

    Args:
        folder: where it is.
        made_from: what the model in force was made from; None where there is none.
        config: the end model.
    """
    arrays = read_arrays(folder / NAME)
    try:
        if made_from is None or str(arrays["made_from"]) != made_from or str(arrays["by"]) != _by(config):
            return None
        told = json.loads(arrays["told"].tobytes())
        models = [model_of(_part(arrays, f"model_{number}.")) for number in range(told["models"])]
        weighed = tuple(Weighed(**of) if of else None for of in told["weighed"])
        views = tuple(slice(*ends) for ends in told["views"])
        words = [(kind, names, arrays[f"words_{kind}"]) for kind, names in told["words"]]
        return {
            "sight": Sight(
                feature_map=FeatureMap(arrays["landmarks"], arrays["stretch"]),
                words=Words.of_parts(words) if words else None,
                as_they_are=told["as_they_are"],
            ),
            "model": OneVsRest(tuple(models), weighed, views) if config.multi_label else models[0],
            "shares": arrays["shares"],
            **{name: told[name] for name in ("label_model", "gold_labels", "weak_labels", "answers")},
        }
    except (KeyError, TypeError, ValueError, IndexError):
        return None


def _write(folder: Path, made_from: str, predictor: Predictor) -> None:
    """Keep what was learned, in the place of what was kept before.

    Raises:
        SettingsError, OSError: the file cannot be written.
    """
    model = predictor.model
    several = isinstance(model, OneVsRest)
    models, weighed, views = (model.models, model.weighed, model.views) if several else ((model,), (), ())
    words = predictor.sight.words.parts() if predictor.sight.words else []
    told = {
        "models": len(models),
        "weighed": [of and {"offset": of.offset, "end_model": of.end_model, "votes": of.votes} for of in weighed],
        "views": [(view.start, view.stop) for view in views],
        "as_they_are": predictor.sight.as_they_are,
        "words": [(kind, names) for kind, names, _ in words],
        "label_model": predictor.label_model,
        "gold_labels": predictor.gold_labels,
        "weak_labels": predictor.weak_labels,
        "answers": predictor.answers,
    }
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    arrays: dict[str, Any] = {
        "made_from": made_from,
        "by": _by(predictor.config),
        "told": np.frombuffer(json.dumps(told).encode(), np.uint8),
        "landmarks": predictor.sight.feature_map.landmarks_LD,
        "stretch": predictor.sight.feature_map.stretch_DD,
        "shares": predictor.shares,
    }
    for number, part in enumerate(models):
        arrays |= {f"model_{number}.{name}": array for name, array in arrays_of(part).items()}
    arrays |= {f"words_{kind}": weights for kind, _, weights in words}
    write_arrays(folder / NAME, arrays)


def _by(config: EndModelConfig) -> str:
    """What reads the file: it speaks as the code and the settings of now do."""
    return json.dumps([FORMAT, VERSION, config.params()])


def _part(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
