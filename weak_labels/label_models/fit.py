"""Fitting a label model on votes: what all models share, and the way out when votes are too few.

Pure functions on arrays. Functions are sorted and equal ones merged first, so that neither the order of the functions
nor a copied function changes a result.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from warehouse import SettingsError
from weak_labels.functions import arguments
from weak_labels.functions.arguments import whole_numbers
from weak_labels.label_models.anchored import Anchored, fit_anchored
from weak_labels.label_models.dawid_skene import dawid_skene
from weak_labels.label_models.majority import soft_majority
from weak_labels.label_models.selection import MEAN, MOST_OVERRULED, SLOW_SNORKEL, choose, in_words, overruling
from weak_labels.label_models.snorkel import SMALLEST_L, NoSolution, snorkel_posterior
from weak_labels.label_models.votes import Bools, Ints, Probs, VoteMatrix, train_rows

KINDS = ("auto", "anchored", "snorkel", "dawid_skene", "majority")
GOLD_KINDS = ("auto", "anchored")
"""Kinds that learn from gold labels."""
UNANCHORED_KINDS = ("snorkel", "dawid_skene")
"""Kinds to which the votes of a function say nothing before they have learned from its votes on train items. Where they
give items of sms, trec or youtube another class than all votes on them, the votes are right on 90 to 100% of these and
the model on at most 7%."""
TIES = "classes that are equally probable stay so; where one is needed it is the first in the order of `classes`"
MOST_DENSE = 150_000_000
"""Cells of Snorkel's dense matrices, 8 bytes each; it is fitted on evenly spaced items where there are more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelModelConfig:
    """How votes become probabilities.

    Attributes:
        kind: one of `KINDS`. auto picks among the others, or the mean of two; anchored is our own; majority counts
            every vote the same.
        classes: class names; the place of a name is its class id.
        epochs: training steps of Snorkel. Its own default of 100 and its uniform class prior measured best: on the
            covered train rows of trec / sms / youtube / agnews accuracy .50 / .96 / .85 / .84, with 500 epochs
            .44 / .88 / .78 / .84, with 500 epochs and the majority's class balance as prior .38 / .95 / .86 / .84.
        seed: seed of Snorkel's starting point, 0 to 2**32 - 1.
        learn_from_gold: let the stage give people's labels to the kinds that learn from them (`GOLD_KINDS`).
        multi_label: an item may have several classes or none; for the stage, and needs the kind anchored. In a program
            `fit_multi_label` does it.

    Raises:
        SettingsError: a value is out of range.
    """

    kind: str = "auto"
    classes: tuple[str, ...]
    epochs: int = 100
    seed: int = 0
    learn_from_gold: bool = False
    multi_label: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SettingsError(f"label_model is '{self.kind}'; use one of {', '.join(KINDS)}.")
        arguments.check_classes(self.classes)
        if self.multi_label and self.kind != "anchored":
            raise SettingsError(
                f"label_model is '{self.kind}', which gives each item one class; with multi_label use 'anchored'."
            )
        arguments.whole(self.epochs, "epochs of the label model")
        arguments.whole(self.seed, "seed of the label model")
        if self.epochs < 1:
            raise SettingsError(f"epochs of the label model is {self.epochs}; use 1 or more.")
        if not 0 <= self.seed < 2**32:
            raise SettingsError(f"seed of the label model is {self.seed}; use 0 to {2**32 - 1}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelModelFit:
    """A fitted label model, as its answers on the rows it was given.

    Attributes:
        probs: [N, C] float64, rows sum to 1 (but not of `fit_sets`); rows without a vote hold `prior`. So do, of
            `UNANCHORED_KINDS`, rows that only functions without a vote on train rows voted on.
        votes: [N] functions that did not abstain.
        prior: [C] class prior: the mean over covered train rows, Laplace-smoothed.
        kind: the model that was used; majority where the wanted one could not be, "anchored_and_majority" for
            what `auto` takes of both.
        detail: what was learned, how ties are treated and why another kind was used, as JSON values.
        learned: parameters to go on from when gold labels or votes arrive, as JSON values: class shares, and by
            function and class voted for the class probabilities; empty for models that have none to go on from. Of
            `fit_sets` what `probs_by` needs.
    """

    probs: Probs
    votes: Ints
    prior: Probs
    kind: str
    detail: dict[str, Any] = field(default_factory=dict[str, Any])
    learned: dict[str, Any] = field(default_factory=dict[str, Any])


def fit(
    votes: VoteMatrix | npt.NDArray[np.integer[Any]],
    config: LabelModelConfig,
    train: Bools | None = None,
    gold: Ints | None = None,
    *,
    names: Sequence[str] | None = None,
    start: dict[str, Any] | None = None,
) -> LabelModelFit:
    """Fit on the train rows and give probabilities for all rows.

    Args:
        votes: class ids [N, L], -1 abstains; or a `VoteMatrix`, whose memory grows with the votes that were cast.
        config: the model.
        train: rows to learn from [N]; all when None.
        gold: what people said [N], -1 where nobody did; only train rows and `GOLD_KINDS` use it.
        names: of the functions [L], each once, to find them again in `start`; their places when None.
        start: `learned` of an earlier fit; the anchored model goes on from it instead of beginning anew.

    Raises:
        SettingsError: a vote or a gold label is no class and no -1, a function votes for several classes on one item,
            there are more or fewer of something than items, functions or classes, or the settings are multi_label.
    """
    given, named_L, train_N, gold_N = _checked(votes, config, train, gold, names)
    classes = len(config.classes)
    distinct, kept, _ = given.distinct(train_N)
    heard = distinct.learnable(train_N)
    voting = heard.functions
    kept_names = [named_L[place] for place in kept]
    began = _parameters(start, kept_names, distinct) if start else None

    used, reason, detail = config.kind, "", dict[str, Any]()
    if config.kind not in ("majority", "anchored") and voting < SMALLEST_L:
        used = "majority"
        if given.functions or config.kind != "auto":  # who has none, and chose no model, lacks nothing
            reason = (
                f"{_TITLE[config.kind]} needs {SMALLEST_L} different functions that vote on train items, there are "
                f"{voting}: used the soft majority."
            )
    anchored = fit_anchored(distinct, train_N, gold_N, began) if used in GOLD_KINDS else None

    @cache
    def posterior(kind: str) -> tuple[Probs | None, str]:
        return _posterior(kind, heard if kind in UNANCHORED_KINDS else distinct, train_N, config, anchored)

    if used == "auto":
        assert anchored is not None
        used, detail["auto"] = choose(distinct, train_N, gold_N, anchored, lambda kind: posterior(kind)[0])
        reason = in_words(used, detail["auto"])
    probs_NC, failure = posterior(used)
    if probs_NC is None:
        used, reason, probs_NC = "majority", failure, soft_majority(distinct)

    covered_N = (heard if used in UNANCHORED_KINDS else distinct).covered_N
    learnable_N = covered_N & train_N
    prior_C = (probs_NC[learnable_N].sum(axis=0) + 1.0) / (learnable_N.sum() + classes)
    probs_NC[~covered_N] = prior_C
    detail |= {
        "functions": given.functions,
        "functions_used": distinct.functions if used == "majority" else voting,
        "items_covered": int(distinct.covered_N.sum()),
        "train_items_covered": int(learnable_N.sum()),
        "class_prior": named(config.classes, prior_C),
        "ties": TIES,
        "gold_labels": int((gold_N >= 0).sum()) if config.kind in GOLD_KINDS else 0,
    }
    if reason:
        detail["reason"] = reason
    if advice := _advice(config, used, heard, distinct, train_N, probs_NC, kept_names):
        detail["advice"] = advice
    learned: dict[str, Any] = {}
    if anchored is not None:
        learned = _as_json(anchored, kept_names, distinct)
        detail["steps"] = anchored.steps
    return LabelModelFit(probs=probs_NC, votes=given.cast_N, prior=prior_C, kind=used, detail=detail, learned=learned)


def _checked(
    votes: VoteMatrix | npt.NDArray[np.integer[Any]],
    config: LabelModelConfig,
    train: Bools | None,
    gold: Ints | None,
    names: Sequence[str] | None,
) -> tuple[VoteMatrix, list[str], Bools, Ints]:
    """What `fit` was given: the votes, the functions' names [L], the train rows [N] and the gold labels on them [N]."""
    given_config: Any = config
    if not isinstance(given_config, LabelModelConfig):
        raise SettingsError(
            f"config is {given_config!r}; give LabelModelConfig(classes=(...)), which names the classes."
        )
    if config.multi_label:
        raise SettingsError("fit gives each item one class; where multi_label is set, use fit_multi_label.")
    classes = len(config.classes)
    given = votes if isinstance(votes, VoteMatrix) else VoteMatrix.from_dense(votes, classes)
    if given.classes != classes:
        raise SettingsError(f"The votes are for {given.classes} classes, but the label model has {classes}.")
    named_L = [str(name) for name in (range(given.functions) if names is None else names)]
    if len(named_L) != given.functions:
        raise SettingsError(f"There are {len(named_L)} names for {given.functions} functions; give one for each.")
    if twice := sorted(name for name, count in Counter(named_L).items() if count > 1):
        raise SettingsError(f"Two functions are named '{twice[0]}'; give each a name of its own.")
    if (divided := given.divided()).size:
        raise SettingsError(
            f"The function {named_L[given.function_V[divided[0]]]} votes for several classes on item "
            f"{given.row_V[divided[0]]} (counted from 0). Give one vote for each, or use fit_multi_label, where an "
            "item may have several classes."
        )
    train_N = train_rows(train, given.items)
    gold_N = np.full(given.items, -1, np.int64) if gold is None else whole_numbers(gold, "Gold labels")
    if gold_N.shape != (given.items,):
        raise SettingsError(f"Gold labels have shape {gold_N.shape}; give one for each of the {given.items} items.")
    gold_N = np.where(train_N, gold_N, -1)
    if gold_N.size and not (gold_N.min() >= -1 and gold_N.max() < classes):
        raise SettingsError(f"Gold labels range from {gold_N.min()} to {gold_N.max()}; there are {classes} classes.")
    return given, named_L, train_N, gold_N


def _advice(
    config: LabelModelConfig,
    used: str,
    heard: VoteMatrix,
    distinct: VoteMatrix,
    train_N: Bools,
    probs_NC: Probs,
    names: Sequence[str],
) -> str:
    """What whoever chose the model or wrote the functions had better do; empty for nothing."""
    advice, voting, classes = list[str](), heard.functions, len(config.classes)
    if config.kind == "snorkel" and used == "snorkel" and voting * classes > SLOW_SNORKEL:
        advice.append(
            f"Snorkel takes minutes with {voting:,} functions and {classes} classes, four times as long "
            'with twice as many; label_model = "auto" (or "anchored") under [weak_labels] takes seconds.'
        )
    if used in UNANCHORED_KINDS and used == config.kind:
        agreed, other, most = overruling(distinct, train_N & heard.covered_N, probs_NC)
        if other > MOST_OVERRULED * agreed:
            advice.append(
                f"{_TITLE[used]} gives {other:,} of the {agreed:,} train items whose votes all say one class another "
                f"one, most of them items that {names[most]} votes on. Where classes have very unequal shares it "
                'is nearly always wrong there: try label_model = "auto" under [weak_labels].'
            )
    voted = np.unique(distinct.class_V[train_N[distinct.row_V]])
    if len(voted) == 1:
        advice.append(
            f"All votes on train items are for '{config.classes[voted[0]]}', which tells no classes apart: no model "
            f"learns from them before functions vote for another class too.{_rest(config.classes, int(voted[0]))}"
        )
    return " ".join(advice)


def _by_half(learned_NC: Probs, majority_NC: Probs) -> Probs:
    """The classes of the mean of both; where that is what was learned, as sure as that, since an end model that is
    taught by softer answers learns less."""
    mean_NC = (learned_NC + majority_NC) / 2
    same_N = learned_NC.argmax(axis=1) == mean_NC.argmax(axis=1)
    return np.where(same_N[:, None], learned_NC, mean_NC)


def named(classes: Sequence[str], values_C: Probs) -> dict[str, float]:
    """Figures per class name, rounded for people."""
    return {name: round(float(value), 4) for name, value in zip(classes, values_C, strict=True)}


_TITLE = {"snorkel": "Snorkel", "dawid_skene": "Dawid and Skene's model", "auto": "Choosing a model"}


def _posterior(
    kind: str, votes: VoteMatrix, train_N: Bools, config: LabelModelConfig, anchored: Anchored | None
) -> tuple[Probs | None, str]:
    """Probabilities of all rows under one kind of model, or None and why there are none."""
    if kind == "majority":
        return soft_majority(votes), ""
    if kind == "dawid_skene":
        return dawid_skene(votes, train_N), ""
    if kind in ("anchored", MEAN):
        assert anchored is not None
        probs_NC = anchored.posterior(votes.pairs())
        return (probs_NC if kind == "anchored" else _by_half(probs_NC, soft_majority(votes))), ""
    fit_N = train_N
    if (cells := int(train_N.sum()) * votes.functions * (votes.classes + 1)) > MOST_DENSE:
        fit_N = np.zeros_like(train_N)
        fit_N[np.flatnonzero(train_N)[:: -(-cells // MOST_DENSE)]] = True
    try:
        return snorkel_posterior(votes, fit_N, epochs=config.epochs, seed=config.seed), ""
    except NoSolution as error:
        return None, f"Snorkel found no solution ({error}): used the soft majority."


def _as_json(model: Anchored, names: Sequence[str], votes: VoteMatrix) -> dict[str, Any]:
    """Parameters of the pairs that were cast, by function and class id."""
    cast_P = np.unique(votes.function_V.astype(np.int64) * votes.classes + votes.class_V)
    pairs: dict[str, dict[str, list[float]]] = {}
    for pair in cast_P.tolist():
        function, class_id = divmod(int(pair), votes.classes)
        pairs.setdefault(names[function], {})[str(class_id)] = [round(p, 6) for p in model.precision_PC[pair].tolist()]
    return {"prior": [round(p, 6) for p in model.prior_C.tolist()], "precision": pairs}


def _parameters(start: dict[str, Any], names: Sequence[str], votes: VoteMatrix) -> Anchored | None:
    """The model to go on from, or None where it had other classes; functions it does not know begin at the anchor."""
    start = arguments.by_name(start, "start", "`learned` of an earlier fit")
    prior_C = np.array(start.get("prior", []), np.float64)
    if len(prior_C) != votes.classes or not (prior_C > 0).all():
        return None
    model = Anchored.at_anchor(prior_C, votes.functions)
    for function, name in enumerate(names):
        for class_id, probs in start["precision"].get(name, {}).items():
            model.precision_PC[function * votes.classes + int(class_id)] = np.maximum(probs, 1e-6)
    return model


def _rest(classes: Sequence[str], only: int) -> str:
    """How to say that what no function votes on is mostly of the other class, of two."""
    if len(classes) != 2:
        return ""
    other = json.dumps(classes[1 - only], ensure_ascii=False)
    every = f'sql({other}, "true")'
    return f" Where most of the other items are {other}, a function that says so of every item will do: {every}."
