"""Our own label model: naive Bayes whose parameters are anchored in what a majority vote takes for granted.

Models without an anchor explain the votes best by a hidden variable that need not be the label. This one begins with
"a vote is right with probability 3/4" and lets agreement among functions move that only as far as a prior allows; gold
labels, where there are any, move it further. Functions that vote together on the same items share their weight.

A function that votes for one class has a precision. One that votes for several has an accuracy instead, since its
precisions depend on the class shares: right in 7 of 10 votes on either of two classes, it is right in 2 of its 10 votes
for the one that 1 item in 10 has.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from weak_labels.label_models.agreement import Agreement, least, one_coin
from weak_labels.label_models.majority import soft_majority
from weak_labels.label_models.votes import Bools, Ints, Probs, VoteMatrix
from weak_labels.losses import softmax

ANCHOR = 0.75
"""Precision of a vote before anything is known; for a class with a share p above 1/2 it is (1 + p) / 2."""
FIXED_STRENGTH = 300.0
RELATIVE_STRENGTH = 1.0
"""The anchor weighs as much as 300 votes and the function's own votes once more. Chosen on the train rows of youtube,
sms, trec and AG News with their gold labels: see docs/decisions/auto-label-model.md."""
GOLD_STRENGTH = 10.0
"""What the votes alone say about a function's precision weighs as much as ten gold labels on its votes."""
PRIOR_STRENGTH = 10.0
STEPS = 50
TOLERANCE = 1e-4
MOST_PRODUCTS = 200_000_000
"""Pairs of votes on one item that the overlap of functions is counted from; evenly spaced items beyond that."""


@dataclass(frozen=True, slots=True)
class Anchored:
    """The fitted model.

    Attributes:
        prior_C: class shares among items that get votes.
        precision_PC: P(class | function l voted v), one row for each pair p = l * C + v.
        weight_P: how much a vote counts, 1 for a function that nobody repeats.
        steps: rounds of learning it took.
    """

    prior_C: Probs
    precision_PC: Probs
    weight_P: Probs
    steps: int

    @classmethod
    def at_anchor(cls, prior_C: Probs, functions: int) -> "Anchored":
        """The model where no vote is known; with even class shares, a majority vote in the form of naive Bayes."""
        return cls(prior_C, _anchors(prior_C, functions), np.ones(functions * len(prior_C)), 0)

    def posterior(self, pairs: csr_matrix) -> Probs:
        """Class probabilities [N, C] of items with these votes; an item without a vote gets the prior."""
        evidence_PC = self.weight_P[:, None] * (np.log(self.precision_PC) - np.log(self.prior_C))
        return softmax(np.asarray(pairs @ evidence_PC) + np.log(self.prior_C))


def fit_anchored(
    votes: VoteMatrix, train_N: Bools, gold_N: Ints, start: Anchored | None = None, silent_C: Probs | None = None
) -> Anchored:
    """Learn precisions and class shares by expectation maximisation.

    Maximises the posterior of naive Bayes in which P(l votes v | c) is share(l, v) * precision(l, v, c) / prior(c), so
    that each vote has one distribution over classes to learn. A function that votes for several classes has one
    accuracy to learn, held to the one at which all of them agree as often as they do; P(l votes v | c) is that for
    v = c and an equal part of the rest for any other. Abstaining says nothing about the class.

    Args:
        votes: the votes.
        train_N: rows to learn from.
        gold_N: true classes of train rows where people said them, -1 elsewhere [N].
        start: go on from this model; its pairs must be those of `votes`.
        silent_C: class probabilities of items without a vote, where these items shall count in the class shares.

    Source: the model is Dawid and Skene 1979 with an informative prior, in precision form, for several classes with one
        coin (Zhang et al. 2014, Spectral Methods Meet EM, section 2); weights of dependent voters follow the idea of
        Bach et al. 2017, https://arxiv.org/abs/1703.00854, without its structure search.
    """
    pairs, classes = votes.pairs(), votes.classes
    learn = pairs[train_N]
    covered_T = np.diff(learn.indptr) > 0
    learn, gold_T = learn[covered_T], gold_N[train_N][covered_T]
    silent = int((~covered_T).sum())
    known_T = gold_T >= 0
    true_GC = np.eye(classes)[gold_T[known_T]]
    casts_P = np.asarray(learn.sum(axis=0)).reshape(-1)
    gold_casts_PC = np.asarray(learn[known_T].T @ true_GC)
    strength_P = FIXED_STRENGTH + RELATIVE_STRENGTH * casts_P
    several_L = (casts_P.reshape(-1, classes) > 0).sum(axis=1) > 1
    several_P = np.repeat(several_L, classes)
    weight_P = _weights(learn, classes)
    accuracy = ANCHOR
    if several_L.any():
        agreement = Agreement.of(_sample(learn), classes, several_L)
        accuracy = agreement.accuracy(ANCHOR)
        weight_P[several_P] = np.repeat(agreement.weights(accuracy), classes)[several_P]

    def shares(q_TC: Probs) -> Probs:
        total_C = q_TC.sum(axis=0)
        if silent_C is not None:
            total_C = total_C + silent * silent_C
        return (total_C + PRIOR_STRENGTH / classes) / (total_C.sum() + PRIOR_STRENGTH)

    def anchors(prior_C: Probs) -> Probs:
        anchor_PC = _anchors(prior_C, votes.functions)
        anchor_PC[several_P] = one_coin(np.full(int(several_L.sum()), accuracy), prior_C)
        return anchor_PC

    def accuracies(right_PC: Probs, gold_PC: Probs) -> Probs:
        """Of the functions that vote for several classes, from how often each vote is right."""
        casts_L, right_L, gold_L, gold_right_L = (
            part_P.reshape(-1, classes).sum(axis=1)[several_L]
            for part_P in (casts_P, _own(right_PC), gold_PC.sum(axis=1), _own(gold_PC))
        )
        strength_L = FIXED_STRENGTH + RELATIVE_STRENGTH * casts_L
        agreed_L = np.maximum((strength_L * accuracy + right_L) / (strength_L + casts_L), least(classes))
        return (GOLD_STRENGTH * agreed_L + gold_right_L) / (GOLD_STRENGTH + gold_L)

    if start is None:
        # With the certainty of the anchor: where all votes are for one class, as in a multi-label problem, the share of
        # that class would begin at 1 otherwise.
        vote_TC = soft_majority(votes)[train_N][covered_T]
        prior_C = shares(vote_TC if silent_C is None else ANCHOR * vote_TC + (1 - ANCHOR) * silent_C)
        precision_PC = anchors(prior_C)
    else:
        prior_C, precision_PC = start.prior_C, start.precision_PC
    model = Anchored(prior_C, precision_PC, weight_P, 0)
    for step in range(1, STEPS + 1):
        q_TC = model.posterior(learn)
        q_TC[known_T] = true_GC
        prior_C = shares(q_TC)
        right_PC = np.asarray(learn.T @ q_TC)
        agreed_PC = strength_P[:, None] * anchors(prior_C) + right_PC
        agreed_PC /= (strength_P + casts_P)[:, None]
        precision_PC = GOLD_STRENGTH * agreed_PC + gold_casts_PC
        precision_PC /= precision_PC.sum(axis=1, keepdims=True)
        precision_PC[several_P] = one_coin(accuracies(right_PC, gold_casts_PC), prior_C)
        moved = max(np.abs(precision_PC - model.precision_PC).max(initial=0), np.abs(prior_C - model.prior_C).max())
        model = Anchored(prior_C, precision_PC, weight_P, step)
        if moved < TOLERANCE:
            break
    return model


def _anchors(prior_C: Probs, functions: int) -> Probs:
    """Precision of each pair before anything is learned [L * C, C]."""
    classes = len(prior_C)
    right_C = np.maximum(ANCHOR, (1 + prior_C) / 2)
    anchor_CC = np.repeat(((1 - right_C) / (classes - 1))[:, None], classes, axis=1)
    np.fill_diagonal(anchor_CC, right_C)
    return np.tile(anchor_CC, (functions, 1))


def _weights(learn: csr_matrix, classes: int) -> Probs:
    """1 / (1 + sum of squared Jaccard overlaps with the other functions that vote for the same class) [L * C]."""
    learn = _sample(learn)
    both = (learn.T @ learn).tocoo()
    casts_P = np.asarray(learn.sum(axis=0)).reshape(-1)
    i_B, j_B, n_B = both.row, both.col, both.data
    other_B = (i_B != j_B) & (i_B % classes == j_B % classes)
    i_B, j_B, n_B = i_B[other_B], j_B[other_B], n_B[other_B]
    jaccard_B = n_B / (casts_P[i_B] + casts_P[j_B] - n_B)
    overlap_P = np.bincount(i_B, jaccard_B**2, minlength=len(casts_P)).astype(np.float64)
    return 1.0 / (1.0 + overlap_P)


def _own(values_PC: Probs) -> Probs:
    """The entry of the class that was voted for [L * C]."""
    classes = values_PC.shape[1]
    return values_PC[np.arange(len(values_PC)), np.arange(len(values_PC)) % classes]


def _sample(learn: csr_matrix) -> csr_matrix:
    """Evenly spaced items, few enough for the products of their votes."""
    products = int((np.diff(learn.indptr).astype(np.int64) ** 2).sum())
    return learn[:: -(-products // MOST_PRODUCTS)] if products > MOST_PRODUCTS else learn
