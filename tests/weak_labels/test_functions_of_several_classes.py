"""Functions that vote for several classes: `anchored` is not below the majority, whatever the class shares."""

import itertools

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from weak_labels.label_models import LabelModelConfig, VoteMatrix, fit
from weak_labels.label_models.agreement import Agreement
from weak_labels.label_models.anchored import ANCHOR, fit_anchored
from weak_labels.label_models.votes import Ints, Votes

SPREAD = list(itertools.product((2, 4), ("even", "9:1"), (3, 10, 40), (0.6, 0.85), (0.1, 1.0), (False, True)))
"""Classes, class shares, functions, their accuracy, coverage, whether every third function nearly repeats the first."""


def made_up(
    classes: int, shares: str, functions: int, accuracy: float, coverage: float, repeats: bool, items: int = 2000
) -> tuple[Votes, Ints]:
    """Votes [N, L] and the truth [N]; accuracies are spread by .1 around their mean, the large class is the last."""
    seed = [classes, len(shares), functions, int(100 * accuracy), int(10 * coverage), repeats]
    generator = np.random.default_rng(seed)
    share_C = np.full(classes, 1 / classes)
    if shares == "9:1":
        share_C = np.append(np.full(classes - 1, 0.1 / (classes - 1)), 0.9)
    truth = generator.choice(classes, items, p=share_C)
    shape = (items, functions)
    accuracy_L = np.linspace(accuracy - 0.05, accuracy + 0.05, functions)
    wrong = (truth[:, None] + generator.integers(1, classes, shape)) % classes
    votes = np.where(generator.random(shape) < accuracy_L, truth[:, None], wrong)
    votes[generator.random(shape) > coverage] = -1
    if repeats:
        for column in range(3, functions, 3):
            again = generator.random(items) < 0.9
            votes[again, column] = votes[again, 0]
    return votes, truth


def right(votes: Votes, truth: Ints, kind: str, classes: int, gold: Ints | None = None) -> float:
    """Accuracy on covered items; of equally probable classes each counts its part."""
    fitted = fit(votes, LabelModelConfig(kind=kind, classes=tuple(map(str, range(classes)))), gold=gold)
    top = fitted.probs >= fitted.probs.max(axis=1, keepdims=True) - 1e-9
    shared = top[np.arange(len(truth)), truth] / top.sum(axis=1)
    return float(shared[fitted.votes > 0].mean())


def learned_columns(votes: Votes, classes: int) -> Agreement:
    matrix = VoteMatrix.from_dense(votes, classes)
    return Agreement.of(matrix.pairs(), classes, np.ones(votes.shape[1], np.bool_))


class TestAgainstTheMajority:
    def test_nine_to_one(self) -> None:
        votes, truth = made_up(2, "9:1", 40, 0.7, 1.0, repeats=False)
        assert right(votes, truth, "anchored", 2) > right(votes, truth, "majority", 2)

    @pytest.mark.parametrize(("kind", "every"), [("anchored", 1), ("auto", 5)])
    def test_never_below_it_by_more_than_a_hundredth(self, kind: str, every: int) -> None:
        ahead = {
            place: right(votes, truth, kind, place[0]) - right(votes, truth, "majority", place[0])
            for place in SPREAD[::every]
            for votes, truth in [made_up(*place)]
        }
        assert {place: lead for place, lead in ahead.items() if lead < -0.01} == {}
        assert np.mean(list(ahead.values())) > 0.01


class TestAccuracy:
    @pytest.mark.parametrize("shares", ["even", "9:1"])
    def test_begins_where_the_functions_agree_as_often_as_they_do(self, shares: str) -> None:
        votes, _ = made_up(3, shares, 10, 0.7, 0.5, repeats=False)
        assert learned_columns(votes, 3).accuracy(ANCHOR) == pytest.approx(0.7, abs=0.02)

    def test_without_a_common_item_it_is_the_anchor(self) -> None:
        votes = np.array([[0, -1], [1, -1], [-1, 0], [-1, 1]])
        assert learned_columns(votes, 2).accuracy(ANCHOR) == pytest.approx(ANCHOR)

    def test_gold_labels_show_that_a_function_is_worse_than_chance(self) -> None:
        votes, truth = made_up(2, "even", 4, 0.85, 1.0, repeats=False)
        votes[:, 0] = np.where(np.random.default_rng(0).random(len(truth)) < 0.9, 1 - truth, truth)
        gold = np.where(np.arange(len(truth)) < 200, truth, -1)
        model = fit_anchored(VoteMatrix.from_dense(votes, 2), np.ones(len(truth), np.bool_), gold)
        assert model.precision_PC[0, 0] < 0.3
        assert right(votes, truth, "anchored", 2, gold) > right(votes, truth, "anchored", 2)

    def test_a_stray_vote_for_another_class_leaves_the_others_as_they_are(self) -> None:
        generator = np.random.default_rng(0)
        truth = generator.integers(0, 2, 2000)
        votes = np.where(generator.random((2000, 6)) < 0.8, truth[:, None], 1 - truth[:, None])
        votes = np.where(votes == np.arange(6) % 2, votes, -1)
        strayed = votes.copy()
        strayed[np.flatnonzero(votes[:, 0] == -1)[0], 0] = 1
        config = LabelModelConfig(kind="anchored", classes=("a", "b"))
        apart = np.abs(fit(strayed, config).probs - fit(votes, config).probs).max(axis=1)
        assert np.median(apart) < 0.1


class TestWeights:
    def test_good_functions_that_agree_keep_their_weight(self) -> None:
        votes, _ = made_up(2, "9:1", 20, 0.85, 1.0, repeats=False)
        agreement = learned_columns(votes, 2)
        assert agreement.weights(agreement.accuracy(ANCHOR)).min() > 0.8

    def test_who_repeats_shares_its_weight(self) -> None:
        votes, _ = made_up(2, "9:1", 20, 0.7, 1.0, repeats=False)
        again = np.random.default_rng(1).random((len(votes), 4)) < 0.95
        votes[:, 1:5] = np.where(again, votes[:, :1], votes[:, 1:5])
        agreement = learned_columns(votes, 2)
        weights = agreement.weights(agreement.accuracy(ANCHOR))
        assert weights[:5].max() < 0.35
        assert weights[5:].min() > 0.8

    @pytest.mark.parametrize("more", [0.9, 1.1])
    def test_what_one_standard_error_explains_is_no_repetition(self, more: float) -> None:
        chance, items = 0.8**2 + 0.2**2, 100.0
        same = items * chance + more * np.sqrt(items * chance * (1 - chance))
        both_LL, same_LL = (csr_matrix([[0.0, count], [count, 0.0]]) for count in (items, same))
        agreement = Agreement(2, np.full(2, items), both_LL, same_LL)
        assert (agreement.weights(0.8) == 1.0).all() == (more < 1)
