"""How often functions that vote for several classes agree: how good they are to begin with, and who repeats whom.

A vote of such a function is right with one probability a, whatever the class, and else for any other class. Two that
are independent given the class then agree with probability a^2 + (1 - a)^2 / (C - 1), whatever the class shares are.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix, diags_array

from weak_labels.label_models.votes import Bools, Probs

MARGIN = 0.02
"""A function is believed to be better than chance by at least this much until gold labels say otherwise."""
MOST_ACCURATE = 0.98
AGREE_STRENGTH = 100.0
"""What is taken for granted weighs as much as this many pairs of votes on one item."""


@dataclass(frozen=True, slots=True, eq=False)
class Agreement:
    """Counts of train items, for pairs of the functions that vote for several classes.

    Attributes:
        classes: C.
        casts_L: votes of each function [L].
        both_LL: items on which two of them vote; 0 on the diagonal, and for functions that vote for one class.
        same_LL: those on which they say the same.
    """

    classes: int
    casts_L: Probs
    both_LL: csr_matrix
    same_LL: csr_matrix

    @classmethod
    def of(cls, learn: csr_matrix, classes: int, several_L: Bools) -> "Agreement":
        """From one column for each function and class [N, L * C]; `several_L` tells those that count."""
        keep_L = diags_array(several_L.astype(np.float64))
        shape = (len(several_L), len(several_L))
        voted, same = csr_matrix((len(learn.indptr) - 1, len(several_L))), csr_matrix(shape)
        for place in range(classes):
            of_class = csr_matrix(learn[:, place::classes] @ keep_L)
            voted, same = voted + of_class, same + of_class.T @ of_class
        casts_L = np.asarray(voted.sum(axis=0)).reshape(-1)
        return cls(classes, casts_L, _off_diagonal(csr_matrix(voted.T @ voted)), _off_diagonal(csr_matrix(same)))

    def accuracy(self, anchor: float) -> float:
        """The accuracy at which equally good, independent functions agree as often as these.

        Args:
            anchor: what is taken for granted.

        Source: the agreement of two one-coin workers, Dalvi et al. 2013, Aggregating Crowdsourced Binary Ratings,
            equation 1, here for C classes and solved for one accuracy.
        """
        c, pairs = self.classes, self.both_LL.sum() / 2
        agreed = (AGREE_STRENGTH * self._by_chance(anchor) + self.same_LL.sum() / 2) / (AGREE_STRENGTH + pairs)
        skill = np.sqrt(max((c * agreed - 1) / (c - 1), 0.0))
        return float(np.clip(1 / c + skill * (c - 1) / c, least(c), MOST_ACCURATE))

    def weights(self, accuracy: float) -> Probs:
        """1 / (1 + sum of squared Jaccard overlaps of repeated votes) [L].

        Repeated are the votes by which two functions agree more often than this accuracy and one standard error
        explain: that good functions agree is no sign that one copies the other.
        """
        chance = self._by_chance(accuracy)
        both = self.both_LL.tocoo()
        i_B, j_B, n_B = both.row, both.col, both.data
        same_B = np.asarray(self.same_LL[i_B, j_B]).reshape(-1)
        extra_B = same_B - chance * n_B - np.sqrt(n_B * chance * (1 - chance))
        copied_B = np.maximum(extra_B, 0.0) / (1 - chance)
        jaccard_B = copied_B / (self.casts_L[i_B] + self.casts_L[j_B] - copied_B)
        overlap_L = np.bincount(i_B, jaccard_B**2, minlength=len(self.casts_L)).astype(np.float64)
        return 1.0 / (1.0 + overlap_L)

    def _by_chance(self, accuracy: float) -> float:
        return accuracy**2 + (1 - accuracy) ** 2 / (self.classes - 1)


def least(classes: int) -> float:
    """Accuracy that no function is believed to be below."""
    return 1 / classes + MARGIN


def one_coin(accuracy_L: Probs, prior_C: Probs) -> Probs:
    """P(class | function l voted v) [L * C, C] where P(l votes v | class) is the accuracy, or its share of the rest."""
    classes = len(prior_C)
    said_LCC = np.repeat((1 - accuracy_L) / (classes - 1), classes * classes).reshape(-1, classes, classes)
    said_LCC[:, np.arange(classes), np.arange(classes)] = accuracy_L[:, None]
    joint_PC = said_LCC.reshape(-1, classes) * prior_C
    return joint_PC / joint_PC.sum(axis=1, keepdims=True)


def _off_diagonal(counts_LL: csr_matrix) -> csr_matrix:
    counts = counts_LL.tocoo()
    other_B = counts.row != counts.col
    return csr_matrix((counts.data[other_B], (counts.row[other_B], counts.col[other_B])), shape=counts.shape)
