"""Calibration: a temperature that is found, changes no answer, and rests on labels that were held out."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from tests.weak_labels.small_lake import build
from warehouse import Lake
from weak_labels.analysis.evaluate import evaluate
from weak_labels.calibration import (
    LEAST_GOLD,
    Floats,
    Ints,
    calibrate,
    calibration_error,
    cooled,
    cross_validated,
    error_by_chance,
    folds,
    temperature,
)
from weak_labels.classifiers.heads import Heads
from weak_labels.classifiers.inputs import Sight
from weak_labels.classifiers.linear import EndModelConfig
from weak_labels.end_model.stage import end_model
from weak_labels.label_models import label_model


def never(learn: Ints, others: Ints) -> Floats:
    raise AssertionError("nothing has to be fitted")


def honest(n: int) -> tuple[Floats, Ints]:
    """Probabilities [N, 3], and classes drawn from them."""
    generator = np.random.default_rng(0)
    probs = generator.dirichlet(np.ones(3), n)
    return probs, np.array([generator.choice(3, p=row) for row in probs])


@pytest.mark.parametrize("by", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_too_much_and_too_little_confidence(by: float) -> None:
    probs, truth = honest(4000)
    said = cooled(probs, 1 / by)
    assert temperature(said, truth) == pytest.approx(by, rel=0.1)
    mended = cooled(said, temperature(said, truth))
    assert calibration_error(mended, truth) < 0.03
    if by != 1.0:
        assert calibration_error(said, truth) > 0.1
    np.testing.assert_array_equal(mended.argmax(axis=1), said.argmax(axis=1))


def test_the_error_is_the_distance_of_confidence_from_accuracy() -> None:
    assert calibration_error(np.eye(3)[[0, 1, 2]], np.array([0, 1, 2])) == 0.0
    assert calibration_error(np.array([[0.9, 0.1]] * 4), np.array([1, 1, 1, 1])) == pytest.approx(0.9)
    two_bins = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    assert calibration_error(two_bins, np.array([0, 0, 0, 1])) == pytest.approx((2 * 0.1 + 2 * 0.1) / 4)


@pytest.mark.parametrize("n", [20, 100, 1000])
@pytest.mark.parametrize("spread", [0.3, 3.0, 30.0])
def test_an_honest_model_is_expected_to_have_an_error_on_few_items(n: int, spread: float) -> None:
    generator = np.random.default_rng(1)
    found, told = list[float](), list[float]()
    for _ in range(200):
        sure = 0.5 + 0.5 * generator.beta(spread, 1, n)
        probs, right = np.stack([sure, 1 - sure], axis=1), generator.random(n) < sure
        found.append(calibration_error(probs, np.where(right, 0, 1)))
        told.append(error_by_chance(probs))
    assert np.mean(told) == pytest.approx(np.mean(found), rel=0.1)


def test_a_model_that_is_sure_of_all_has_no_error_by_chance() -> None:
    assert error_by_chance(np.eye(2)[[0, 1, 1]] * (1 + 1e-7)) == 0.0


def test_labels_are_judged_by_a_model_that_did_not_see_them() -> None:
    probs, truth = honest(200)
    truth[(truth == 2) & (np.arange(200) % 5 > 0)] = 0  # the last class has every fifth label at most
    asked: list[int] = []

    def held_out(learn: Ints, others: Ints) -> Floats:
        assert not set(learn.tolist()) & set(others.tolist())
        assert {int(c) for c in truth[learn]} == {0, 1, 2}
        asked.extend(others.tolist())
        return cooled(probs[others], 0.25)

    found = calibrate(truth, 3, held_out)
    assert sorted(asked) == list(range(200))
    assert found.temperature > 2
    assert found.error_before is not None
    assert found.error_after is not None
    assert found.error_after < found.error_before


def test_no_label_is_judged_at_a_temperature_that_it_chose() -> None:
    # Every fifth label is of an item that the model says with certainty, and only in that fold it is wrong.
    truth = np.zeros(200, np.int64)
    truth[100:] = 1
    probs = np.where(np.eye(2)[truth] == 1, 0.8, 0.2)
    in_fold = np.arange(200) % 5 == 0
    probs[in_fold] = probs[in_fold][:, ::-1]
    found = calibrate(truth, 2, lambda learn, others: probs[others])
    at_its_own = calibration_error(cooled(probs, found.temperature), truth)
    assert at_its_own < 0.01
    assert found.error_after is not None
    assert found.error_after > 0.15


@pytest.mark.parametrize("sparse", [False, True])
def test_a_text_that_was_labelled_four_times_makes_nobody_surer(sparse: bool) -> None:
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(100, 20)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    truth = (vectors[:, 0] + generator.normal(scale=0.3, size=100) > 0).astype(np.int64)
    config = EndModelConfig(classes=("a", "b"), encoder_id="made up", calibrate=True)

    def found(copies: int) -> dict[str, float]:
        seen, labels = np.repeat(vectors, copies, axis=0), np.repeat(truth, copies)
        no = np.zeros(len(labels))
        features = csr_matrix(seen) if sparse else seen
        heads = Heads.fit(config, Sight.plain(20), features, np.arange(len(no)), np.zeros((len(no), 2)), no)
        return heads.learned(np.arange(len(no)), labels).detail["calibration"]

    assert found(1)["temperature"] > 0.3
    assert found(4)["temperature"] > found(1)["temperature"]  # the model is surer of what it saw four times
    assert found(4)["error_after"] < 0.15


def test_copies_are_in_one_fold_and_others_where_they_were() -> None:
    truth = np.arange(40) % 3
    places = np.arange(40)
    np.testing.assert_array_equal(folds(truth, places), folds(truth))
    places[[7, 21, 30]] = 2
    of_copies = folds(truth, places)
    assert len({int(fold) for fold in of_copies[[2, 7, 21, 30]]}) == 1
    assert set(of_copies.tolist()) == set(range(5))
    assert not folds(truth, np.zeros(40, np.int64)).any()
    assert cross_validated(np.arange(80) % 2, 2, never, copy_of=np.arange(80) // 2) is None, "40 texts"


@pytest.mark.parametrize("truth", [np.arange(LEAST_GOLD - 1) % 3, np.ones(200, np.int64)])
def test_too_few_labels_or_one_class_leave_the_model_alone(truth: Ints) -> None:
    assert calibrate(truth, 3, never).temperature == 1.0


def test_the_stage_keeps_every_answer_and_tells_the_error(lake: Lake, tmp_path: Path) -> None:
    small = build(lake, tmp_path)
    label_model(lake, replace(small.label_config, kind="majority"))
    small.answer({item_id: small.truth[item_id] for item_id in small.train_ids()[:LEAST_GOLD]})
    end_model(lake, small.end_config)
    query = "SELECT item_id, class_id, confidence FROM latest_predictions ORDER BY item_id"
    with lake.read() as reader:
        plain = reader.rows(query)
    config = replace(small.end_config, calibrate=True)
    assert end_model(lake, config).committed
    with lake.read() as reader:
        mended = reader.rows(query)
        detail = json.loads(
            reader.scalar("SELECT detail FROM models WHERE stage = 'end_model' ORDER BY sequence DESC LIMIT 1")
        )
    told = detail["calibration"]
    assert told["labels"] == LEAST_GOLD
    assert told["temperature"] != 1.0
    assert 0 <= told["error_after"] <= told["error_before"] + 0.05
    assert [row[:2] for row in mended] == [row[:2] for row in plain]
    assert [row[2] for row in mended] != [row[2] for row in plain]
    assert evaluate(lake, small.evaluate_config(), config).committed
    with lake.read() as reader:
        errors = dict(reader.rows("SELECT series, value FROM metrics WHERE name = 'calibration_error'"))
    assert set(errors) == {"siftline", "end_model", "label_model", "label_model_covered"}
    assert all(0 <= value <= 1 for value in errors.values())
