"""Fitting a label model on a matrix of votes: what all models share, and the way out when votes are too few.

Pure functions on arrays. Columns are sorted and equal ones merged first, so that neither the order of the functions
nor a copied function changes a result.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from warehouse import SettingsError
from weak_labels.label_models.majority import Probs, Votes, soft_majority
from weak_labels.label_models.snorkel import SMALLEST_L, NoSolution, snorkel_posterior

KINDS = ("snorkel", "majority")


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelModelConfig:
    """How votes become probabilities.

    Attributes:
        kind: snorkel (estimates how accurate each function is) or majority (all count the same).
        classes: class names; the place of a name is its class id.
        epochs: training steps of Snorkel. Its own default of 100 and its uniform class prior measured best: on the
            covered train rows of trec / sms / youtube / agnews accuracy .50 / .96 / .85 / .84, with 500 epochs
            .44 / .88 / .78 / .84, with 500 epochs and the majority's class balance as prior .38 / .95 / .86 / .84.
        seed: seed of Snorkel's starting point.

    Raises:
        SettingsError: a value is out of range.
    """

    kind: str = "snorkel"
    classes: tuple[str, ...]
    epochs: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SettingsError(f"label_model is '{self.kind}'; use one of {', '.join(KINDS)}.")
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise SettingsError(f"classes is {list(self.classes)}; name at least two, each once.")
        if self.epochs < 1:
            raise SettingsError(f"epochs of the label model is {self.epochs}; use 1 or more.")
        if self.seed < 0:
            raise SettingsError(f"seed of the label model is {self.seed}; use 0 or more.")


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelModelFit:
    """A fitted label model, as its answers on the rows it was given.

    Attributes:
        probs: [N, C] float64, rows sum to 1; rows without a vote hold `prior`.
        votes: [N] functions that did not abstain.
        prior: [C] class prior: the mean over covered train rows, Laplace-smoothed.
        kind: the model that was used; majority where the wanted one could not be.
        detail: what was learned and why another kind was used, as JSON values.
    """

    probs: Probs
    votes: Votes
    prior: Probs
    kind: str
    detail: dict[str, Any] = field(default_factory=dict[str, Any])


def fit(
    votes: npt.NDArray[np.integer[Any]], config: LabelModelConfig, train: npt.NDArray[np.bool_] | None = None
) -> LabelModelFit:
    """Fit on the train rows and give probabilities for all rows.

    Args:
        votes: class ids [N, L]; -1 abstains.
        config: the model.
        train: rows to learn from [N]; all when None.

    Raises:
        SettingsError: a vote is no class and no abstain.
    """
    votes_NL = np.asarray(votes, np.int64)
    n, functions = votes_NL.shape
    classes = len(config.classes)
    if votes_NL.size and not (votes_NL.min() >= -1 and votes_NL.max() < classes):
        raise SettingsError(
            f"Votes range from {votes_NL.min()} to {votes_NL.max()}, but {classes} classes allow -1 (abstain) to "
            f"{classes - 1}. Mend the labeling function or the classes."
        )
    train_N = np.ones(n, np.bool_) if train is None else train
    cast_N = (votes_NL >= 0).sum(axis=1)
    votes_NL = _distinct(votes_NL, train_N)
    covered_N = (votes_NL >= 0).any(axis=1)
    learnable_N = covered_N & train_N
    voting_L = (votes_NL[train_N] >= 0).any(axis=0)
    kind, reason, probs_NC = "majority", "", soft_majority(votes_NL, classes)
    if config.kind == "snorkel":
        if voting_L.sum() < SMALLEST_L:
            reason = (
                f"Snorkel needs {SMALLEST_L} different functions that vote on train items, there are "
                f"{voting_L.sum()}: used the soft majority."
            )
        else:
            try:
                probs_NC = snorkel_posterior(votes_NL, train_N, classes, epochs=config.epochs, seed=config.seed)
                kind = "snorkel"
            except NoSolution as error:
                reason = f"Snorkel found no solution ({error}): used the soft majority."
    prior_C = (probs_NC[learnable_N].sum(axis=0) + 1.0) / (learnable_N.sum() + classes)
    probs_NC[~covered_N] = prior_C
    detail: dict[str, Any] = {
        "functions": functions,
        "functions_used": int(votes_NL.shape[1] if kind == "majority" else voting_L.sum()),
        "items_covered": int(covered_N.sum()),
        "train_items_covered": int(learnable_N.sum()),
        "class_prior": named(config.classes, prior_C),
    }
    if reason:
        detail["reason"] = reason
    return LabelModelFit(probs=probs_NC, votes=cast_N, prior=prior_C, kind=kind, detail=detail)


def named(classes: Sequence[str], values_C: Probs) -> dict[str, float]:
    """Figures per class name, rounded for people."""
    return {name: round(float(value), 4) for name, value in zip(classes, values_C, strict=True)}


def _distinct(votes_NL: Votes, train_N: npt.NDArray[np.bool_]) -> Votes:
    """The different columns in an order of their own: a function that copies another would count double.

    Train rows decide the order, so that votes on other rows cannot change a bit of what is learned.
    """
    if not votes_NL.size:
        return votes_NL
    rows_N = np.argsort(~train_N, kind="stable")
    distinct_NL = np.unique(votes_NL[rows_N], axis=1)
    return distinct_NL[np.argsort(rows_N)]
