"""The end model: what it learns from weak and gold labels, and what its stage writes or leaves."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from active.pool.pool import read_pool
from tests.weak_labels.small_lake import CLASSES, ENCODER, SmallLake, build, clouds
from warehouse import DataError, Lake, SettingsError, StageResult
from weak_labels.classifiers.linear import EndModel, EndModelConfig, Ints, Vectors
from weak_labels.end_model.stage import end_model
from weak_labels.end_model.training_data import json_parts
from weak_labels.label_models import label_model


@pytest.fixture
def small(lake: Lake, tmp_path: Path) -> SmallLake:
    small = build(lake, tmp_path)
    label_model(lake, small.label_config)
    return small


def run(small: SmallLake) -> StageResult:
    return end_model(small.lake, small.end_config)


def predictions(small: SmallLake) -> dict[str, tuple[float, ...]]:
    with small.lake.read() as reader:
        ids, probs = reader.matrix("SELECT item_id, probs FROM latest_predictions ORDER BY item_id")
    return {item_id: tuple(row) for item_id, row in zip(ids, probs.tolist(), strict=True)}


def accuracy(model: EndModel, vectors: Vectors, truth: Ints) -> float:
    return float((model.predict_proba(vectors).argmax(axis=1) == truth).mean())


class TestLearning:
    @pytest.mark.parametrize("labels", [[0, 1, -1], [0, 3, 1]])
    def test_a_label_that_is_no_class_is_refused_in_words(self, labels: list[int]) -> None:
        vectors, _ = clouds(3, seed=1)
        with pytest.raises(SettingsError, match=r"Gold labels range from .*; 3 classes have the numbers 0 to 2"):
            EndModel.fit_gold(None, vectors, np.array(labels), 3)

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (
                {"vectors": np.array([[1.0, np.nan], [0, 1], [1, 0]])},
                "Vectors of 1 of 3 items are not finite, .* item 0",
            ),
            ({"vectors": np.eye(3)[0]}, r"Vectors have shape \(3,\); give a row of numbers for each item"),
            ({"vectors": [["oil", "wheat"]] * 3}, "Vectors are no numbers"),
            ({"probs": np.array([[np.inf, 0], [0, 1], [1, 0]])}, "Weak labels of 1 of 3 items are not finite"),
            ({"probs": np.array([0, 1, 1])}, r"weak labels \(3,\)"),
            ({"probs": np.eye(2)}, r"Vectors have shape \(3, 2\), weak labels \(2, 2\) and weights \(3,\)"),
            ({"probs": np.full((3, 2), 4.0)}, "those of an item must be 0 or more and sum to 1"),
            ({"weights": np.array([1.0, np.nan, 1.0])}, "Weights of 1 of 3 items are not finite"),
            ({"weights": np.array([1.0, -1.0, 1.0])}, "least of the weights is -1"),
            ({"weights": 1.0}, r"Weights have shape \(\); give one number for each item"),
        ],
    )
    def test_weak_labels_of_ones_own_are_refused_in_words(self, given: dict[str, Any], message: str) -> None:
        sound: dict[str, Any] = {"vectors": np.eye(3, 2), "probs": np.eye(2)[[0, 1, 1]], "weights": np.ones(3)}
        with pytest.raises(SettingsError, match=message):
            EndModel.fit_weak(**(sound | given))

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"vectors": np.array([[1.0, np.inf], [0, 1], [1, 0]])}, "Vectors of 1 of 3 items are not finite"),
            ({"vectors": np.eye(3)}, "Vectors have 3 numbers each, the model learned from 2"),
            ({"class_ids": [0, 1]}, r"Gold labels have shape \(2,\); give one for each of the 3 vectors"),
            ({"class_ids": ["ham", "spam", "ham"]}, "Gold labels hold 'ham'"),
            ({"classes": ("ham", "spam")}, "The number of classes is"),
            ({"classes": 3}, "has 2 classes, the gold labels 3"),
        ],
    )
    def test_gold_labels_of_ones_own_are_refused_in_words(self, given: dict[str, Any], message: str) -> None:
        weak = EndModel.fit_weak(np.eye(3, 2), np.eye(2)[[0, 1, 1]], np.ones(3))
        assert weak is not None
        sound: dict[str, Any] = {"vectors": np.eye(3, 2), "class_ids": np.array([0, 1, 1]), "classes": 2}
        with pytest.raises(SettingsError, match=message):
            EndModel.fit_gold(weak, **(sound | given))
        if "vectors" in given:
            with pytest.raises(SettingsError, match=message):
                weak.predict_proba(given["vectors"])

    def test_frames_and_lists_teach_as_arrays_do(self) -> None:
        vectors, truth = clouds(60, seed=1)
        probs, weights = np.eye(3)[truth], np.ones(60)
        of_arrays = EndModel.fit_weak(vectors, probs, weights)
        backward = pd.DataFrame(vectors, index=range(60)[::-1])
        of_others = EndModel.fit_weak(backward, probs.tolist(), pd.Series(weights))  # pyright: ignore[reportArgumentType]
        assert of_arrays is not None
        assert of_others is not None
        np.testing.assert_array_equal(of_others.predict_proba(backward), of_arrays.predict_proba(vectors))

    def test_gold_labels_raise_the_accuracy_of_a_biased_weak_model(self) -> None:
        vectors, truth = clouds(400, seed=1)
        others, true_others = clouds(400, seed=2)
        confused = np.eye(3)[truth]
        confused[truth == 2] = [0, 0.6, 0.4]  # the functions take class 2 for class 1, mostly
        weak = EndModel.fit_weak(vectors, confused, np.ones(400))
        assert weak is not None
        gold = EndModel.fit_gold(weak, vectors[:60], truth[:60], 3)
        before, after = (accuracy(model, others, true_others) for model in (weak, gold))
        assert after > before + 0.02

    def test_gold_labels_teach_a_class_that_no_function_knows(self) -> None:
        vectors, truth = clouds(400, seed=1)
        others, true_others = clouds(400, seed=2)
        weak = EndModel.fit_weak(vectors, np.eye(3)[np.where(truth == 2, 1, truth)], np.ones(400))
        assert weak is not None
        assert weak.taught_C.tolist() == [True, True, False]
        gold = EndModel.fit_gold(weak, vectors[:60], truth[:60], 3)
        before, after = (accuracy(model, others, true_others) for model in (weak, gold))
        assert after > before + 0.05

    def test_few_gold_labels_keep_most_of_what_weak_labels_taught(self) -> None:
        vectors, truth = clouds(400, seed=1)
        others, true_others = clouds(400, seed=2)
        weak = EndModel.fit_weak(vectors, np.eye(3)[truth], np.ones(400))
        assert weak is not None
        only_first_class = np.flatnonzero(truth == 0)[:8]
        together = EndModel.fit_gold(weak, vectors[only_first_class], truth[only_first_class], 3)
        alone = EndModel.fit_gold(None, vectors[only_first_class], truth[only_first_class], 3)
        assert accuracy(together, others, true_others) > 0.7
        assert (alone.predict_proba(others).argmax(axis=1) == 0).all()

    @pytest.mark.parametrize("weak_labels", [3, 30])
    def test_few_weak_labels_do_not_hold_back_what_gold_labels_teach(self, weak_labels: int) -> None:
        vectors, truth = clouds(400, seed=1)
        others, true_others = clouds(400, seed=2)
        one_class = np.tile([1.0, 0.0, 0.0], (weak_labels, 1))  # a function that votes for one class, whatever it sees
        weak = EndModel.fit_weak(vectors[-weak_labels:], one_class, np.ones(weak_labels))
        assert weak is not None
        together = EndModel.fit_gold(weak, vectors[:20], truth[:20], 3)
        alone = EndModel.fit_gold(None, vectors[:20], truth[:20], 3)
        scores = [accuracy(model, others, true_others) for model in (together, alone)]
        assert scores[0] > scores[1] - 0.02

    def test_gold_labels_scale_the_intercepts_and_leave_their_ratios(self) -> None:
        vectors, truth = clouds(200, seed=1)
        weak = EndModel.fit_weak(vectors, np.eye(3)[truth], np.ones(200))
        assert weak is not None
        gold = EndModel.fit_gold(weak, vectors[:30], np.full(30, 2), 3)
        scale = gold.intercept_C[0] / weak.intercept_C[0]
        assert 0 < scale < 1  # of thirty answers twenty are others than it expects
        np.testing.assert_allclose(gold.intercept_C, scale * weak.intercept_C)

    def test_answers_that_a_model_expects_make_it_surer_and_others_less_sure(self) -> None:
        vectors, truth = clouds(400, seed=1)
        others, _ = clouds(400, seed=2)
        weak = EndModel.fit_weak(vectors, 0.2 / 3 + 0.8 * np.eye(3)[truth], np.ones(400))
        assert weak is not None
        weak = replace(weak, hold=replace(weak.hold, ridge=1e6))  # the weights cannot move
        sure: list[float] = []
        for labels in (truth[:60], None, (truth[:60] + 1) % 3):
            model = weak if labels is None else EndModel.fit_gold(weak, vectors[:60], labels, 3)
            sure.append(float(model.predict_proba(others).max(axis=1).mean()))
        assert sure[0] > sure[1] + 0.05
        assert sure[2] < sure[1] - 0.05

    def test_functions_that_are_wrong_cost_no_more_than_a_few_gold_labels(self) -> None:
        vectors, truth = clouds(400, seed=1)
        others, true_others = clouds(400, seed=2)
        weak = EndModel.fit_weak(vectors, np.eye(3)[(truth + 1) % 3], np.ones(400))
        assert weak is not None
        assert accuracy(weak, others, true_others) < 0.2
        together = EndModel.fit_gold(weak, vectors[:30], truth[:30], 3)
        alone = EndModel.fit_gold(None, vectors[:20], truth[:20], 3)
        scores = [accuracy(model, others, true_others) for model in (together, alone)]
        assert scores[0] > scores[1] - 0.05

    def test_the_first_gold_labels_move_the_weights_less(self) -> None:
        vectors, truth = clouds(400, seed=1)
        weak = EndModel.fit_weak(vectors, np.eye(3)[(truth + 1) % 3], np.ones(400))
        assert weak is not None
        fixed = replace(weak.hold, scale=0.0, intercepts=0.0)
        steps: list[float] = []
        for count in (4, 200):
            moved: list[float] = []
            for first in (0.0, fixed.first):
                start = replace(weak, hold=replace(fixed, first=first))
                gold = EndModel.fit_gold(start, vectors[:count], truth[:count], 3)
                moved.append(float(np.linalg.norm(gold.weights_DC - weak.weights_DC)))
            steps.append(moved[1] / moved[0])
        assert steps[0] < 0.5
        assert steps[1] > 0.9

    def test_a_weight_of_zero_leaves_a_row_out(self) -> None:
        vectors, truth = clouds(100, seed=1)
        weights = (np.arange(100) < 60).astype(np.float64)
        poisoned = np.eye(3)[truth]
        poisoned[60:] = [0, 0, 1]
        some = EndModel.fit_weak(vectors, poisoned, weights)
        only = EndModel.fit_weak(vectors[:60], np.eye(3)[truth[:60]], np.ones(60))
        assert some is not None
        assert only is not None
        np.testing.assert_array_equal(some.weights_DC, only.weights_DC)

    def test_nothing_to_learn_from_is_uniform(self) -> None:
        vectors, _ = clouds(10, seed=1)
        assert EndModel.fit_weak(vectors, np.zeros((10, 3)), np.zeros(10)) is None
        model = EndModel.fit_gold(None, vectors[:0], np.empty(0, np.int64), 3)
        np.testing.assert_allclose(model.predict_proba(vectors), 1 / 3)

    def test_in_parts_it_predicts_what_it_does_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        vectors, truth = clouds(100, seed=1)
        model = EndModel.fit_gold(None, vectors, truth, 3)
        whole = model.predict_proba(vectors)
        monkeypatch.setattr("weak_labels.classifiers.linear.CHUNK", 7)
        np.testing.assert_allclose(model.predict_proba(vectors[::-1]), whole[::-1], rtol=1e-12)

    def test_gold_labels_of_one_class(self) -> None:
        vectors, _ = clouds(10, seed=1)
        probs = EndModel.fit_gold(None, vectors, np.ones(10, np.int64), 3).predict_proba(vectors)
        assert np.isfinite(probs).all()
        assert (probs.argmax(axis=1) == 1).all()

    def test_equal_data_gives_equal_bits(self) -> None:
        vectors, truth = clouds(300, seed=1)
        first, second = (EndModel.fit_weak(vectors, np.eye(3)[truth], np.ones(300)) for _ in range(2))
        assert first is not None
        assert second is not None
        assert first.weights_DC.tobytes() == second.weights_DC.tobytes()

    @pytest.mark.parametrize(
        ("classes", "encoder_id", "message"), [(("a",), "e", "at least two"), (("a", "b"), "", "encoder_id")]
    )
    def test_wrong_settings_are_named(self, classes: tuple[str, ...], encoder_id: str, message: str) -> None:
        with pytest.raises(SettingsError, match=message):
            EndModelConfig(classes=classes, encoder_id=encoder_id)


class TestStage:
    def test_every_item_with_a_vector_is_predicted(self, small: SmallLake) -> None:
        small.put_items(["test-without-vector"], split="test")
        result = run(small)
        assert result.committed
        found = predictions(small)
        assert sorted(found) == sorted(small.truth)
        with small.lake.read() as reader:
            rows = reader.rows("SELECT probs, class_id, confidence FROM latest_predictions")
        for probs, class_id, confidence in rows:
            assert sum(probs) == pytest.approx(1.0, abs=1e-6)
            assert probs[class_id] == confidence == max(probs)

    def test_models_tell_what_was_learned_from(self, small: SmallLake) -> None:
        run(small)
        small.answer({item_id: small.truth[item_id] for item_id in small.train_ids()[:7]})
        run(small)
        with small.lake.read() as reader:
            models = reader.rows(
                "SELECT kind, gold_labels, sequence, model_id FROM models WHERE stage = 'end_model' ORDER BY sequence"
            )
            used = set(reader.rows("SELECT DISTINCT end_model_id FROM predictions"))
        assert [row[:3] for row in models] == [("logistic_regression", 0, 1), ("logistic_regression", 7, 2)]
        assert used == {(row[3],) for row in models}

    def test_the_hash_of_what_is_learned_from_is_that_of_one_list(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Read whole it took 300 bytes of each item; another hash would have every project learn anew."""
        monkeypatch.setattr("weak_labels.end_model.training_data.CHUNK", 2)
        lists: list[list[Any]] = [["a", "\u00fc", '"'], ["x", "y", "z"], [True, False, True]]
        for count in range(4):
            columns = [pa.chunked_array([of[:1], of[1:count]]) if count else pa.chunked_array([of[:0]]) for of in lists]
            expected = json.dumps([7, *(of[:count] for of in lists)]).encode()
            assert b"".join(json_parts([7], columns)) == expected

    def test_a_second_run_writes_nothing(self, small: SmallLake) -> None:
        first = run(small)
        assert run(small) == StageResult(
            stage="end_model", token=first.token, committed=False, detail=first.detail, seconds=pytest.approx(0, abs=60)
        )

    def test_gold_labels_change_predictions(self, small: SmallLake) -> None:
        run(small)
        before = predictions(small)
        small.answer({item_id: small.truth[item_id] for item_id in small.train_ids()[:7]})
        run(small)
        assert predictions(small) != before

    def test_skipped_tasks_write_nothing(self, small: SmallLake) -> None:
        run(small)
        small.answer(dict.fromkeys(small.train_ids()[:3], -1), action="skipped")
        assert run(small).detail == {"reason": "equal vectors, weak labels and gold labels"}

    def test_a_corrected_or_withdrawn_answer_is_unlearned(self, small: SmallLake) -> None:
        run(small)
        before = predictions(small)
        wrong = {small.train_ids(of_class=0)[0]: 2}
        small.answer(wrong)
        run(small)
        misled = predictions(small)
        small.answer(dict.fromkeys(wrong, 0))
        assert run(small).committed
        assert predictions(small) != misled
        small.answer(dict.fromkeys(wrong, -1), action="deleted")
        assert run(small).committed
        assert predictions(small) == before

    def test_test_and_valid_items_never_train(self, small: SmallLake) -> None:
        run(small)
        before = predictions(small)
        small.put_items(["valid-1"], split="valid")
        small.put_vectors(["valid-1"], clouds(1, seed=5)[0])
        small.answer({small.test_ids()[0]: 2, "valid-1": 1})
        result = run(small)
        assert result.detail["gold_labels"] == 0
        assert result.detail["gold_labels_left_out"] == 2
        after = predictions(small)
        assert after.keys() - before.keys() == {"valid-1"}
        assert {item_id: after[item_id] for item_id in before} == before

    def test_weak_labels_of_test_items_never_train(self, small: SmallLake) -> None:
        run(small)
        before = predictions(small)
        small.put_votes({"lf_0": dict.fromkeys(small.test_ids(), 2)})
        label_model(small.lake, small.label_config)
        assert run(small).committed
        assert predictions(small) == before

    def test_an_item_whose_text_changed_waits_for_its_vector(self, small: SmallLake) -> None:
        small.put_items(small.train_ids()[:1], split="train", texts=["another text"])
        run(small)
        assert small.train_ids()[0] not in predictions(small)

    def test_without_weak_labels_people_are_enough(self, lake: Lake, tmp_path: Path) -> None:
        small = build(lake, tmp_path)
        small.answer({item_id: small.truth[item_id] for item_id in small.train_ids()[:60]})
        result = run(small)
        assert result.detail["weak_labels"] == 0
        right = [
            small.truth[i] == int(np.argmax(probs)) for i, probs in predictions(small).items() if i.startswith("test")
        ]
        assert np.mean(right) > 0.7

    def test_what_has_learned_from_nothing_suggests_nothing(self, lake: Lake, tmp_path: Path) -> None:
        small = build(lake, tmp_path, train=30, test=10)
        for number in range(5):
            small.delete_votes(f"lf_{number}")
        label_model(lake, small.label_config)
        nothing = {"reason": "neither votes for two classes nor two different labels to learn from yet"}
        assert end_model(lake, small.end_config).detail == nothing
        with lake.read() as reader:
            assert not reader.scalar("SELECT count(*) FROM predictions")
            assert not read_pool(reader, small.train_ids()).has_prediction.any()
        small.answer({item: small.truth[item] for item in small.train_ids()[:9]})
        assert end_model(lake, small.end_config).rows_written["predictions"] == 40

    def test_weak_labels_of_one_class_teach_nothing(self, lake: Lake, tmp_path: Path) -> None:
        small = build(lake, tmp_path, train=30, test=10)
        for number in range(5):
            small.delete_votes(f"lf_{number}")
        small.answer(answers := {item: small.truth[item] for item in small.train_ids()[:9]})
        run(small)
        alone = predictions(small)
        small.put_votes({"lf_0": dict.fromkeys(small.train_ids()[9:20], 1), "lf_1": {small.test_ids()[0]: 2}})
        label_model(lake, small.label_config)
        run(small)
        assert predictions(small) == alone
        small.answer(dict.fromkeys(answers, -1), action="deleted")
        run(small)
        assert not predictions(small)

    @pytest.mark.parametrize(("found", "rest"), [(0, 2), (2, 0)])
    def test_a_function_for_one_class_teaches_beside_one_for_all_else(
        self, lake: Lake, tmp_path: Path, found: int, rest: int
    ) -> None:
        small = build(lake, tmp_path, train=30, test=10)
        for number in range(5):
            small.delete_votes(f"lf_{number}")
        of_all = dict.fromkeys(small.train_ids(), rest)
        small.put_votes({"lf_0": dict.fromkeys(small.train_ids()[:4], found), "lf_1": of_all})
        label_model(lake, small.label_config)
        assert run(small).detail["weak_labels"] == 30, "a tie is of both classes, in whatever order they stand"
        with lake.read() as reader:
            assert read_pool(reader, small.train_ids()).weakly_taught
        told = predictions(small)
        hit, others = ([told[item][found] for item in some] for some in (small.train_ids()[:4], small.train_ids()[4:]))
        assert np.mean(hit) > np.mean(others)

    def test_functions_that_are_tied_on_every_item_teach_nothing(self, lake: Lake, tmp_path: Path) -> None:
        small = build(lake, tmp_path, train=30, test=10)
        for number in range(5):
            small.delete_votes(f"lf_{number}")
        small.put_votes({"lf_0": dict.fromkeys(small.train_ids(), 0), "lf_1": dict.fromkeys(small.train_ids(), 2)})
        label_model(lake, small.label_config)
        assert not run(small).rows_written
        with lake.read() as reader:
            assert not read_pool(reader, small.train_ids()).weakly_taught

    def test_people_s_labels_of_one_class_teach_nothing(self, lake: Lake, tmp_path: Path) -> None:
        small = build(lake, tmp_path, train=30, test=10)
        for number in range(5):
            small.delete_votes(f"lf_{number}")
        first, second = (small.train_ids(of_class=class_id) for class_id in (0, 1))
        small.answer(dict.fromkeys(first, 0))
        assert not run(small).committed
        small.answer({second[0]: 1})
        assert run(small).rows_written["predictions"] == 40
        small.answer({second[0]: -1}, action="deleted")
        assert run(small).committed
        assert not predictions(small)

    def test_what_has_nothing_to_learn_from_any_more_says_nothing(self, small: SmallLake) -> None:
        run(small)
        assert predictions(small)
        for number in range(5):
            small.delete_votes(f"lf_{number}")
        label_model(small.lake, small.label_config)
        assert run(small).committed
        assert not predictions(small)
        assert not run(small).committed

    def test_no_vectors_is_nothing_to_do(self, lake: Lake, tmp_path: Path) -> None:
        small = SmallLake(lake, tmp_path)
        small.put_items(["train-1"], split="train")
        assert run(small).detail == {"reason": "no item has a vector"}

    def test_a_gold_label_outside_the_classes_is_refused(self, small: SmallLake) -> None:
        small.answer({small.train_ids()[0]: 9})
        with pytest.raises(DataError, match=r"train-000.*class 9.*0 to 2"):
            run(small)

    def test_weak_labels_of_other_classes_are_refused(self, small: SmallLake) -> None:
        config = EndModelConfig(classes=(*CLASSES, "trade"), encoder_id=ENCODER)
        with pytest.raises(DataError, match="3 classes, the settings name 4"):
            end_model(small.lake, config)

    def test_a_vector_that_is_not_finite_is_refused(self, small: SmallLake) -> None:
        small.put_vectors(["train-003"], np.full((1, 8), np.nan))
        with pytest.raises(DataError, match="train-003"):
            run(small)

    def test_the_detail_in_models_names_the_label_model(self, small: SmallLake) -> None:
        run(small)
        with small.lake.read() as reader:
            detail = json.loads(reader.scalar("SELECT detail FROM models WHERE stage = 'end_model'"))
            label_model_id = reader.scalar("SELECT model_id FROM models WHERE stage = 'label_model'")
        assert detail["label_model_id"] == label_model_id
