"""Scoring: figures that can be checked by hand, rivals measured once, and a gold file that touches nothing else."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import f1_score

from tests.weak_labels.small_lake import CLASSES, SmallLake, build, prepared
from warehouse import DataError, Lake, SettingsError, StageResult, Upsert
from weak_labels.analysis.evaluate import EvaluateConfig, evaluate, evaluate_rivals
from weak_labels.analysis.learning_curve import MOST_SIZES, curve_sizes
from weak_labels.analysis.scores import score_classes
from weak_labels.classifiers.heads import Heads, Learned
from weak_labels.classifiers.linear import EndModel, EndModelConfig, Floats, Ints
from weak_labels.end_model.stage import end_model
from weak_labels.label_models import label_model

CONTENT = ("items", "vectors", "lf_votes", "weak_labels", "predictions", "models", "annotations", "queue")
LABEL_MODEL = ("label_model", "label_model_covered")


def learned(small: SmallLake) -> None:
    label_model(small.lake, small.label_config)
    end_model(small.lake, small.end_config)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[SmallLake]:
    with prepared(learned, tmp_path) as small:
        yield small


def run(small: SmallLake) -> StageResult:
    return evaluate(small.lake, small.evaluate_config(), small.end_config)


def run_rivals(small: SmallLake, *, rival_seeds: int = 2) -> StageResult:
    return evaluate_rivals(small.lake, small.evaluate_config(rival_seeds=rival_seeds), small.end_config)


def two_cycles(small: SmallLake) -> None:
    for cycle, part in ((1, slice(0, 6)), (2, slice(6, 12))):
        small.answer({item_id: small.truth[item_id] for item_id in small.train_ids()[part]}, cycle=cycle)
        end_model(small.lake, small.end_config)
        run(small)


def without_votes(small: SmallLake) -> None:
    with small.lake.read() as reader:
        names = [name for (name,) in reader.rows("SELECT DISTINCT lf_name FROM lf_votes")]
    for name in names:
        small.delete_votes(name)
    label_model(small.lake, small.label_config)


def value_of(small: SmallLake, metric_id: str) -> float:
    with small.lake.read() as reader:
        return reader.scalar("SELECT value FROM metrics WHERE metric_id = ?", [metric_id])


def keys(small: SmallLake) -> set[tuple[str, int]]:
    with small.lake.read() as reader:
        found = reader.rows("SELECT DISTINCT series, labels FROM metrics WHERE series <> 'end_model'")
    return {(series, labels) for series, labels in found}


class TestScore:
    def test_by_hand(self) -> None:
        probs = np.array([[0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.2, 0.7, 0.1], [0.0, 0.9, 0.1]])
        [accuracy, macro_f1, error] = score_classes(np.array([0, 0, 1, 1]), probs)
        assert accuracy == ("accuracy", 0.75, {"confusion": [[1, 1, 0], [0, 2, 0], [0, 0, 0]]})
        variances = (0.6 * 0.4, 0.8 * 0.2, 0.7 * 0.3, 0.9 * 0.1)  # each is alone in its bin
        by_chance = sum(min((2 * of / np.pi) ** 0.5, 2 * of) for of in variances) / 4
        assert macro_f1 == ("macro_f1", pytest.approx((2 / 3 + 4 / 5) / 2), {})
        assert error == (
            "calibration_error",
            pytest.approx((0.4 + 0.8 + 0.3 + 0.1) / 4),
            {"by_chance": pytest.approx(by_chance, abs=1e-4)},
        )

    def test_macro_f1_is_sklearns(self) -> None:
        generator = np.random.default_rng(0)
        true, probs = generator.integers(0, 4, 100), generator.dirichlet(np.ones(4), 100)
        figures = {name: value for name, value, _ in score_classes(true, probs)}
        assert figures["macro_f1"] == pytest.approx(f1_score(true, probs.argmax(axis=1), average="macro"))


class TestEvaluate:
    def test_the_end_model_is_scored_on_test_items_only(self, small: SmallLake) -> None:
        assert run(small).committed
        with small.lake.read() as reader:
            rows = reader.rows("SELECT item_id, class_id FROM latest_predictions WHERE item_id LIKE 'test%'")
            detail = json.loads(
                reader.scalar("SELECT detail FROM metrics WHERE metric_id = 'siftline/accuracy/test/0/0'")
            )
        expected = np.mean([small.truth[item_id] == class_id for item_id, class_id in rows])
        assert value_of(small, "siftline/accuracy/test/0/0") == pytest.approx(expected)
        assert np.sum(detail["confusion"]) == detail["items"] == 60
        assert np.trace(np.array(detail["confusion"])) == round(60 * expected)

    def test_texts_that_stand_in_train_too_are_counted(self, small: SmallLake) -> None:
        small.put_items(["twin"], split="train", texts=["test-000"])
        assert run(small).detail == {"gold_without_item": 0, "texts_also_in_train": 1}

    def test_the_label_model_is_scored_alone(self, small: SmallLake) -> None:
        small.put_items(["test-zzz"], split="test")  # no function votes on it
        small.truth["test-zzz"] = 2
        small.write_gold()
        label_model(small.lake, small.label_config)
        end_model(small.lake, small.end_config)
        run(small)
        with small.lake.read() as reader:
            items = dict(
                reader.rows("SELECT series, (detail->>'items')::INT FROM metrics WHERE name = 'accuracy' ORDER BY 1")
            )
            covered = reader.scalar("SELECT count(*) FROM latest_weak_labels WHERE item_id LIKE 'test%' AND votes > 0")
        assert items == {"siftline": 60, "end_model": 60, "label_model": 61, "label_model_covered": covered}

    def test_where_nothing_votes_there_is_no_label_model_to_score(self, small: SmallLake) -> None:
        """It had the share of the class that stands first, under the name of the functions' combined votes."""
        without_votes(small)
        small.answer({item_id: small.truth[item_id] for item_id in small.train_ids()[:6]})
        end_model(small.lake, small.end_config)
        run(small)
        assert keys(small) == {("siftline", 6)}

    def test_a_second_run_writes_nothing(self, small: SmallLake) -> None:
        run(small)
        assert not run(small).committed

    def test_the_label_model_is_scored_once(self, small: SmallLake) -> None:
        run(small)
        small.answer({item_id: small.truth[item_id] for item_id in small.train_ids()[:6]})
        end_model(small.lake, small.end_config)
        assert run(small).rows_written == {"metrics": 6}  # three figures of the curve, and of the model itself

    def test_without_a_model_there_is_nothing_to_score(self, lake: Lake, tmp_path: Path) -> None:
        small = build(lake, tmp_path)
        assert run(small).detail == {"reason": "no end model yet"}

    def test_a_model_of_older_labels_is_not_scored(self, small: SmallLake) -> None:
        small.answer({item_id: small.truth[item_id] for item_id in small.train_ids()[:6]})
        assert run(small).detail == {"reason": "no end model has learned from the present labels yet"}
        end_model(small.lake, small.end_config)
        assert run(small).committed


class TestCurveSizes:
    def test_few_are_all_shown(self) -> None:
        assert curve_sizes([0, 5, 3], most=2) == [0, 3, 5]
        assert curve_sizes([]) == []

    def test_of_many_so_many_and_one_that_is_left_out_never_comes_back(self) -> None:
        generator, learned, left_out = np.random.default_rng(0), [0], set[int]()
        for _ in range(400):
            learned.append(learned[-1] + int(generator.integers(1, 9)))
            shown = curve_sizes(learned)
            assert len(shown) <= MOST_SIZES + 2
            assert (shown[0], shown[-1]) == (0, learned[-1])
            assert not left_out.intersection(shown)
            left_out.update(set(learned) - set(shown))


class TestRivals:
    def test_labels_that_became_all_alike_make_no_end_model_to_score(self, small: SmallLake) -> None:
        without_votes(small)
        some = small.train_ids()[:6]
        small.answer({item_id: small.truth[item_id] for item_id in some})
        end_model(small.lake, small.end_config)
        run(small)
        run_rivals(small)
        rivals = {(series, 6) for series in ("random", "random_gold_only")} | {("all_gold", 120)}
        assert keys(small) == {("siftline", 6), ("gold_only", 6), *rivals}, "none of the model before any label, either"
        small.answer(dict.fromkeys(some, 0))  # they changed their minds
        end_model(small.lake, small.end_config)
        run(small)
        run_rivals(small)
        assert keys(small) == rivals

    def test_every_rival_of_every_size_is_measured(self, small: SmallLake) -> None:
        run(small)
        two_cycles(small)
        run_rivals(small)
        with small.lake.read() as reader:
            found = reader.rows(
                "SELECT series, labels, count(*) FROM metrics WHERE name = 'accuracy' GROUP BY ALL ORDER BY ALL"
            )
        assert found == [
            ("all_gold", 120, 1),
            ("end_model", 0, 1),
            ("end_model", 6, 1),
            ("end_model", 12, 1),
            ("gold_only", 6, 1),
            ("gold_only", 12, 1),
            ("label_model", 0, 1),
            ("label_model_covered", 0, 1),
            ("random", 6, 2),
            ("random", 12, 2),
            ("random_gold_only", 6, 2),
            ("random_gold_only", 12, 2),
            ("siftline", 0, 1),
            ("siftline", 6, 1),
            ("siftline", 12, 1),
        ]

    def test_a_second_run_writes_nothing(self, small: SmallLake) -> None:
        two_cycles(small)
        assert run_rivals(small).committed
        assert not run_rivals(small).committed

    def test_only_what_is_missing_is_measured(self, small: SmallLake) -> None:
        two_cycles(small)
        run_rivals(small, rival_seeds=2)
        small.answer({item_id: small.truth[item_id] for item_id in small.train_ids()[12:18]}, cycle=3)
        end_model(small.lake, small.end_config)
        run(small)
        # size 18: random and random_gold_only twice, gold_only once; three figures each
        assert run_rivals(small, rival_seeds=2).rows_written == {"metrics": 15}

    def test_what_is_measured_does_not_grow_with_every_cycle_that_ever_was(self, small: SmallLake) -> None:
        small.answer({item_id: small.truth[item_id] for item_id in small.train_ids()[:60]})
        numbers = list(range(1, 61))
        models = {
            "model_id": [f"m{n}" for n in numbers],
            "stage": ["end_model"] * len(numbers),
            "kind": ["linear"] * len(numbers),
            "gold_labels": pa.array(numbers, pa.int32()),
            "items": pa.array(numbers, pa.int32()),
            "sequence": pa.array([n + 1 for n in numbers], pa.int32()),
            "detail": ["{}"] * len(numbers),
        }
        small.put(Upsert("models", pa.table(models)))
        run_rivals(small, rival_seeds=1)
        sizes = {labels for series, labels in keys(small) if series == "gold_only"}
        assert sizes == {labels for series, labels in keys(small) if series == "random"}
        assert len(sizes) <= MOST_SIZES + 1
        assert {1, 60} <= sizes
        assert max(np.diff(sorted(sizes))) <= 8, "evenly, not the first or the last ones"

    def test_gold_only_takes_the_selected_items_in_their_order(self, small: SmallLake) -> None:
        everything_earn = dict.fromkeys(small.train_ids(of_class=0)[:6], 0)
        small.answer(everything_earn, cycle=1)
        end_model(small.lake, small.end_config)
        small.answer(dict.fromkeys(small.train_ids(of_class=2)[:6], 2), cycle=2)
        end_model(small.lake, small.end_config)
        run(small)
        run_rivals(small)
        # After cycle 1 every label is earn, so without weak labels everything is predicted earn.
        share = np.mean([small.truth[item_id] == 0 for item_id in small.test_ids()])
        assert value_of(small, "gold_only/accuracy/test/6/0") == pytest.approx(share)
        assert value_of(small, "gold_only/accuracy/test/12/0") != pytest.approx(share)

    def test_weak_labels_help_the_random_pick(self, small: SmallLake) -> None:
        two_cycles(small)
        run_rivals(small)
        with small.lake.read() as reader:
            mean = dict(
                reader.rows(
                    "SELECT series, avg(value) FROM metrics WHERE name = 'accuracy' AND labels = 6 GROUP BY ALL"
                )
            )
        assert mean["random"] > mean["random_gold_only"]

    def test_before_any_gold_label_there_are_no_rivals(self, small: SmallLake) -> None:
        assert run_rivals(small).detail == {"reason": "no end model has learned from gold labels yet"}


class TestGoldFile:
    def test_it_influences_nothing_but_metrics(self, small: SmallLake) -> None:
        two_cycles(small)
        before = small.lake.content_hash(CONTENT)
        run_rivals(small)
        small.write_gold({item_id: CLASSES[(c + 1) % 3] for item_id, c in small.truth.items()})
        assert run(small).committed
        assert run_rivals(small).committed
        end_model(small.lake, small.end_config)
        label_model(small.lake, small.label_config)
        assert small.lake.content_hash(CONTENT) == before

    def test_a_missing_file_is_named(self, small: SmallLake) -> None:
        (small.folder / "gold.parquet").unlink()
        with pytest.raises(SettingsError, match=r"gold\.parquet is not there"):
            run(small)

    def test_a_file_that_is_not_parquet_is_named(self, small: SmallLake) -> None:
        (small.folder / "gold.parquet").write_text("id,label\n")
        with pytest.raises(DataError, match=r"gold\.parquet cannot be read"):
            run(small)

    @pytest.mark.parametrize("stage", [run, run_rivals])
    def test_ids_that_are_not_among_the_items_are_counted(
        self, small: SmallLake, stage: Callable[[SmallLake], StageResult]
    ) -> None:
        two_cycles(small)
        small.truth["nobody"] = 0
        small.write_gold()
        result = stage(small)
        assert result.committed
        assert result.detail == {"gold_without_item": 1}

    @pytest.mark.parametrize("stage", [run, run_rivals])
    def test_a_file_of_another_project_is_named(
        self, small: SmallLake, stage: Callable[[SmallLake], StageResult]
    ) -> None:
        two_cycles(small)
        small.write_gold({"a": "earn", "b": "ship"})
        wanted = (
            r"gold file .* Not one of the ids of the 2 rows in .*gold\.parquet .* 'a', where they are like 'test-000'"
        )
        with pytest.raises(DataError, match=wanted):
            stage(small)

    def test_unknown_classes_are_named(self, small: SmallLake) -> None:
        small.write_gold({"test-001": "cocoa"})
        with pytest.raises(DataError, match=r"a label that is no class: 'cocoa'.*earn, ship, grain"):
            run(small)

    @pytest.mark.parametrize("stage", [run, run_rivals])
    def test_without_a_label_for_the_scored_split_nothing_is_scored(
        self, small: SmallLake, stage: Callable[[SmallLake], StageResult]
    ) -> None:
        two_cycles(small)
        small.write_gold({"train-001": "earn", "nobody": "earn"})
        result = stage(small)
        assert not result.committed
        assert "no item of split 'test'" in result.detail["unscored"]
        assert result.detail["gold_without_item"] == 1

    def test_too_few_train_labels_for_a_random_pick(self, small: SmallLake) -> None:
        two_cycles(small)
        few = [*small.test_ids(), *small.train_ids()[:8]]
        small.write_gold({item_id: CLASSES[small.truth[item_id]] for item_id in few})
        run(small)
        run_rivals(small)
        assert {key for key in keys(small) if key[0] in ("random", "random_gold_only", "all_gold")} == {
            ("random", 6),
            ("random_gold_only", 6),
        }, "12 labels are in force, and all 8 of the gold file are no more than these"

    def test_without_train_labels_only_what_people_labelled_is_measured(self, small: SmallLake) -> None:
        two_cycles(small)
        small.write_gold({item_id: CLASSES[small.truth[item_id]] for item_id in small.test_ids()})
        run(small)
        run_rivals(small)
        assert {key for key in keys(small) if key[0] not in LABEL_MODEL} == {
            ("siftline", 0),
            ("siftline", 6),
            ("siftline", 12),
            ("gold_only", 6),
            ("gold_only", 12),
        }

    def test_rivals_without_weak_labels_do_not_wait_for_a_model_of_these(
        self, small: SmallLake, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        small.write_gold({item_id: CLASSES[small.truth[item_id]] for item_id in small.test_ids()})
        run(small)
        two_cycles(small)
        taught: list[bool] = []

        def watched(vectors: Floats, probs: Floats, weights: Floats, hidden: None = None) -> EndModel | None:
            taught.append(bool(weights.any()))
            return fit_weak(vectors, probs, weights, hidden)

        fit_weak = EndModel.fit_weak
        monkeypatch.setattr(EndModel, "fit_weak", watched)
        assert run_rivals(small).committed
        assert not taught

    def test_a_rival_without_weak_labels_begins_where_such_an_end_model_does(
        self, small: SmallLake, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run(small)
        two_cycles(small)
        asked: set[tuple[bool, bool]] = set()

        def watched(heads: Heads, rows: Ints, class_ids: Ints, *, from_weak: bool = True) -> Learned:
            asked.add((from_weak, bool(heads.weak["linear"])))
            return learned(heads, rows, class_ids, from_weak=from_weak)

        learned = Heads.learned
        monkeypatch.setattr(Heads, "learned", watched)
        assert run_rivals(small).committed
        assert asked == {(True, True), (False, False)}


class TestSettings:
    def test_train_items_are_never_scored(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match="'train'"):
            EvaluateConfig(gold=tmp_path, classes=CLASSES, split="train")

    def test_at_least_one_seed(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match="rival_seeds is 0"):
            EvaluateConfig(gold=tmp_path, classes=CLASSES, rival_seeds=0)

    def test_classes_must_agree(self, small: SmallLake) -> None:
        with pytest.raises(SettingsError, match="same order"):
            evaluate(small.lake, small.evaluate_config(), EndModelConfig(classes=CLASSES[::-1], encoder_id="encoder-1"))


def test_vectors_are_read_by_who_learns_from_them_alone(small: SmallLake) -> None:
    two_cycles(small)
    assert run_rivals(small).committed
    with small.lake.read() as reader:
        vectors = reader.arrow("SELECT * EXCLUDE (run_id, committed_at) FROM vectors")
    nobody_can_learn = pa.array([[np.nan] * 8] * len(vectors), vectors.schema.field("vector").type)
    place = vectors.schema.get_field_index("vector")
    small.put(Upsert("vectors", vectors.set_column(place, "vector", nobody_can_learn)))
    run(small)
    run_rivals(small)
    with pytest.raises(DataError, match="vectors are not finite, such as that of item"):
        run_rivals(small, rival_seeds=3)
