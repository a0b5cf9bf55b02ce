"""The label model stage: what it reads, what it writes, and when it leaves everything as it is."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from tests.weak_labels.small_lake import CLASSES, SmallLake, build, noisy_votes
from warehouse import Lake, SettingsError
from weak_labels.label_models import KINDS, LabelModelConfig, VoteMatrix, fit, fit_multi_label, label_model
from weak_labels.label_models.fit import UNANCHORED_KINDS


@pytest.fixture
def small(lake: Lake, tmp_path: Path) -> SmallLake:
    return build(lake, tmp_path)


def test_every_item_gets_probabilities_that_sum_to_one(small: SmallLake) -> None:
    result = label_model(small.lake, small.label_config)
    assert result.committed
    assert result.detail["kind"] == "snorkel"
    with small.lake.read() as reader:
        ids, probs = reader.matrix("SELECT item_id, probs FROM latest_weak_labels ORDER BY item_id")
        assert reader.scalar("SELECT kind FROM models") == "snorkel"
    assert ids == sorted(small.truth)
    np.testing.assert_allclose(probs.sum(axis=1), 1.0, atol=1e-6)


def test_weak_labels_are_mostly_right(small: SmallLake) -> None:
    label_model(small.lake, small.label_config)
    with small.lake.read() as reader:
        ids, probs = reader.matrix("SELECT item_id, probs FROM latest_weak_labels WHERE votes > 0")
    right = [small.truth[item_id] == guess for item_id, guess in zip(ids, probs.argmax(axis=1), strict=True)]
    assert np.mean(right) > 0.8


def test_an_item_without_votes_gets_the_class_prior(small: SmallLake) -> None:
    small.put_items(["train-zzz"], split="train")
    label_model(small.lake, small.label_config)
    with small.lake.read() as reader:
        probs, votes = reader.rows("SELECT probs, votes FROM weak_labels WHERE item_id = 'train-zzz'")[0]
        detail = json.loads(reader.scalar("SELECT detail FROM models"))
    assert votes == 0
    np.testing.assert_allclose(probs, [detail["class_prior"][name] for name in CLASSES], atol=1e-4)


def test_a_second_run_writes_nothing(small: SmallLake) -> None:
    first = label_model(small.lake, small.label_config)
    second = label_model(small.lake, small.label_config)
    assert not second.committed
    assert second.token == first.token
    assert second.detail == first.detail


def test_gold_labels_do_not_refit(small: SmallLake) -> None:
    label_model(small.lake, small.label_config)
    small.answer({item_id: small.truth[item_id] for item_id in small.train_ids()[:5]})
    assert not label_model(small.lake, small.label_config).committed


def test_votes_written_again_unchanged_do_not_refit(small: SmallLake) -> None:
    label_model(small.lake, small.label_config)
    small.put_votes(noisy_votes(small.truth, functions=5, seed=3))
    result = label_model(small.lake, small.label_config)
    assert not result.committed
    assert result.detail == {"reason": "equal votes on equal items"}


def test_a_changed_label_model_is_fitted_anew_on_equal_votes(small: SmallLake, monkeypatch: pytest.MonkeyPatch) -> None:
    label_model(small.lake, small.label_config)
    monkeypatch.setattr("weak_labels.label_models.stage.VERSION", 99)
    assert label_model(small.lake, small.label_config).committed
    assert not label_model(small.lake, small.label_config).committed


def test_new_votes_make_the_next_model(small: SmallLake) -> None:
    label_model(small.lake, small.label_config)
    small.put_votes({"lf_new": {item_id: 1 for item_id in small.train_ids(of_class=1)}})
    assert label_model(small.lake, small.label_config).committed
    with small.lake.read() as reader:
        assert reader.rows("SELECT sequence FROM models ORDER BY sequence") == [(1,), (2,)]
        assert reader.scalar("SELECT count(*) FROM latest_weak_labels") == len(small.truth)


def test_test_items_are_never_learned_from(small: SmallLake) -> None:
    label_model(small.lake, small.label_config)
    with small.lake.read() as reader:
        before = reader.rows("SELECT probs FROM latest_weak_labels WHERE item_id LIKE 'train%' ORDER BY item_id")
    small.put_votes({"lf_0": dict.fromkeys(small.test_ids(), 2)})
    assert label_model(small.lake, small.label_config).committed
    with small.lake.read() as reader:
        after = reader.rows("SELECT probs FROM latest_weak_labels WHERE item_id LIKE 'train%' ORDER BY item_id")
    assert after == before


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_functions_changes_nothing(kind: str) -> None:
    votes = np.random.default_rng(0).integers(-1, 3, (200, 6))
    config = LabelModelConfig(kind=kind, classes=CLASSES)
    straight = fit(votes, config)
    permuted = fit(votes[:, [3, 0, 5, 1, 4, 2]], config)
    np.testing.assert_array_equal(straight.probs, permuted.probs)


@pytest.mark.parametrize("kind", KINDS)
def test_functions_alike_on_train_items_that_contradict_each_other_on_others_say_nothing_there(kind: str) -> None:
    votes = np.random.default_rng(0).integers(-1, 3, (200, 5))
    train = np.arange(200) < 150
    votes[:150, 1] = votes[:150, 0]
    votes[150:, :2], votes[150:, 2:] = [[0, 1]], -1
    votes[190:, 1] = -1
    config = LabelModelConfig(kind=kind, classes=CLASSES)
    straight, turned = fit(votes, config, train), fit(votes[:, [1, 0, 2, 3, 4]], config, train)
    np.testing.assert_array_equal(straight.probs, turned.probs)
    np.testing.assert_array_equal(straight.probs[150:190], np.tile(straight.prior, (40, 1)))
    assert straight.probs[190, 0] > straight.prior[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_copied_function_counts_once(kind: str) -> None:
    votes = np.random.default_rng(0).integers(-1, 3, (200, 4))
    config = LabelModelConfig(kind=kind, classes=CLASSES)
    once = fit(votes, config)
    copied = fit(votes[:, [0, 0, 0, 1, 2, 3]], config)
    np.testing.assert_array_equal(once.probs, copied.probs)
    assert once.detail["functions"] == 4
    assert copied.detail["functions"] == 6


@pytest.mark.parametrize("kind", KINDS)
def test_a_function_that_votes_on_test_items_alone_changes_no_other_item(kind: str) -> None:
    votes = np.random.default_rng(0).integers(-1, 3, (300, 6))
    train, gold = np.arange(300) < 200, np.arange(300) % 3
    votes[280:290, :4] = votes[:280, 4:] = -1
    config = LabelModelConfig(kind=kind, classes=CLASSES)
    without, more = (fit(part, config, train, gold) for part in (votes[:, :4], votes))
    np.testing.assert_array_equal(more.probs[:280], without.probs[:280])
    if kind in UNANCHORED_KINDS:  # on others its votes say nothing, as it learned nothing about them
        np.testing.assert_array_equal(more.probs, without.probs)
    assert (more.votes[280:] > without.votes[280:]).any()


def test_soft_majority_is_the_share_of_votes() -> None:
    votes = np.array([[0, 0, 1], [2, -1, -1], [-1, 1, 0]])
    fitted = fit(votes, LabelModelConfig(kind="majority", classes=CLASSES))
    np.testing.assert_allclose(fitted.probs, [[2 / 3, 1 / 3, 0], [0, 0, 1], [0.5, 0.5, 0]])
    assert fitted.votes.tolist() == [3, 1, 2]


def test_the_posterior_is_snorkels_own() -> None:
    from snorkel.labeling.model import LabelModel

    votes = np.unique(np.random.default_rng(0).integers(-1, 3, (300, 5)), axis=1)
    theirs = LabelModel(cardinality=3, verbose=False)
    theirs.fit(votes, n_epochs=100, seed=0, progress_bar=False)
    ours = fit(votes, LabelModelConfig(kind="snorkel", classes=CLASSES))
    voted = ours.votes > 0
    np.testing.assert_allclose(ours.probs[voted], theirs.predict_proba(votes)[voted], rtol=1e-5)


def test_snorkel_in_several_threads_gives_equal_bits() -> None:
    votes = np.random.default_rng(3).integers(-1, 3, (60, 5))

    def probs(_: int) -> bytes:
        return fit(votes, LabelModelConfig(kind="snorkel", classes=CLASSES)).probs.tobytes()

    with ThreadPoolExecutor(3) as threads:
        assert len({probs(0), *threads.map(probs, range(6))}) == 1


VOTES = np.array([[0, 0, -1], [1, -1, 1], [-1, -1, -1]])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"votes": [0, 1, -1]}, r"shape \(3,\); give a row for each item"),
        ({"votes": []}, "a row for each item"),
        ({"votes": VOTES + 0.5}, "Votes hold 0.5, which is no whole number"),
        ({"votes": np.where(VOTES < 0, np.nan, VOTES)}, "Votes hold nan"),
        ({"votes": VOTES > 0}, "Votes hold False"),
        ({"votes": VOTES.astype(str)}, "Votes hold '0'"),
        ({"votes": [[None, 0], [1, 1]]}, "Votes hold None"),
        ({"votes": VOTES - 1}, "range from -2 to 0"),
        ({"votes": VoteMatrix.from_dense(VOTES, 3)}, "for 3 classes, but the label model has 2"),
        ({"gold": np.array([0])}, r"Gold labels have shape \(1,\); give one for each of the 3 items"),
        ({"gold": np.array([[0], [1], [-1]])}, r"shape \(3, 1\)"),
        ({"gold": np.array([0.0, np.nan, -1.0])}, "Gold labels hold nan"),
        ({"gold": [0.5, 1, -1]}, "Gold labels hold 0.5"),
        ({"gold": [0, 2, -1]}, "from -1 to 2; there are 2 classes"),
        ({"train": np.array([1, 0, 1])}, "The train rows are int64"),
        ({"train": [True]}, r"shape \(1,\); give one truth value for each of the 3 items"),
        ({"names": ["a"]}, "1 names for 3 functions"),
        ({"names": ["a", "b", "a"]}, "Two functions are named 'a'"),
        ({"votes": [[0, 1], [0]]}, "Votes are no array: their rows have unequal lengths"),
        ({"votes": csr_matrix(VOTES)}, r"a sparse matrix.*VoteMatrix\.from_triples"),
        ({"votes": np.ma.masked_equal(VOTES, -1)}, r"masked in part.*votes\.filled\(-1\)"),
        ({"config": ("ham", "spam")}, r"config is \('ham', 'spam'\); give LabelModelConfig\(classes="),
        ({"start": "abc"}, "start must be a dict, such as `learned` of an earlier fit, not 'abc'"),
    ],
)
def test_votes_of_ones_own_are_refused_in_words(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        fit(given.pop("votes", VOTES), given.pop("config", LabelModelConfig(classes=("ham", "spam"))), **given)


@pytest.mark.parametrize(
    ("row_V", "function_V", "class_V", "message"),
    [
        ([0, 9], [0, 0], [0, 1], "the items 0 to 9, but 3 items are numbered 0 to 2"),
        ([0, -1], [0, 0], [0, 1], "the items -1 to 0"),
        ([0, 1], [0, 7], [0, 1], "the functions 0 to 7, but 2 functions"),
        ([0, 1, 2], [0, 1], [0, 1], "three lists of one length"),
        ([0], [0], [0.5], "hold 0.5"),
    ],
)
def test_votes_given_one_by_one_are_of_items_and_functions_there_are(
    row_V: list[int], function_V: list[int], class_V: list[float], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        VoteMatrix.from_triples(row_V, function_V, class_V, items=3, functions=2, classes=2)


def test_a_vote_given_twice_counts_once() -> None:
    once = VoteMatrix.from_triples([0, 0, 1], [0, 1, 1], [0, 1, 0], items=2, functions=2, classes=2)
    twice = VoteMatrix.from_triples([0, 1, 0, 0, 1], [0, 1, 1, 0, 1], [0, 0, 1, 0, 0], items=2, functions=2, classes=2)
    assert twice.cast_N.tolist() == once.cast_N.tolist() == [2, 1]
    assert twice.counts().tolist() == once.counts().tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_a_function_that_votes_for_two_classes_on_one_item_is_no_function_of_a_model_of_one_class(kind: str) -> None:
    votes = VoteMatrix.from_triples([0, 0, 1, 1], [0, 1, 1, 1], [0, 1, 0, 1], items=2, functions=2, classes=2)
    with pytest.raises(SettingsError, match=r"function b votes for several classes on item 1 .*use fit_multi_label"):
        fit(votes, LabelModelConfig(kind=kind, classes=("ham", "spam")), names=["a", "b"])
    assert (fit_multi_label(votes)[1] > 0.5).all()


def test_settings_for_several_classes_are_none_of_a_model_of_one_class() -> None:
    config = LabelModelConfig(kind="anchored", classes=("ham", "spam"), multi_label=True)
    with pytest.raises(SettingsError, match=r"use fit_multi_label"):
        fit(VOTES, config)


@pytest.mark.parametrize("names", [np.array([7, 8, 9]), pd.Series(["7", "8", "9"], index=[1, 2, 3])])
def test_what_was_learned_is_json_whatever_the_names_are_in(names: Any) -> None:
    config = LabelModelConfig(kind="anchored", classes=("ham", "spam"))
    learned = json.loads(json.dumps(fit(VOTES, config, names=names).learned))
    assert set(learned["precision"]) == {"7", "8", "9"}
    assert np.isfinite(fit(VOTES, config, names=names, start=learned).probs).all()
    assert np.isfinite(fit(VOTES, config, names=names, start={**learned, "prior": [float("nan"), 0.5]}).probs).all()


def test_several_classes_need_a_vote_matrix_which_knows_how_many_there_are() -> None:
    votes: Any = VOTES
    with pytest.raises(SettingsError, match=r"Votes are ndarray; make a VoteMatrix of them"):
        fit_multi_label(votes)


@pytest.mark.parametrize("form", [np.int8, np.float32, object, pd.DataFrame, np.ndarray.tolist])
def test_votes_of_ones_own_may_have_any_form_that_holds_them(form: Any) -> None:
    given = VOTES.astype(form) if isinstance(form, type) and form is not pd.DataFrame else form(VOTES)
    config = LabelModelConfig(classes=("ham", "spam"))
    wanted = fit(VOTES, config, np.array([True, False, True]), np.array([0, -1, -1]))
    np.testing.assert_array_equal(fit(given, config, [True, False, True], [0, -1, -1]).probs, wanted.probs)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("gold", "message"),
    [
        ([[1.0, float("nan")]] * 3, "hold nan"),
        ([[1, 0]], r"shape \(1, 2\)"),
        ([[2, 0]] * 3, r"values \[0, 2\]"),
        ([0, 1, -1], r"must have shape \(3, 2\)"),
        ([[0], [], [0, 1]], "Gold labels are no array: their rows have unequal lengths"),
        ([["ham", "spam"]] * 3, "Gold labels hold 'ham'"),
    ],
)
def test_gold_of_several_classes_is_refused_in_words(gold: Any, message: str) -> None:
    votes = VoteMatrix.from_dense(VOTES, 2)
    with pytest.raises(SettingsError, match=message):
        fit_multi_label(votes, gold=gold)
    has = np.array([[True, False]] * 3)
    np.testing.assert_array_equal(fit_multi_label(votes, gold=has), fit_multi_label(votes, gold=has.astype(np.int64)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "oracle"}, "'oracle'.*auto, anchored, snorkel"),
        ({"classes": ("earn",)}, "at least two"),
        ({"classes": ("earn", "earn")}, "each once"),
        ({"epochs": 0}, "epochs of the label model is 0"),
        ({"seed": -1}, "seed of the label model is -1"),
        ({"seed": 2**32}, "seed of the label model is 4294967296; use 0 to 4294967295"),
    ],
)
def test_wrong_settings_are_named(change: dict[str, object], message: str) -> None:
    settings: dict[str, object] = {"classes": CLASSES, **change}
    with pytest.raises(SettingsError, match=message):
        LabelModelConfig(**settings)  # pyright: ignore[reportArgumentType]


def test_who_wants_no_functions_is_told_of_no_model_that_needs_some() -> None:
    for functions, told in ((0, False), (2, True)):
        votes = VoteMatrix.from_dense(np.zeros((5, functions), np.int64), len(CLASSES))
        fitted = fit(votes, LabelModelConfig(kind="auto", classes=CLASSES))
        assert (fitted.kind, "reason" in fitted.detail) == ("majority", told)
