"""What the label models learn: from agreement, from gold labels as they arrive, and when `auto` believes which."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.cli.main import run_command
from flows.cli.run import Announcer
from flows.pipelines.flows import words_of
from tests.weak_labels.small_lake import CLASSES, build
from warehouse import Lake, SettingsError, StageResult
from weak_labels.label_models import LabelModelConfig, VoteMatrix, fit, fit_multi_label, label_model
from weak_labels.label_models.agreement import Agreement
from weak_labels.label_models.anchored import fit_anchored
from weak_labels.label_models.dawid_skene import dawid_skene
from weak_labels.label_models.selection import MEAN, MOST_SNORKEL, choose, in_words
from weak_labels.label_models.votes import Bools, Ints, Probs, Votes

ANCHORED = LabelModelConfig(kind="anchored", classes=CLASSES)
AUTO = LabelModelConfig(kind="auto", classes=CLASSES)


def cast(truth: Ints, accuracies: list[float], *, coverage: float = 0.5, seed: int = 0) -> Votes:
    """Votes [N, L] of independent functions with these accuracies."""
    generator = np.random.default_rng(seed)
    shape = (len(truth), len(accuracies))
    wrong = (truth[:, None] + generator.integers(1, 3, shape)) % 3
    votes = np.where(generator.random(shape) < np.array(accuracies), truth[:, None], wrong)
    return np.where(generator.random(shape) < coverage, votes, -1)


@pytest.fixture
def truth() -> Ints:
    return np.random.default_rng(1).integers(0, 3, 2000)


def right(votes: Votes, truth: Ints, config: LabelModelConfig, gold: Ints | None = None) -> float:
    fitted = fit(votes, config, gold=gold)
    covered = fitted.votes > 0
    return float((fitted.probs.argmax(axis=1) == truth)[covered].mean())


def first(truth: Ints, n: int) -> Ints:
    return np.where(np.arange(len(truth)) < n, truth, -1)


class TestAnchored:
    def test_agreement_tells_good_functions_from_bad_ones(self, truth: Ints) -> None:
        votes = cast(truth, [0.95, 0.95, 0.95, 0.34, 0.34, 0.34])
        majority = right(votes, truth, LabelModelConfig(kind="majority", classes=CLASSES))
        assert right(votes, truth, ANCHORED) > majority + 0.02

    def test_gold_labels_tell_more(self, truth: Ints) -> None:
        votes = cast(truth, [0.9, 0.35, 0.35, 0.35, 0.35])
        copies = np.where(np.random.default_rng(2).random(votes[:, 1:2].shape) < 0.9, votes[:, 1:2], -1)
        votes = np.concatenate([votes, copies], axis=1)
        assert right(votes, truth, ANCHORED, first(truth, 200)) > right(votes, truth, ANCHORED) + 0.02

    def test_near_copies_share_their_weight(self, truth: Ints) -> None:
        votes = cast(truth, [0.8, 0.8, 0.6], coverage=0.9)
        generator = np.random.default_rng(3)
        echoes = [np.where(generator.random((2000, 1)) < 0.97, votes[:, 2:], -1) for _ in range(5)]
        echoed = np.concatenate([votes, *echoes], axis=1)
        majority = right(echoed, truth, LabelModelConfig(kind="majority", classes=CLASSES))
        assert right(echoed, truth, ANCHORED) > majority + 0.015

    def test_the_weight_of_functions_for_one_class_by_hand(self) -> None:
        votes = np.full((40, 3), -1)
        votes[:10, 0] = votes[2:22, 1] = 0  # eight of the items that either votes on
        votes[:30, 2] = 1  # for another class, so that it repeats nobody
        cast = VoteMatrix.from_dense(votes, 2)
        model = fit_anchored(cast, np.ones(40, np.bool_), np.full(40, -1))
        shared = 1 / (1 + (8 / 22) ** 2)
        np.testing.assert_allclose(model.weight_P[[0, 2, 5]], [shared, shared, 1])

    def test_the_weight_of_functions_for_several_classes_by_hand(self) -> None:
        votes = np.repeat(np.arange(100)[:, None] % 2, 2, axis=1)  # right in nine of ten, they agree on 82 by chance
        agreement = Agreement.of(VoteMatrix.from_dense(votes, 2).pairs(), 2, np.ones(2, np.bool_))
        copied = (100 - 82 - (100 * 0.82 * 0.18) ** 0.5) / 0.18
        np.testing.assert_allclose(agreement.weights(0.9), 1 / (1 + (copied / (200 - copied)) ** 2))
        assert agreement.accuracy(0.75) == pytest.approx(0.5 + 0.5 * (2 * (62.5 + 100) / 200 - 1) ** 0.5)

    def test_going_on_ends_where_a_fresh_start_does_in_fewer_steps(self, truth: Ints) -> None:
        votes = cast(truth, [0.9, 0.8, 0.6, 0.4])
        names = ["a", "b", "c", "d"]
        before = fit(votes, ANCHORED, gold=first(truth, 100), names=names)
        gold = first(truth, 101)
        fresh = fit(votes, ANCHORED, gold=gold, names=names)
        stored: dict[str, Any] = json.loads(json.dumps(before.learned))
        gone_on = fit(votes, ANCHORED, gold=gold, names=names, start=stored)
        np.testing.assert_allclose(gone_on.probs, fresh.probs, atol=5e-3)
        assert gone_on.detail["steps"] < fresh.detail["steps"]

    def test_going_on_knows_functions_by_name_and_classes_by_number(self, truth: Ints) -> None:
        votes = cast(truth, [0.9, 0.8, 0.6, 0.4])
        before = fit(votes, ANCHORED, names=["a", "b", "c", "d"])
        other = fit(votes[:, [3, 0, 2]], ANCHORED, names=["d", "a", "new"], start=before.learned)
        fresh = fit(votes[:, [3, 0, 2]], ANCHORED)
        np.testing.assert_allclose(other.probs, fresh.probs, atol=5e-3)
        two = LabelModelConfig(kind="anchored", classes=CLASSES[:2])
        assert fit(np.minimum(votes, 1), two, start=before.learned).probs.shape == (2000, 2)


class TestAuto:
    def test_takes_the_learned_model_where_it_explains_the_votes_better(self, truth: Ints) -> None:
        fitted = fit(cast(truth, [0.9, 0.9, 0.8, 0.4, 0.4, 0.4]), AUTO)
        assert fitted.kind == "anchored_and_majority"
        assert fitted.detail["auto"]["by"] == "votes"

    def test_takes_the_majority_where_what_was_learned_explains_the_votes_no_better(self, truth: Ints) -> None:
        fitted = fit(cast(truth, [0.75] * 6), AUTO)  # all are as good as is taken for granted: nothing to learn
        assert fitted.detail["auto"]["held_out_lead_over_majority"] < 0
        assert fitted.kind == "majority"

    @pytest.mark.parametrize("truth", [np.arange(1000) % 2, np.sort(np.arange(1000) % 2)], ids=["in turns", "sorted"])
    def test_the_order_of_the_records_decides_nothing(self, truth: Ints) -> None:
        right = np.random.default_rng(0).random((1000, 6)) < [0.9, 0.9, 0.8, 0.6, 0.55, 0.5]
        votes = np.where(right, truth[:, None], 1 - truth[:, None])
        assert fit(votes, replace(AUTO, classes=("ham", "spam"))).kind == "anchored_and_majority"

    def test_the_order_of_the_records_decides_nothing_where_gold_labels_do(self) -> None:
        """Five classes in turns: every fifth gold label is of one class, which a model without it knows nothing of."""
        config, truth = LabelModelConfig(kind="auto", classes=(*"abcde",)), np.arange(100) % 5
        generator = np.random.default_rng(5)
        other = (truth[:, None] + generator.integers(1, 5, (100, 3))) % 5
        votes = np.where(generator.random((100, 3)) < [0.8, 0.7, 0.6], truth[:, None], other)
        votes[generator.random((100, 3)) > 0.8] = -1
        orders = (np.arange(100), generator.permutation(100))
        in_turns, mixed = (fit(votes[o], config, gold=truth[o]).detail["auto"]["accuracy"]["anchored"] for o in orders)
        assert in_turns == pytest.approx(mixed, abs=0.03)

    @pytest.mark.parametrize("share", [0.02, 0.1, 0.3])
    def test_takes_the_majority_where_only_ties_would_go_to_the_rarer_class(self, share: float) -> None:
        # Five functions for each class, all alike: to take one vote against one for the rarer class is nothing learned.
        generator = np.random.default_rng(0)
        truth = (generator.random(3000) < share).astype(np.int64)
        votes = np.full((3000, 10), -1)
        for column in range(10):
            class_id = column % 2
            votes[generator.random(3000) < np.where(truth == class_id, 0.25, 0.08), column] = class_id
        assert fit(votes, LabelModelConfig(kind="auto", classes=CLASSES[:2])).kind == "majority"

    def test_votes_that_are_all_for_one_class_are_never_overruled(self) -> None:
        # Nine items of ten are of one class, so a lone vote for the other, of a function that is right in 8 of 10
        # cases, is mostly wrong. That is learned here, and as easily from votes that only look like this.
        generator = np.random.default_rng(5)
        truth = (generator.random(3000) < 0.1).astype(np.int64)
        votes = np.where(generator.random((3000, 4)) < 0.8, truth[:, None], 1 - truth[:, None])
        votes = np.where(generator.random((3000, 4)) < 0.5, votes, -1)
        alone = ((votes == 1).sum(axis=1) == 1) & ((votes >= 0).sum(axis=1) == 1)
        learned = fit(votes, LabelModelConfig(kind="anchored", classes=CLASSES[:2]))
        taken = fit(votes, LabelModelConfig(kind="auto", classes=CLASSES[:2]))
        assert (learned.probs[alone].argmax(axis=1) == 0).all()
        assert taken.kind == "anchored_and_majority"
        assert (taken.probs[alone].argmax(axis=1) == 1).all()
        np.testing.assert_allclose(taken.probs[alone, 1], (1 + learned.probs[alone, 1]) / 2)
        same = taken.probs.argmax(axis=1) == learned.probs.argmax(axis=1)
        assert same[taken.votes > 1].mean() > 0.9
        np.testing.assert_array_equal(taken.probs[same & (taken.votes > 0)], learned.probs[same & (taken.votes > 0)])

    def test_takes_the_majority_where_gold_says_it_is_better(self, truth: Ints) -> None:
        # Five functions that repeat one error on half of the items, and so agree: no vote can tell.
        votes = cast(truth, [0.95, 0.95, 0.95, 0.95, 0.95, 0.95], coverage=0.6)
        misled = np.arange(2000) % 2 == 0
        shared = (truth + 1) % 3
        for column in range(3):
            votes[misled, column] = np.where(votes[misled, column] >= 0, shared[misled], -1)
        majority = LabelModelConfig(kind="majority", classes=CLASSES)
        gold = first(truth, 150)
        assert right(votes, truth, AUTO, gold) >= right(votes, truth, majority) - 0.01

    def test_few_gold_labels_do_not_decide(self, truth: Ints) -> None:
        votes = cast(truth, [0.9, 0.8, 0.7, 0.5])
        assert fit(votes, AUTO, gold=first(truth, 10)).detail["auto"]["by"] == "votes"
        judged = fit(votes, AUTO, gold=first(truth, 80)).detail
        assert judged["auto"]["by"].startswith("gold")
        assert judged["reason"].startswith(
            "auto took anchored by 72 gold labels that were held back from it (right: anchored "
        )

    def test_gold_labels_judge_nothing_that_saw_them(self) -> None:
        # Each function votes on the items of one fold, and that of the first is always wrong: only its items tell so.
        fold_N, train_N = np.arange(50) % 5, np.ones(50, np.bool_)
        gold_N = np.arange(50) // 25
        said_N = np.where(fold_N == 0, 1 - gold_N, gold_N)
        votes = VoteMatrix.from_triples(np.arange(50), fold_N, said_N, items=50, functions=5, classes=2)
        saw_all = fit_anchored(votes, train_N, gold_N)
        assert (saw_all.posterior(votes.pairs()).argmax(axis=1) == gold_N).all()
        assert choose(votes, train_N, gold_N, saw_all, lambda kind: None)[1]["accuracy"] == {"anchored": 0.8}

    def test_a_rival_has_to_be_clearly_ahead(self, truth: Ints) -> None:
        votes = VoteMatrix.from_dense(cast(truth, [0.9, 0.8, 0.7, 0.5]), 3)
        train_N, gold_N = np.ones(len(truth), np.bool_), first(truth, 80)
        model = fit_anchored(votes, train_N, gold_N)
        known = np.flatnonzero(votes.covered_N & (gold_N >= 0))
        _, alone = choose(votes, train_N, gold_N, model, lambda kind: None)
        wrong = round((1 - alone["accuracy"]["anchored"]) * len(known))
        for mistakes, taken in ((wrong - 1, "anchored"), (0, "majority")):
            probs_NC = np.eye(3)[truth]
            probs_NC[known[:mistakes]] = np.roll(probs_NC[known[:mistakes]], 1, axis=1)
            rival = {"majority": probs_NC}
            kind, figures = choose(votes, train_N, gold_N, model, rival.get)
            assert figures["accuracy"]["majority"] > figures["accuracy"]["anchored"]
            assert kind == taken

    def test_the_rival_that_wins_is_fitted_once(self, truth: Ints, monkeypatch: pytest.MonkeyPatch) -> None:
        # Silence tells the last class: one function takes it for another, and only one more speaks of it.
        generator = np.random.default_rng(0)
        votes = np.where(generator.random((2000, 5)) < 0.9, truth[:, None], (truth[:, None] + 1) % 3)
        votes[truth == 2] = -1
        votes[truth == 2, 0] = generator.integers(0, 2, int((truth == 2).sum()))
        votes[:, 4] = np.where((truth == 2) & (generator.random(2000) < 0.6), 2, -1)
        fits: list[VoteMatrix] = []

        def counted(votes: VoteMatrix, train_N: Bools) -> Probs:
            fits.append(votes)
            return dawid_skene(votes, train_N)

        monkeypatch.setattr(sys.modules["weak_labels.label_models.fit"], "dawid_skene", counted)
        assert fit(votes, AUTO, gold=first(truth, 300)).kind == "dawid_skene"
        assert len(fits) == 1

    def test_the_standard_error_of_the_lead_is_how_far_it_varies(self) -> None:
        # A third of the functions are good and all fail on the same items, so the votes on an item stand together.
        leads: list[float] = []
        errors: list[float] = []
        good_L = np.arange(150) < 50
        for seed in range(20):
            generator = np.random.default_rng(seed)
            truth_N = generator.integers(0, 3, 300)
            hard_N = generator.random(300) < 0.15
            right_NL = np.where(hard_N[:, None], np.where(good_L, 0.1, 0.9), np.where(good_L, 0.9, 0.45))
            dense_NL = (truth_N[:, None] + (generator.random((300, 150)) > right_NL)) % 3
            dense_NL[generator.random((300, 150)) > 0.8] = -1
            votes, train_N, gold_N = VoteMatrix.from_dense(dense_NL, 3), np.ones(300, np.bool_), np.full(300, -1)
            _, figures = choose(votes, train_N, gold_N, fit_anchored(votes, train_N, gold_N), lambda kind: None)
            leads.append(figures["held_out_lead_over_majority"])
            errors.append(figures["standard_error"])
        varies = np.std(leads, ddof=1)
        assert 0.78 * varies < np.mean(errors) < 1.25 * varies

    @pytest.mark.parametrize(("functions", "asked"), [(100, True), (MOST_SNORKEL // 3 + 1, False)])
    def test_snorkel_is_a_rival_only_where_its_matrices_stay_small(self, functions: int, asked: bool) -> None:
        generator = np.random.default_rng(0)
        class_NL = generator.integers(0, 3, (40, functions))
        votes = VoteMatrix.from_dense(np.where(generator.random(class_NL.shape) < 0.3, class_NL, -1), 3)
        train_N, gold_N = np.ones(40, np.bool_), generator.integers(0, 3, 40)
        rivals: list[str] = []

        def candidate(kind: str) -> None:
            rivals.append(kind)

        choose(votes, train_N, gold_N, fit_anchored(votes, train_N, gold_N), candidate)
        assert ("snorkel" in rivals) == asked
        assert {"majority", "dawid_skene"} <= set(rivals)

    @pytest.mark.parametrize(("classes", "told"), [(("ham", "spam"), True), (("ham", "spam", "news"), False)])
    def test_votes_for_one_of_two_classes_are_told_what_would_do(self, classes: tuple[str, ...], told: bool) -> None:
        votes = np.where(np.random.default_rng(0).random((60, 2)) < 0.3, 1, -1)
        config = LabelModelConfig(kind="auto", classes=classes)
        advice = fit(votes, config).detail["advice"]
        assert "All votes on train items are for 'spam'" in advice
        assert ('sql("ham", "true")' in advice) == told
        assert "advice" not in fit(np.column_stack([votes, np.zeros(60, np.int64)]), config).detail

    def test_who_asks_for_snorkel_with_many_functions_is_told_what_is_faster(
        self, truth: Ints, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        votes = cast(truth[:200], [0.9, 0.8, 0.7, 0.6])
        snorkel = LabelModelConfig(kind="snorkel", classes=CLASSES, epochs=1)
        assert "advice" not in fit(votes, snorkel).detail
        monkeypatch.setattr(sys.modules["weak_labels.label_models.fit"], "SLOW_SNORKEL", 11)
        advice = fit(votes, snorkel).detail["advice"]
        assert "4 functions and 3 classes" in advice
        assert 'label_model = "auto"' in advice
        assert "advice" not in fit(votes, AUTO).detail
        result = StageResult(stage="label_model", token="", committed=True, detail={"advice": advice})
        assert advice in words_of(result)
        Announcer()(result)
        assert advice in capsys.readouterr().err

    def test_a_model_that_contradicts_functions_which_all_agree_says_so(self) -> None:
        generator = np.random.default_rng(0)
        rare_N = generator.random(5000) < 0.02
        kind_N = generator.integers(0, 10, 5000)
        words_N = np.where(rare_N, 1, np.where(kind_N < 4, 0, -1))
        others_N = np.where(~rare_N & (kind_N > 6), 0, -1)  # never beside `words`
        noise_N = np.where(generator.random(5000) < 0.005, 1, -1)
        days_N = np.where(generator.random(5000) < 0.08, 0, -1)
        votes = np.stack([words_N, others_N, noise_N, days_N], axis=1)
        names = ["words", "others", "noise", "days"]
        config = LabelModelConfig(kind="snorkel", classes=("ok", "fraud"))
        fitted = fit(votes, config, names=names)
        wrong_N = (fitted.probs.argmax(axis=1) == 1) & ~rare_N
        assert wrong_N.mean() > 0.2, "the votes no longer show what the advice is for"
        advice = fitted.detail["advice"]
        assert "Snorkel gives" in advice
        assert "that others votes on" in advice
        assert 'label_model = "auto"' in advice
        better = fit(votes, replace(config, kind="auto"), names=names)
        assert (better.probs.argmax(axis=1) == rare_N).mean() > 0.9
        assert "advice" not in better.detail

    def test_votes_for_one_class_alone_are_told(self, truth: Ints) -> None:
        votes = np.where(cast(truth, [0.9, 0.8, 0.7]) == 1, 1, -1)
        assert "All votes on train items are for 'ship'" in fit(votes, AUTO).detail["advice"]
        votes[7, 0] = 2
        assert "advice" not in fit(votes, AUTO).detail
        assert "advice" in fit(votes, AUTO, train=np.arange(len(votes)) != 7).detail


class TestMultiLabel:
    def test_an_item_can_have_two_classes_or_none(self) -> None:
        votes = VoteMatrix.from_triples([0, 0, 1, 1], [0, 1, 0, 2], [0, 2, 0, 0], items=3, functions=3, classes=3)
        probs = fit_multi_label(votes)
        assert (probs > 0.5).tolist() == [[True, False, True], [True, False, False], [False, False, False]]
        assert probs[1, 0] > probs[0, 0]

    def test_items_without_a_vote_count_in_the_share_of_a_class(self) -> None:
        votes = VoteMatrix.from_triples(range(20), [0] * 20, [1] * 20, items=400, functions=1, classes=2)
        assert fit_multi_label(votes)[0, 1] == pytest.approx(0.75, abs=0.01)  # where most have the class it is .875
        gold = np.full((400, 2), -1)
        gold[:20, 1] = 1  # those with a vote say nothing of the others
        assert fit_multi_label(votes, gold=gold)[399, 1] == pytest.approx(0.02)

    def test_gold_labels_teach_that_a_function_is_wrong(self) -> None:
        n = 200
        rows = np.concatenate([np.arange(n), np.arange(0, n, 2)])
        functions = np.repeat([0, 1], [n, n // 2])
        votes = VoteMatrix.from_triples(rows, functions, functions, items=n, functions=2, classes=2)
        gold = np.full((n, 2), -1)
        gold[:60, 0] = 0
        before, after = fit_multi_label(votes), fit_multi_label(votes, gold=gold)
        assert (before[60:, 0] > 0.5).all()
        assert (after[60:, 0] < 0.5).all()

    def test_only_train_rows_teach(self) -> None:
        votes = VoteMatrix.from_dense(np.zeros((60, 1), np.int64), 2)
        gold = np.zeros((60, 2), np.int64)
        nothing = fit_multi_label(votes, train=np.zeros(60, np.bool_), gold=gold)
        np.testing.assert_array_equal(nothing, fit_multi_label(votes, train=np.zeros(60, np.bool_)))

    def test_gold_of_another_shape_is_refused(self) -> None:
        votes = VoteMatrix.from_dense(np.zeros((4, 1), np.int64), 2)
        with pytest.raises(SettingsError, match=r"shape \(4,\).*\(4, 2\)"):
            fit_multi_label(votes, gold=np.zeros(4, np.int64))


class TestVotes:
    def test_sparse_and_dense_are_equal(self, truth: Ints) -> None:
        votes = cast(truth, [0.9, 0.5, 0.5])
        sparse = VoteMatrix.from_dense(votes, 3)
        np.testing.assert_array_equal(sparse.dense(), votes)
        np.testing.assert_array_equal(sparse.take(np.array([7, 3, 3])).dense(), votes[[7, 3, 3]])
        np.testing.assert_array_equal(fit(sparse, ANCHORED).probs, fit(votes, ANCHORED).probs)

    def test_memory_is_that_of_the_votes(self) -> None:
        votes = VoteMatrix.from_triples([10**6 - 1], [999], [2], items=10**6, functions=1000, classes=3)
        assert votes.starts.nbytes + votes.function_V.nbytes + votes.class_V.nbytes < 9_000_000


class TestStage:
    def test_gold_labels_refit_where_the_settings_say_so(self, lake: Lake, tmp_path: Path) -> None:
        small = build(lake, tmp_path)
        config = LabelModelConfig(kind="anchored", classes=CLASSES, learn_from_gold=True)
        assert label_model(lake, config).committed
        small.answer({item_id: small.truth[item_id] for item_id in small.train_ids()[:20]})
        result = label_model(lake, config)
        assert result.committed
        assert result.detail["gold_labels"] == 20
        assert not label_model(lake, config).committed
        with lake.read() as reader:
            assert reader.rows("SELECT gold_labels FROM models ORDER BY sequence") == [(0,), (20,)]

    def test_gold_labels_of_test_items_teach_nothing(self, lake: Lake, tmp_path: Path) -> None:
        small = build(lake, tmp_path)
        config = LabelModelConfig(kind="anchored", classes=CLASSES, learn_from_gold=True)
        small.answer({item_id: small.truth[item_id] for item_id in small.test_ids()[:20]})
        assert label_model(lake, config).detail["gold_labels"] == 0

    def test_auto_says_what_it_took_and_why(
        self, lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        build(lake, tmp_path)
        result = label_model(lake, AUTO)
        detail = result.detail
        assert detail["wanted"] == "auto"
        assert detail["kind"] in ("anchored_and_majority", "majority")
        assert detail["auto"]["by"] == "votes"
        taken = "the mean of anchored and majority" if detail["kind"] != "majority" else "majority"
        reason = f"auto took {taken}: anchored "
        Announcer()(result)
        assert f"  {reason}" in capsys.readouterr().err
        (tmp_path / "siftline.toml").write_text(
            f'[project]\nname = "p"\nclasses = {json.dumps(CLASSES)}\n[[sources]]\nname = "s"\npath = "s.csv"\n',
            "utf-8",
        )
        assert run_command(["lf", "report", "--project", str(tmp_path)]) == 0
        assert f"label model of the estimates: {detail['kind']}: {reason}" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("lead", "error", "told"),
        [
            (0.0014, 0.0003, "(log-likelihood +0.0014 +- 0.0003)"),
            (0.0014, 0.00002, "(log-likelihood +0.0014)"),
            (0.00002, 0.00001, "(log-likelihood apart by less than 0.0001)"),
            (0.0, 0.0, "(log-likelihood apart by less than 0.0001)"),
        ],
    )
    def test_auto_shows_no_figure_that_rounds_to_nothing(self, lead: float, error: float, told: str) -> None:
        figures = {"held_out_lead_over_majority": lead, "standard_error": error, "overruled_frac": 0.0}
        for kind in (MEAN, "majority") if lead == 0 else (MEAN,):
            assert told in in_words(kind, figures)
