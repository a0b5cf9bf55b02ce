"""Dawid and Skene's model, with an abstain as one more thing that a function may say.

It is free to learn any confusion and any class-dependent silence, so it wins where functions are many and busy, and can
drift away from what the functions mean where they are not.
"""

import numpy as np
from scipy.sparse import csr_matrix

from weak_labels.label_models.majority import soft_majority
from weak_labels.label_models.votes import Bools, Probs, VoteMatrix
from weak_labels.losses import softmax

STEPS = 100
TOLERANCE = 1e-4


def dawid_skene(votes: VoteMatrix, train_N: Bools) -> Probs:
    """Class probabilities of all items [N, C], under confusions learned on the train items.

    Args:
        votes: the votes.
        train_N: rows to learn from.

    Source: Dawid and Skene 1979, Maximum Likelihood Estimation of Observer Error-Rates Using the EM Algorithm.
    """
    pairs, classes = votes.pairs(), votes.classes
    learn = pairs[train_N]
    q_TC = soft_majority(votes)[train_N]
    uncovered = q_TC.sum(axis=1) == 0
    q_TC[uncovered] = (q_TC.sum(axis=0) + 1.0) / (q_TC.sum() + classes)
    evidence_PC, base_C = _learned(learn, q_TC, votes.functions)
    for _ in range(STEPS):
        before, q_TC = q_TC, softmax(learn @ evidence_PC + base_C)
        evidence_PC, base_C = _learned(learn, q_TC, votes.functions)
        if not q_TC.size or np.abs(q_TC - before).max() < TOLERANCE:
            break
    return softmax(pairs @ evidence_PC + base_C)


def _learned(learn: csr_matrix, q_TC: Probs, functions: int) -> tuple[Probs, Probs]:
    """What a vote says [L * C, C], beyond the silence of all functions, which stands in the second part [C]."""
    classes = q_TC.shape[1]
    of_class_C = q_TC.sum(axis=0)
    said_LVC = np.asarray(learn.T @ q_TC).reshape(functions, classes, classes) + 0.01
    silent_LC = np.maximum(of_class_C - (said_LVC - 0.01).sum(axis=1), 0.0) + 0.01
    total_LC = said_LVC.sum(axis=1) + silent_LC
    log_silent_LC = np.log(silent_LC / total_LC)
    evidence_LVC = np.log(said_LVC / total_LC[:, None]) - log_silent_LC[:, None]
    base_C = np.log((of_class_C + 1.0) / (of_class_C.sum() + classes)) + log_silent_LC.sum(axis=0)
    return evidence_LVC.reshape(functions * classes, classes), base_C
