"""Votes from which a label model cannot learn, and a Snorkel that touches what is not its own: results stay defined."""

import random
from importlib import import_module
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.weak_labels.small_lake import CLASSES, build
from warehouse import Lake, SettingsError
from weak_labels.label_models import KINDS, LabelModelConfig, LabelModelFit, fit, label_model

SNORKEL = LabelModelConfig(kind="snorkel", classes=CLASSES)
Votes = npt.NDArray[np.int64]


def is_sound(fitted: LabelModelFit) -> None:
    assert np.isfinite(fitted.probs).all()
    assert (fitted.probs >= 0).all()
    np.testing.assert_allclose(fitted.probs.sum(axis=1), 1.0)


def votes_of(functions: int, n: int = 90) -> Votes:
    return np.random.default_rng(0).integers(-1, 3, (n, functions))


def of_kind(kind: str) -> LabelModelConfig:
    return LabelModelConfig(kind=kind, classes=CLASSES)


@pytest.mark.parametrize("kind", KINDS)
class TestEveryKind:
    @pytest.mark.parametrize("functions", [0, 1, 2, 3])
    def test_any_number_of_functions(self, kind: str, functions: int) -> None:
        is_sound(fit(votes_of(functions), of_kind(kind)))

    def test_all_abstaining_gives_the_uniform_prior(self, kind: str) -> None:
        fitted = fit(np.full((10, 4), -1), of_kind(kind))
        is_sound(fitted)
        np.testing.assert_allclose(fitted.probs, 1 / 3)
        assert fitted.votes.tolist() == [0] * 10

    def test_a_single_class(self, kind: str) -> None:
        votes = np.where(np.random.default_rng(0).random((80, 4)) < 0.5, 1, -1)
        fitted = fit(votes, of_kind(kind))
        is_sound(fitted)
        # Dawid and Skene's model is free to take silence for another class.
        assert kind == "dawid_skene" or (fitted.probs[fitted.votes > 0].argmax(axis=1) == 1).all()

    def test_full_conflict(self, kind: str) -> None:
        is_sound(fit(np.tile([0, 1, 2], (50, 1)), of_kind(kind)))

    def test_no_items_and_no_train_items(self, kind: str) -> None:
        assert fit(np.empty((0, 4), np.int64), of_kind(kind)).probs.shape == (0, 3)
        is_sound(fit(votes_of(4), of_kind(kind), np.zeros(90, np.bool_)))

    def test_gold_that_contradicts_every_vote(self, kind: str) -> None:
        votes = votes_of(4)
        gold = (np.maximum(votes.max(axis=1), 0) + 1) % 3
        is_sound(fit(votes, of_kind(kind), gold=gold))

    def test_the_ties_are_named(self, kind: str) -> None:
        assert "equally probable" in fit(votes_of(4), of_kind(kind)).detail["ties"]


@pytest.mark.parametrize("kind", ["auto", "anchored", "dawid_skene"])
def test_a_thousand_functions(kind: str) -> None:
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 3, 300)
    votes = np.where(generator.random((300, 1000)) < 0.5, truth[:, None], generator.integers(0, 3, (300, 1000)))
    votes[generator.random((300, 1000)) < 0.95] = -1
    fitted = fit(votes, of_kind(kind))
    is_sound(fitted)
    assert (fitted.probs.argmax(axis=1) == truth).mean() > 0.95


def test_gold_labels_out_of_range_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"-1 to 3.*3 classes"):
        fit(votes_of(3), of_kind("anchored"), gold=np.array([3] + [-1] * 89))


@pytest.mark.parametrize("functions", [0, 1, 2])
def test_fewer_than_three_functions_fall_back_to_the_majority(functions: int) -> None:
    fitted = fit(votes_of(functions), SNORKEL)
    is_sound(fitted)
    assert fitted.kind == "majority"
    assert f"there are {functions}" in fitted.detail["reason"]


def test_functions_that_never_vote_on_train_items_do_not_count() -> None:
    votes = votes_of(4)
    train = np.arange(len(votes)) < 60
    votes[:60, :2] = -1
    fitted = fit(votes, SNORKEL, train)
    is_sound(fitted)
    assert fitted.kind == "majority"
    assert "there are 2" in fitted.detail["reason"]


def test_three_copies_of_one_function_are_one_function() -> None:
    fitted = fit(np.repeat(votes_of(1), 3, axis=1), SNORKEL)
    is_sound(fitted)
    assert fitted.kind == "majority"


@pytest.mark.parametrize("kind", KINDS)
def test_functions_that_are_alike_on_train_rows_are_one_whatever_they_say_elsewhere(kind: str) -> None:
    truth = np.random.default_rng(1).integers(0, 3, 90)
    votes = np.where(np.random.default_rng(0).random((90, 4)) < 0.8, truth[:, None], votes_of(4))
    votes = np.hstack([votes, votes[:, :1]])
    train = np.arange(90) < 60
    alike = fit(votes, of_kind(kind), train)
    votes[70:75, 4] = (votes[70:75, 4] + 1) % 3
    votes[80] = [-1, -1, -1, -1, 2]
    differ = fit(votes, of_kind(kind), train)
    np.testing.assert_array_equal(differ.probs[train], alike.probs[train])
    assert differ.probs[80].argmax() == 2, "a vote where the other one is silent is not lost"


def test_items_that_are_not_learned_from_do_not_decide_which_ones_snorkel_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("weak_labels.label_models.fit"), "MOST_DENSE", 60 * 4 * 4)
    votes = votes_of(4)
    train = np.arange(len(votes)) < 60
    alone = fit(votes[:60], of_kind("snorkel"))
    np.testing.assert_array_equal(fit(votes, of_kind("snorkel"), train).probs[:60], alone.probs)


def test_full_conflict_is_undecided() -> None:
    votes = np.tile([0, 1, 2], (50, 1))
    fitted = fit(votes, LabelModelConfig(kind="majority", classes=CLASSES))
    np.testing.assert_allclose(fitted.probs, 1 / 3)
    is_sound(fit(votes, SNORKEL))


def test_hundreds_of_votes_on_one_item_do_not_underflow() -> None:
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 3, 60)
    wrong = generator.random((60, 400)) < 0.4
    votes = np.where(wrong, generator.integers(0, 3, (60, 400)), truth[:, None])
    fitted = fit(votes, LabelModelConfig(kind="snorkel", classes=CLASSES, epochs=3))
    is_sound(fitted)
    assert fitted.kind == "snorkel"


@pytest.mark.parametrize("vote", [-2, 3])
def test_a_vote_out_of_range_is_refused(vote: int) -> None:
    votes = votes_of(3)
    votes[5, 1] = vote
    with pytest.raises(SettingsError, match="3 classes allow -1"):
        fit(votes, SNORKEL)


def test_a_loss_of_nan_falls_back_to_the_majority(monkeypatch: pytest.MonkeyPatch) -> None:
    # A double, because no votes are known that make Snorkel diverge at its default learning rate.
    from snorkel.labeling.model import LabelModel

    def diverges(*_: object, **__: object) -> None:
        raise Exception("Loss is NaN. Consider reducing learning rate.")

    monkeypatch.setattr(LabelModel, "fit", diverges)
    fitted = fit(votes_of(4), SNORKEL)
    is_sound(fitted)
    assert fitted.kind == "majority"
    assert "NaN" in fitted.detail["reason"]


def test_other_errors_of_snorkel_are_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    from snorkel.labeling.model import LabelModel

    def breaks(*_: object, **__: object) -> None:
        raise ValueError("something else")

    monkeypatch.setattr(LabelModel, "fit", breaks)
    with pytest.raises(ValueError, match="something else"):
        fit(votes_of(4), SNORKEL)


def test_snorkel_leaves_the_global_generators_alone() -> None:
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 - the global generator is what this test is about
    torch.manual_seed(1)
    expected = (random.random(), float(np.random.random()), float(torch.rand(1)))  # noqa: NPY002
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    fit(votes_of(4), SNORKEL)
    assert (random.random(), float(np.random.random()), float(torch.rand(1))) == expected  # noqa: NPY002


def test_snorkel_prints_and_logs_nothing(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    fit(votes_of(4), SNORKEL)
    assert capfd.readouterr() == ("", "")
    assert caplog.text == ""


def test_the_stage_says_why_it_fell_back(lake: Lake, tmp_path: Path) -> None:
    small = build(lake, tmp_path)
    for name in ("lf_0", "lf_1", "lf_2"):
        small.delete_votes(name)
    result = label_model(small.lake, small.label_config)
    assert "there are 2" in result.detail["reason"]
    with small.lake.read() as reader:
        kind, detail = reader.rows("SELECT kind, detail FROM models")[0]
    assert kind == "majority"
    assert "there are 2" in detail


def test_a_missing_vote_is_an_abstain(lake: Lake, tmp_path: Path) -> None:
    small = build(lake, tmp_path)
    small.put_items(["train-faulty"], split="train")
    small.put_votes({"lf_0": {"train-faulty": 2}})  # the other functions raised on it
    label_model(small.lake, small.label_config)
    with small.lake.read() as reader:
        probs, votes = reader.rows("SELECT probs, votes FROM latest_weak_labels WHERE item_id = 'train-faulty'")[0]
    assert votes == 1
    assert int(np.argmax(probs)) == 2
