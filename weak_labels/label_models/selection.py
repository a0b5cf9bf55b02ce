"""`auto`: which label model to believe, by gold labels where there are enough, else by the votes themselves.

Without gold the anchored model is believed by half, and only where the votes speak for it: the class is that of the
mean of what it and the majority say. So votes that are all for one class are never overruled, and what was learned
decides where they are divided. With gold the anchored model is the candidate to beat, and gives way to a rival that is
clearly ahead.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from warehouse.text import percent
from weak_labels.calibration import folds
from weak_labels.label_models.anchored import Anchored, fit_anchored
from weak_labels.label_models.majority import soft_majority
from weak_labels.label_models.votes import Bools, Ints, Probs, VoteMatrix
from weak_labels.losses import softmax

FEWEST_GOLD = 20
"""Covered gold labels below which a comparison of models would be chance."""
STANDARD_ERRORS = 1.5
"""By how many standard errors of the paired difference a rival must be ahead."""
MOST_OVERRULED = 0.05
"""Share of the unanimous items (two votes or more, all for one class) that a model may label otherwise."""
SHOWN = 0.00005
"""Half of the last digit of a log-likelihood that people are shown."""
RIVALS = ("majority", "snorkel", "dawid_skene")
MEAN = "anchored_and_majority"
"""The kind of what is between both, which only `auto` takes."""
MOST_SNORKEL = 1000
"""Functions times classes beyond which Snorkel is no rival: its time and memory grow with the square of this."""
SLOW_SNORKEL = 3000
"""Functions times classes beyond which Snorkel takes minutes: whoever asks for it is told what is faster."""


def choose(
    votes: VoteMatrix,
    train_N: Bools,
    gold_N: Ints,
    anchored: Anchored,
    candidate: Callable[[str], Probs | None],
) -> tuple[str, dict[str, Any]]:
    """Name the model to use.

    Args:
        votes: the votes.
        train_N: rows to learn from.
        gold_N: true classes of train rows, -1 elsewhere [N].
        anchored: our own model, learned from all of it.
        candidate: probabilities [N, C] of another kind of model, None where it has none.

    Returns:
        The kind, and the figures that decided as JSON values.
    """
    covered_N = votes.covered_N & train_N
    known = np.flatnonzero(covered_N & (gold_N >= 0))
    if len(known) >= FEWEST_GOLD:
        return _by_gold(votes, train_N, gold_N, candidate, known)
    overruled = _overruled(votes, train_N, anchored)
    lead, error = _held_out_lead(votes, train_N)
    figures = {
        "by": "votes",
        "overruled_frac": round(overruled, 4),
        "held_out_lead_over_majority": round(lead, 5),
        "standard_error": round(error, 5),
    }
    learned = overruled <= MOST_OVERRULED and lead > 0
    return (MEAN if learned else "majority"), figures


def in_words(kind: str, figures: dict[str, Any]) -> str:
    """Why this kind was chosen, for people; from what `choose` returned."""
    if "accuracy" in figures:
        ranked = ", ".join(f"{name} {share:.1%}" for name, share in figures["accuracy"].items())
        return (
            f"auto took {kind} by {figures['gold_labels']:,} gold labels that were held back from it (right: "
            f"{ranked}); another than anchored has to be clearly ahead."
        )
    lead, error = figures["held_out_lead_over_majority"], figures["standard_error"]
    apart = f"{lead:+.4f} +- {error:.4f}" if error >= SHOWN else f"{lead:+.4f}"
    margin = f"log-likelihood {apart}" if abs(lead) >= SHOWN else f"log-likelihood apart by less than {2 * SHOWN}"
    others = f"gives another class to {percent(figures['overruled_frac'])} of the items whose votes all agree"
    if kind == MEAN:
        return (
            "auto took the mean of anchored and majority: anchored foretells votes that it did not see better than "
            f"majority does ({margin}), and it {others} (at most {MOST_OVERRULED:.0%} may be)."
        )
    if lead <= 0:
        return (
            f"auto took majority: anchored foretells votes that it did not see no better than majority does ({margin})."
        )
    return f"auto took majority: anchored {others} (at most {MOST_OVERRULED:.0%} may be)."


def _by_gold(
    votes: VoteMatrix,
    train_N: Bools,
    gold_N: Ints,
    candidate: Callable[[str], Probs | None],
    known: Ints,
) -> tuple[str, dict[str, Any]]:
    """Each gold label judges a model that did not see it."""
    true_G = gold_N[known]
    guess_G = np.empty(len(known), np.int64)
    fold_G = folds(true_G)
    for fold in np.unique(fold_G):
        held = known[fold_G == fold]
        seen_N = gold_N.copy()
        seen_N[held] = -1
        model = fit_anchored(votes, train_N, seen_N)
        guess_G[fold_G == fold] = model.posterior(votes.take(held).pairs()).argmax(axis=1)
    ours_G = (guess_G == true_G).astype(np.float64)
    accuracy = {"anchored": round(float(ours_G.mean()), 4)}
    best, best_lead = "anchored", 0.0
    for kind in RIVALS:
        if kind == "snorkel" and votes.learnable(train_N).functions * votes.classes > MOST_SNORKEL:
            continue
        probs_NC = candidate(kind)
        if probs_NC is None:
            continue
        right_G = (probs_NC[known].argmax(axis=1) == true_G).astype(np.float64)
        accuracy[kind] = round(float(right_G.mean()), 4)
        lead_G = right_G - ours_G
        if lead_G.mean() > max(STANDARD_ERRORS * _standard_error(lead_G), best_lead):
            best, best_lead = kind, float(lead_G.mean())
    return best, {"by": "gold labels, cross-validated", "gold_labels": len(known), "accuracy": accuracy}


def overruling(votes: VoteMatrix, train_N: Bools, probs_NC: Probs) -> tuple[int, int, int]:
    """How often a model gives train items another class than all votes on them, and whose votes those are most often.

    Args:
        votes: the votes.
        train_N: rows to look at.
        probs_NC: the model's probabilities.

    Returns:
        The items with votes for one class alone, those of them to which the model gives another, and the function with
        the most votes on the latter.
    """
    shares_NC = soft_majority(votes)
    rows = np.flatnonzero(train_N & votes.covered_N & (shares_NC.max(axis=1) == 1))
    said_R = shares_NC[rows].argmax(axis=1)
    other = rows[probs_NC[rows, said_R] < probs_NC[rows].max(axis=1)]
    casts_L = np.bincount(votes.take(other).function_V, minlength=votes.functions)
    return len(rows), len(other), int(casts_L.argmax())


def _overruled(votes: VoteMatrix, train_N: Bools, model: Anchored) -> float:
    shares_NC = soft_majority(votes)
    rows = np.flatnonzero(train_N & (votes.cast_N >= 2) & (shares_NC.max(axis=1) == 1))
    if not len(rows):
        return 0.0
    return float((model.posterior(votes.take(rows).pairs()).argmax(axis=1) != shares_NC[rows].argmax(axis=1)).mean())


def _held_out_lead(votes: VoteMatrix, train_N: Bools) -> tuple[float, float]:
    """By how much the learned model beats a majority vote, in log-likelihood per vote; standard error.

    The majority as a model has even class shares, and every vote is right with one probability. Judged are votes on
    items that the model did not learn from, each given the other votes on its item. A function that votes says a class
    v with probability proportional to its share of votes for v times precision(v, c) / prior(c), where c is the true
    class; the other votes say how probable each c is. The votes on an item stand or fall together, so the standard
    error is that of a ratio of sums over items, which are drawn independently.
    """
    rows = np.flatnonzero(train_N & (votes.cast_N >= 2))
    # Drawn, since of records that alternate between two classes every second one is of one class.
    rows = np.random.default_rng(0).permutation(rows)
    halves = rows[::2], rows[1::2]
    leads: list[Probs] = []
    casts: list[Probs] = []
    for learn, judge in (halves, halves[::-1]):
        if not len(learn) or not len(judge):
            continue
        seen, heard = votes.take(learn), votes.take(judge)
        learned = fit_anchored(seen, np.ones(len(learn), np.bool_), np.full(len(learn), -1))
        plain = Anchored.at_anchor(np.full(votes.classes, 1 / votes.classes), votes.functions)
        casts_P = np.asarray(seen.pairs().sum(axis=0)).reshape(-1)
        lead_V = _vote_log_likelihood(heard, learned, casts_P) - _vote_log_likelihood(heard, plain, casts_P)
        leads.append(np.bincount(heard.row_V, lead_V, len(judge)).astype(np.float64))
        casts.append(votes.cast_N[judge].astype(np.float64))
    if not leads:
        return 0.0, 0.0
    lead_I, cast_I = np.concatenate(leads), np.concatenate(casts)
    lead = float(lead_I.sum() / cast_I.sum())
    return lead, _standard_error(lead_I - lead * cast_I) / float(cast_I.mean())


def _vote_log_likelihood(votes: VoteMatrix, model: Anchored, casts_P: Probs) -> Probs:
    classes = votes.classes
    evidence_PC = model.weight_P[:, None] * np.log(model.precision_PC / model.prior_C)
    pair_V = votes.function_V.astype(np.int64) * classes + votes.class_V
    others_VC = softmax(
        (np.asarray(votes.pairs() @ evidence_PC) + np.log(model.prior_C))[votes.row_V] - evidence_PC[pair_V]
    )
    said_PC = (casts_P + 1.0 / classes)[:, None] * model.precision_PC / model.prior_C
    said_LVC = said_PC.reshape(votes.functions, classes, classes)
    said_LVC = said_LVC / said_LVC.sum(axis=1, keepdims=True)
    return np.log((others_VC * said_LVC.reshape(-1, classes)[pair_V]).sum(axis=1))


def _standard_error(values: Probs) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))
