"""The end model of a multi-label project: for each class the end model of two classes, "has it not" and "has it".

So heads, weak labels, gold labels and calibration work as they do for one class per item, and a class learns nothing
from what is said about the others. With several classes most answers are no, and a model held by a ridge is never sure
enough of a yes; the votes on an item know more about it than what they taught the model. So each class weighs both.

Shape letters: N items, D embedding, C classes.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from weak_labels.calibration import Floats as Probs
from weak_labels.calibration import cross_validated
from weak_labels.classifiers.checkpoints import KeptModels
from weak_labels.classifiers.heads import Heads
from weak_labels.classifiers.inputs import Seen, Sight
from weak_labels.classifiers.linear import Bools, EndModel, EndModelConfig, Features, Floats, Hold, Ints, Vectors
from weak_labels.classifiers.vote_fusion import Weighed, log_odds

HOLD = Hold(1.0)
"""How firmly gold labels are held to what weak labels taught."""
Label = int | tuple[int, ...]
"""A class id; in a multi-label project all class ids of an item, maybe none."""
Truth = npt.NDArray[Any]
"""Labels of N items: class ids [N], in a multi-label project sets [N, C] of booleans."""
LEAST_GOLD = 10
"""Gold labels below which model and votes are weighed as if there were none."""


@dataclass(frozen=True, slots=True)
class OneVsRest:
    """C end models of two classes each.

    Attributes:
        models: one per class.
        weighed: how each one is weighed with the votes; None where it counts alone.
        views: the columns of what is seen of items that each one sees.
    """

    models: tuple[EndModel, ...]
    weighed: tuple[Weighed | None, ...]
    views: tuple[slice, ...]

    @property
    def kind(self) -> str:
        """What `models` calls it."""
        return "_".join(("one_vs_rest", *sorted({model.kind for model in self.models})))

    def predict_proba(self, features: Features) -> Floats:
        """The probability of each class [N, C]; rows do not sum to 1.

        Args:
            features: of `OneVsRestHeads` [N, D + C].
        """
        features = np.asarray(features)
        seen, votes_NC = features[:, : -len(self.models)], features[:, -len(self.models) :]
        said = [model.predict_proba(seen[:, view])[:, 1] for model, view in zip(self.models, self.views, strict=True)]
        both = [
            of.predict_proba(said_N, votes_N) if of else said_N
            for of, said_N, votes_N in zip(self.weighed, said, votes_NC.T, strict=True)
        ]
        return np.stack(both, axis=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnedSets:
    """An end model, and how it came about as JSON values."""

    model: OneVsRest
    detail: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class OneVsRestHeads:
    """The end model before people's labels.

    Attributes:
        sight: what is seen of items.
        features: of all items [N, D + C]: vectors so seen, then for each class how much the votes on an item say for
            it, as log-odds against those of an item about which nothing is known; 0 for an item without a weak label.
        by_class: `weak_labels.classifiers.heads.Heads` by the name of the class, which see the first view.
        untaught: of a class that learns from people's labels alone, which sees the last view.
        shares: of the items that have each class by the label model [C].
        weighed: for each class how model and votes are weighed; None where no vote tells one item from another.
    """

    sight: Sight
    features: Seen
    by_class: dict[str, Heads]
    untaught: Heads
    shares: Floats
    weighed: tuple[Weighed | None, ...]

    @classmethod
    def fit(
        cls,
        config: EndModelConfig,
        sight: Sight,
        vectors: Vectors,
        train: Bools,
        probs: Floats,
        weights: Floats,
        kept: KeptModels | None = None,
    ) -> "OneVsRestHeads":
        """Learn from weak labels.

        Args:
            config: the end model.
            sight: what is seen of items.
            vectors: of all items [N, D].
            train: items that may be learned from [N].
            probs: their weak labels [N, C], which need not sum to 1; zeros where an item has none.
            weights: [N] how much each one counts; 0 leaves it out.
            kept: where what the classes learn is kept; None learns it anew.
        """
        yes_no = replace(config, classes=("no", "yes"), multi_label=False)
        rows, as_seen = np.flatnonzero(weights), Sight.plain(vectors.shape[1])
        last = Seen(replace(sight, as_they_are=False), vectors)
        first = Seen(as_seen, vectors) if sight.as_they_are else last
        heads = list[Heads]()
        for number, of in enumerate(probs[rows].T):
            of_class = kept.below(str(number)) if kept else None
            both = np.stack([1 - of, of], axis=1)
            heads.append(_held(Heads.fit(yes_no, as_seen, first, rows, both, weights[rows], of_class)))
        told_N = probs.sum(axis=1) > 0
        shares_C = probs[told_N & train].mean(axis=0) if rows.size else np.full(len(config.classes), 0.5)
        votes_NC = said_by_votes(probs, shares_C)
        spoken_C = voted_for(probs) if rows.size else np.zeros(len(config.classes), np.bool_)
        nobody = np.zeros(0, np.int64)
        return cls(
            sight=sight,
            features=Seen(sight, vectors, votes_NC.astype(vectors.dtype)),
            by_class=dict(zip(config.classes, heads, strict=True)),
            untaught=Heads.fit(yes_no, as_seen, last, nobody, np.zeros((0, 2)), np.zeros(0)),
            shares=shares_C,
            weighed=tuple(
                Weighed.without_gold(float(share)) if spoken else None
                for share, spoken in zip(shares_C, spoken_C, strict=True)
            ),
        )

    def learned(self, rows: Ints, sets: Bools, *, from_weak: bool = True) -> LearnedSets:
        """Go on from people's labels.

        Args:
            rows: items with a gold label [M].
            sets: their classes [M, C].
            from_weak: begin at what weak labels taught, and weigh votes.
        """
        columns = self.sight.views(replace(self.features, beside=None))
        votes_MC = np.asarray(self.features.beside)[rows]
        # Once, and not for every class: the map of many items takes a while.
        untaught = replace(self.untaught, features=self.untaught.features[rows])
        models, weighed, views = list[EndModel](), list[Weighed | None](), list[slice]()
        details = dict[str, Any]()
        for number, (name, of_class) in enumerate(self.by_class.items()):
            has_M = sets[:, number].astype(np.int64)
            both = self.weighed[number] if from_weak else None
            # Where nobody votes for a class, weak labels only say no of it, which would hold back people's yes.
            taught = from_weak and (both is not None or len(np.unique(has_M)) < 2)
            heads, places = (of_class, rows) if taught else (untaught, slice(None))

            def held_out(learn: Ints, others: Ints, heads: Heads = heads, has_M: Ints = has_M) -> Floats:
                return heads.learned(rows[learn], has_M[learn], judging=False).model.predict_proba(
                    heads.features[rows[others]]
                )

            learned = heads.learned(places, has_M, judging=False)
            detail = learned.detail
            if both:
                held_out_M2 = cross_validated(has_M, 2, held_out, least=LEAST_GOLD)
                if held_out_M2 is not None:
                    both = both.moved(held_out_M2[:, 1], votes_MC[:, number], has_M)
                detail = {**detail, "weighed": {**asdict(both), "by_gold": held_out_M2 is not None}}
            models.append(learned.model)
            weighed.append(both)
            views.append(columns[0 if taught else -1])
            if detail:
                details[name] = detail
        return LearnedSets(
            model=OneVsRest(tuple(models), tuple(weighed), tuple(views)),
            detail={"by_class": details} if details else {},
        )


def said_by_votes(probs: Floats, shares: Floats) -> Floats:
    """What the votes on items say for each class [N, C], as log-odds less those of an item of which nothing is known.

    Args:
        probs: weak labels of the items [N, C]; zeros where an item has none.
        shares: of the items that have each class [C].
    """
    told_N = probs.sum(axis=1) > 0
    return np.where(told_N[:, None], log_odds(probs) - log_odds(shares), 0.0)


def voted_for(probs: Floats) -> Bools:
    """Whether votes tell items that have a class from items that have it not [C].

    Args:
        probs: weak labels of the items [N, C]; zeros where an item has none.
    """
    said_NC = log_odds(probs[probs.sum(axis=1) > 0])
    return np.ptp(said_NC, axis=0) > 0 if len(said_NC) else np.zeros(probs.shape[1], np.bool_)


def _held(heads: Heads) -> Heads:
    """Heads to which gold labels are held by the whole ridge, however few weak labels taught them.

    Votes stand beside the end model here, so a few weak labels harm less, and half the ridge was no better on digests.
    """
    weak = {kind: tuple(replace(model, hold=HOLD) for model in models) for kind, models in heads.weak.items()}
    return replace(heads, weak=weak)


def truth(labels: Sequence[Label], classes: int, *, multi_label: bool) -> Truth:
    """Labels as an array."""
    if not multi_label:
        return np.array(labels, np.int64)
    sets = np.zeros((len(labels), classes), np.bool_)
    for row, class_ids in enumerate(labels):
        sets[row, list(class_ids if isinstance(class_ids, tuple) else (class_ids,))] = True
    return sets


def confidence(probs: Probs, *, multi_label: bool) -> Probs:
    """How sure each prediction is [N]: of its class, or of the class whose yes or no it is least sure of."""
    return np.maximum(probs, 1 - probs).min(axis=1) if multi_label else probs.max(axis=1)
