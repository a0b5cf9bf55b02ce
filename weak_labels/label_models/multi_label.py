"""Several labels on one item: one binary problem per class, each with the anchored model.

A vote for a class says that the item has it. Votes for other classes and silence say nothing about it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from warehouse import SettingsError
from weak_labels.functions.arguments import as_array, whole_numbers
from weak_labels.label_models.anchored import Anchored, fit_anchored
from weak_labels.label_models.fit import LabelModelConfig, LabelModelFit, named
from weak_labels.label_models.votes import Bools, Ints, Probs, VoteMatrix, train_rows

KIND = "anchored_per_class"

MISSED = 0.02
"""Share of the items without a vote for a class that have it, before gold labels say more."""
MISSED_STRENGTH = 20.0


@dataclass(frozen=True, kw_only=True, slots=True)
class OfClass:
    """What votes for one class say of any item, in log-odds that it has it.

    Attributes:
        before: log-odds where something votes for it, before what the votes add.
        adds: what votes add [G]; functions that vote alike add it once.
        place: which of these each function adds [L].
        silent: probability where nothing votes for it.
    """

    before: float
    adds: list[float]
    place: list[int]
    silent: float

    @classmethod
    def of(cls, model: Anchored, place: Ints, silent: float) -> "OfClass":
        """From the model of no and yes; `place` as above."""
        no_yes = np.log(model.prior_C)
        evidence_P2 = model.weight_P[:, None] * (np.log(model.precision_PC) - no_yes)
        adds_G = evidence_P2[1::2, 1] - evidence_P2[1::2, 0]
        return cls(before=float(no_yes[1] - no_yes[0]), adds=adds_G.tolist(), place=place.tolist(), silent=silent)

    def probs(self, voted: Bools) -> Probs:
        """The probability that each item has the class [N], by which functions vote for it [N, L]."""
        voted_NG = np.zeros((len(voted), len(self.adds)), np.bool_)
        for function, place in enumerate(self.place):
            voted_NG[:, place] |= voted[:, function]
        log_odds_N = self.before + voted_NG @ np.array(self.adds)
        return np.where(voted_NG.any(axis=1), 1 / (1 + np.exp(-np.clip(log_odds_N, -500, 500))), self.silent)


def probs_by(learned: Mapping[str, Any], votes: Mapping[str, npt.NDArray[np.integer]], items: int) -> Probs:
    """What a label model of sets says of items that it was not fitted on [N, C], as if it had been.

    Args:
        learned: of `fit_sets`.
        votes: by name of a function its votes [N], negative where it has none; those of unknown functions do not count.
        items: N.
    """
    known: Sequence[str] = learned["functions"]
    votes_NL = np.array([votes.get(name, np.full(items, -1)) for name in known], np.int64).reshape(-1, items).T
    return np.stack(
        [OfClass(**of).probs(votes_NL == class_id) for class_id, of in enumerate(learned["by_class"])], axis=1
    )


def fit_multi_label(
    votes: VoteMatrix, train: Bools | None = None, gold: npt.NDArray[np.integer] | None = None
) -> Probs:
    """Probability that each item has each class.

    Args:
        votes: of `VoteMatrix.from_dense`, or of `from_triples`, where a function may vote for several classes on one
            item.
        train: rows to learn from [N]; all when None.
        gold: what people said [N, C]: 1 has the class, 0 has it not, -1 unknown.

    Returns:
        Probabilities [N, C], each between 0 and 1; rows do not sum to 1, and may all be below 1/2: no label.

    Raises:
        SettingsError: `votes` is no `VoteMatrix`, or `gold` has another shape or other values.
    """
    return _fit(votes, train, gold)[0]


def _fit(votes: VoteMatrix, train: Bools | None, gold: npt.NDArray[np.integer] | None) -> tuple[Probs, list[OfClass]]:
    """As `fit_multi_label`, and what was learned of each class."""
    given: Any = votes
    if not isinstance(given, VoteMatrix):
        raise SettingsError(
            f"Votes are {type(given).__name__}; make a VoteMatrix of them, which knows the number of classes: "
            "VoteMatrix.from_dense(votes, classes), or from_triples."
        )
    shape = (votes.items, votes.classes)
    gold_NC = np.full(shape, -1, np.int64) if gold is None else _yes_or_no(gold)
    if gold_NC.shape != shape or (gold_NC.size and not (gold_NC.min() >= -1 and gold_NC.max() <= 1)):
        raise SettingsError(
            f"Multi-label gold has shape {gold_NC.shape} and values {sorted(set(gold_NC.reshape(-1).tolist()))}; "
            f"it must have shape {shape} and hold 1 (has the class), 0 (has it not) or -1 (unknown)."
        )
    train_N = train_rows(train, votes.items)
    probs_NC, learned = np.empty(shape), list[OfClass]()
    for class_id in range(votes.classes):
        of_class_V = votes.class_V == class_id
        binary = VoteMatrix.from_triples(
            votes.row_V[of_class_V],
            votes.function_V[of_class_V],
            np.ones(int(of_class_V.sum()), np.int64),
            items=votes.items,
            functions=votes.functions,
            classes=2,
        )
        binary, _, place_L = binary.distinct(train_N)
        gold_N = np.where(train_N, gold_NC[:, class_id], -1)
        silent_gold_N = gold_N[~binary.covered_N]
        known = silent_gold_N[silent_gold_N >= 0]
        missed = (MISSED_STRENGTH * MISSED + known.sum()) / (MISSED_STRENGTH + len(known))
        model = fit_anchored(binary, train_N, gold_N, silent_C=np.array([1 - missed, missed]))
        probs_NC[:, class_id] = np.where(binary.covered_N, model.posterior(binary.pairs())[:, 1], missed)
        learned.append(OfClass.of(model, place_L, float(missed)))
    return probs_NC, learned


def _yes_or_no(gold: Any) -> Ints:
    """Gold labels of which truth values are numbers too."""
    given = as_array(gold, "Gold labels")
    return whole_numbers(given.astype(np.int64) if given.dtype == np.bool_ else given, "Gold labels")


def fit_sets(
    votes: VoteMatrix,
    config: LabelModelConfig,
    train: Bools,
    gold: npt.NDArray[np.integer] | None = None,
    *,
    names: Sequence[str],
) -> LabelModelFit:
    """`fit_multi_label` in the form of `fit`: for the stage of a multi-label project.

    Args:
        votes: of all items.
        config: names the classes.
        train: rows to learn from [N].
        gold: as for `fit_multi_label`.
        names: of the functions [L].

    Returns:
        The fit; `learned` is what `probs_by` takes.
    """
    probs_NC, of_classes = _fit(votes, train, gold)
    covered_N = votes.covered_N & train
    prior_C = probs_NC[train].mean(axis=0) if train.any() else np.full(votes.classes, MISSED)
    detail: dict[str, Any] = {
        "functions": votes.functions,
        "functions_used": len(np.unique(votes.function_V[train[votes.row_V]])),
        "items_covered": int(votes.covered_N.sum()),
        "train_items_covered": int(covered_N.sum()),
        "class_prior": named(config.classes, prior_C),
        "ties": "an item has a class from the probability 1/2 on",
        "gold_labels": 0 if gold is None else int((gold[train] >= 0).any(axis=1).sum()),
    }
    learned = {"functions": list(names), "by_class": [asdict(of) for of in of_classes]}
    return LabelModelFit(probs=probs_NC, votes=votes.cast_N, prior=prior_C, kind=KIND, detail=detail, learned=learned)
