"""All figures of a split can be compared: equal weak labels, end model, gold file and scored items, or none at all."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from flows.report.current_models import scored_before
from tests.weak_labels.small_lake import CLASSES, SmallLake, prepared
from warehouse import Delete
from weak_labels.analysis.evaluate import evaluate, evaluate_rivals
from weak_labels.classifiers.linear import Hold
from weak_labels.end_model.stage import end_model
from weak_labels.label_models import label_model

Change = Callable[[SmallLake, pytest.MonkeyPatch], None]


def learn_and_score(small: SmallLake) -> bool:
    """The stages of a pass that matter here; True when one of them wrote."""
    label_model(small.lake, small.label_config)
    end_model(small.lake, small.end_config)
    return evaluate(small.lake, small.evaluate_config(), small.end_config).committed


def rivals(small: SmallLake, *, rival_seeds: int = 2) -> bool:
    return evaluate_rivals(small.lake, small.evaluate_config(rival_seeds=rival_seeds), small.end_config).committed


def scored_thrice(small: SmallLake) -> None:
    learn_and_score(small)
    for cycle, part in ((1, slice(0, 6)), (2, slice(6, 12))):
        small.answer({item_id: small.truth[item_id] for item_id in small.train_ids()[part]}, cycle=cycle)
        learn_and_score(small)
    rivals(small)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[SmallLake]:
    """Scored with 0, 6 and 12 gold labels."""
    with prepared(scored_thrice, tmp_path) as small:
        yield small


def figures(small: SmallLake) -> dict[str, float]:
    with small.lake.read() as reader:
        return dict(reader.rows("SELECT metric_id, value FROM metrics WHERE series <> 'end_model'"))


def scored_with(small: SmallLake) -> list[tuple[int, float, bool]]:
    """Gold labels, accuracy and whether it is another model's, of every end model in its order."""
    with small.lake.read() as reader:
        return reader.rows("SELECT gold_labels, test_accuracy, replayed FROM cycle_summary ORDER BY cycle")


def bases(small: SmallLake) -> set[str]:
    with small.lake.read() as reader:
        rows = reader.rows("SELECT detail FROM metrics WHERE series <> 'end_model'")
    return {json.loads(detail)["basis"] for (detail,) in rows}


def replayed(small: SmallLake) -> list[int]:
    with small.lake.read() as reader:
        rows = reader.rows("SELECT labels, detail FROM metrics WHERE series = 'siftline' AND name = 'accuracy'")
    return sorted(labels for labels, detail in rows if json.loads(detail).get("replayed"))


def other_votes(small: SmallLake, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {item_id: (small.truth[item_id] + 1) % 3 for item_id in [*small.train_ids(), *small.test_ids()]}
    small.put_votes({"lf_new": wrong, "lf_newer": wrong})


def other_model(small: SmallLake, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("stage", "training_data"):
        monkeypatch.setattr(f"weak_labels.end_model.{module}.VERSION", 99)
    monkeypatch.setattr("weak_labels.classifiers.linear.TAUGHT", Hold(30.0))


def other_gold(small: SmallLake, monkeypatch: pytest.MonkeyPatch) -> None:
    small.write_gold({item_id: CLASSES[(c + 1) % 3] for item_id, c in small.truth.items()})


def other_items(small: SmallLake, monkeypatch: pytest.MonkeyPatch) -> None:
    small.put_items(small.test_ids()[:20], split="valid")


class TestOneBasis:
    @pytest.mark.parametrize("change", [other_votes, other_model, other_gold, other_items])
    def test_after_a_change_every_figure_is_measured_again(
        self, small: SmallLake, monkeypatch: pytest.MonkeyPatch, change: Change
    ) -> None:
        before, old = figures(small), bases(small)
        assert replayed(small) == []
        change(small, monkeypatch)
        assert learn_and_score(small)
        # Also before the rivals are measured nothing old stands beside the new figures.
        assert len(bases(small)) == 1
        assert bases(small).isdisjoint(old)
        assert rivals(small)
        assert set(figures(small)) == set(before)
        assert len(bases(small)) == 1
        assert bases(small).isdisjoint(old)
        assert replayed(small) == [0, 6]
        assert not learn_and_score(small)
        assert not rivals(small)

    def test_a_change_that_is_taken_back_gives_equal_figures(self, small: SmallLake) -> None:
        before = figures(small)
        small.write_gold({item_id: CLASSES[(c + 1) % 3] for item_id, c in small.truth.items()})
        learn_and_score(small)
        small.write_gold()
        learn_and_score(small)
        assert rivals(small)
        assert figures(small) == before
        assert replayed(small) == [0, 6]

    def test_a_replay_gives_the_figure_of_the_end_model(self, small: SmallLake) -> None:
        before = figures(small)
        small.put(Delete("metrics", pa.table({"series": ["siftline"]})))
        small.answer({small.train_ids()[12]: small.truth[small.train_ids()[12]]}, cycle=3)
        learn_and_score(small)
        rivals(small)
        assert replayed(small) == [0, 6, 12]
        assert before.items() <= figures(small).items()

    def test_a_corrected_label_is_replayed_too(self, small: SmallLake) -> None:
        first = small.train_ids()[0]
        small.answer({first: (small.truth[first] + 1) % 3}, cycle=1)
        learn_and_score(small)
        rivals(small)
        assert replayed(small) == [6]


class TestEveryModelKeepsWhatItWasScoredWith:
    def test_other_votes_change_the_next_model_and_not_those_before(
        self, small: SmallLake, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = scored_with(small)
        assert [labels for labels, _, _ in before] == [0, 6, 12]
        other_votes(small, monkeypatch)
        learn_and_score(small)
        rivals(small)
        assert replayed(small) == [0, 6]
        *former, (labels, accuracy, again) = scored_with(small)
        assert former == before
        assert (labels, again) == (12, False)
        assert accuracy == figures(small)["siftline/accuracy/test/12/0"] != before[-1][1]

    def test_a_model_that_was_never_scored_shows_what_one_of_now_has(self, small: SmallLake) -> None:
        small.put(Delete("metrics", pa.table({"series": ["end_model"]})))
        now = figures(small)
        assert scored_with(small) == [(n, now[f"siftline/accuracy/test/{n}/0"], True) for n in (0, 6, 12)]

    def test_a_model_that_nothing_was_scored_after_has_no_figure(
        self, small: SmallLake, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = scored_with(small)
        with small.lake.read() as reader:
            assert not scored_before(reader, "test")
        other_votes(small, monkeypatch)
        label_model(small.lake, small.label_config)
        end_model(small.lake, small.end_config)  # as many labels as the one before, and the gold file taken away
        assert scored_with(small) == [*before, (12, None, False)]
        with small.lake.read() as reader:
            assert scored_before(reader, "test")


class TestWhatCannotBeMeasuredAnyMore:
    def test_sizes_above_the_labels_in_force_are_removed(self, small: SmallLake) -> None:
        small.answer(dict.fromkeys(small.train_ids()[6:12], -1), cycle=2, action="deleted")
        learn_and_score(small)
        assert rivals(small)
        with small.lake.read() as reader:
            sizes = reader.rows("SELECT DISTINCT labels FROM metrics WHERE NOT series IN ('all_gold', 'end_model')")
        assert sorted(sizes) == [(0,), (6,)]
        assert not rivals(small)

    def test_without_any_label_in_force(self, small: SmallLake) -> None:
        small.answer(dict.fromkeys(small.train_ids()[:12], -1), action="deleted")
        learn_and_score(small)
        assert rivals(small)
        with small.lake.read() as reader:
            found = reader.rows("SELECT DISTINCT series, labels FROM metrics WHERE series <> 'end_model' ORDER BY ALL")
        assert found == [("all_gold", 120), ("label_model", 0), ("label_model_covered", 0), ("siftline", 0)]

    def test_fewer_seeds(self, small: SmallLake) -> None:
        assert rivals(small, rival_seeds=1)
        assert {metric_id.rsplit("/")[-1] for metric_id in figures(small)} == {"0"}

    def test_another_split_keeps_its_figures(self, small: SmallLake) -> None:
        before = figures(small)
        small.put_items(small.test_ids()[:20], split="valid")
        valid = replace(small.evaluate_config(), split="valid")
        end_model(small.lake, small.end_config)
        assert evaluate(small.lake, valid, small.end_config).committed
        assert evaluate_rivals(small.lake, valid, small.end_config).committed
        after = figures(small)
        assert before.items() <= after.items()
        assert len(after) == 2 * len(before)
