"""The end model for texts that are no items: it learns from the warehouse as the stage does."""

from dataclasses import dataclass
from typing import Self

from warehouse import Reader, SettingsError
from weak_labels.calibration import Floats
from weak_labels.classifier import EndModelConfig, Vectors
from weak_labels.feature_map import FeatureMap
from weak_labels.heads import Heads, Learned
from weak_labels.one_vs_rest import LearnedSets, OneVsRestHeads, confidence
from weak_labels.training_data import read_training_data


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """What the end model says of N texts.

    Attributes:
        labels: of each its class; in a multi-label project those whose probability is at least 1/2, maybe none.
        confidence: how sure it is of each, 0 to 1 [N].
        probs: of each class, in the order of the settings [N, C].
    """

    labels: list[str] | list[list[str]]
    confidence: Floats
    probs: Floats


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictor:
    """The end model of one snapshot.

    Attributes:
        config: the end model.
        feature_map: how it sees vectors.
        heads: what it learned from weak labels.
        learned: what it learned from people's labels besides.
        gold_labels: how many of people's labels it learned from.
        weak_labels: how many weak labels it learned from.
    """

    config: EndModelConfig
    feature_map: FeatureMap
    heads: Heads | OneVsRestHeads
    learned: Learned | LearnedSets
    gold_labels: int
    weak_labels: int

    @classmethod
    def of(cls, reader: Reader, config: EndModelConfig) -> Self:
        """Learn from all that a snapshot holds, answers that came in since the last run among it.

        Args:
            reader: the snapshot.
            config: the end model.

        Raises:
            SettingsError: there is nothing to learn from yet.
            DataError: see `read_training_data`.
        """
        data = read_training_data(reader, config)
        if not (data.item_ids and data.tells_apart):
            raise SettingsError(
                "There is no end model yet: neither votes for two classes nor two different labels of people to learn "
                "from. Run the pipeline: siftline run. Then `siftline status` says what is missing."
            )
        heads = data.heads(config)
        return cls(
            config=config,
            feature_map=data.feature_map,
            heads=heads,
            learned=data.learned(heads, config),
            gold_labels=len(data.gold),
            weak_labels=int((data.weights > 0).sum()),
        )

    def predict(self, vectors: Vectors, texts: list[str]) -> Said:
        """Say what some texts are.

        Args:
            vectors: of the texts, by the encoder of the settings [N, D].
            texts: N texts.
        """
        probs_NC = self.learned.model.predict_proba(self.heads.features_of(self.feature_map.of(vectors), texts))
        names, multi_label = self.config.classes, self.config.multi_label
        if multi_label:
            labels = [[names[class_id] for class_id in (of >= 0.5).nonzero()[0]] for of in probs_NC]
        else:
            labels = [names[class_id] for class_id in probs_NC.argmax(axis=1)]
        return Said(labels=labels, confidence=confidence(probs_NC, multi_label=multi_label), probs=probs_NC)
