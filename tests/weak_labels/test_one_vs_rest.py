"""Several classes for one item: each class is a yes-or-no question to label model, end model and score."""

import json
import tracemalloc
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.active.test_consensus import say
from tests.warehouse.test_sets_of_classes import several
from tests.weak_labels.small_lake import ENCODER, SmallLake
from warehouse import Lake, SettingsError
from weak_labels.analysis.evaluate import evaluate, evaluate_rivals
from weak_labels.analysis.gold_file import EvaluateConfig
from weak_labels.analysis.lf_report import lf_report
from weak_labels.analysis.scores import score_sets
from weak_labels.classifiers.feature_map import FeatureMap
from weak_labels.classifiers.inputs import Sight
from weak_labels.classifiers.linear import EndModel, EndModelConfig
from weak_labels.classifiers.one_vs_rest import HOLD, OneVsRestHeads, truth
from weak_labels.classifiers.vote_fusion import Weighed, log_odds
from weak_labels.end_model.predictor import Predictor
from weak_labels.end_model.stage import end_model
from weak_labels.end_model.training_data import TrainingData, read_training_data
from weak_labels.label_models import LabelModelConfig, label_model

CLASSES = ("a", "b", "c")
LABEL_MODEL = LabelModelConfig(kind="anchored", classes=CLASSES, multi_label=True, learn_from_gold=True)
END_MODEL = EndModelConfig(classes=CLASSES, encoder_id=ENCODER, multi_label=True)


@pytest.fixture
def small(lake: Lake, tmp_path: Path) -> SmallLake:
    """Items whose vector is the sum of the directions of their classes; one function per class, mostly right."""
    several(lake, *CLASSES, count=0)
    small = SmallLake(lake, tmp_path)
    generator = np.random.default_rng(5)
    directions = np.linalg.qr(generator.standard_normal((8, 8)))[0][:4]
    votes: Mapping[str, dict[str, int]] = {f"says_{name}": {} for name in CLASSES}
    labels: list[dict[str, object]] = []
    for split, count in (("train", 90), ("test", 40)):
        ids = [f"{split}-{number:03d}" for number in range(count)]
        has = generator.random((count, 3)) < 0.4
        vectors = has @ directions[:3] + directions[3] + 0.2 * generator.standard_normal((count, 8))
        small.put_items(ids, split=split)
        small.put_vectors(ids, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
        for row, item_id in enumerate(ids):
            labels.append({"id": item_id, "label": [CLASSES[c] for c in np.flatnonzero(has[row])]})
            for c, name in enumerate(CLASSES):
                if generator.random() < (0.8 if has[row, c] else 0.05):
                    votes[f"says_{name}"][item_id] = c
    small.put_votes(votes)
    (tmp_path / "gold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labels), "utf-8")
    return small


def test_the_stages_learn_and_score_sets(small: SmallLake) -> None:
    lake = small.lake
    config = EvaluateConfig(gold=small.folder / "gold.jsonl", classes=CLASSES, rival_seeds=1, multi_label=True)
    assert label_model(lake, LABEL_MODEL).detail["kind"] == "anchored_per_class"
    assert end_model(lake, END_MODEL).committed
    with lake.read() as reader:
        ids = [f"train-{number:03d}" for number in range(60)]
        true = {row["id"]: row["label"] for row in map(json.loads, config.gold.read_text().splitlines())}
        before = reader.rows("SELECT probs FROM latest_weak_labels WHERE item_id = 'train-000'")
    say(lake, {(i, "ann"): sorted(CLASSES.index(name) for name in true[i]) for i in ids}, step=100)
    assert label_model(lake, LABEL_MODEL).detail["gold_labels"] == 60
    learned = end_model(lake, END_MODEL)
    assert learned.detail["gold_labels"] == 60
    assert end_model(lake, END_MODEL).rows_written == {}
    evaluate(lake, config, END_MODEL)
    evaluate_rivals(lake, config, END_MODEL)
    with lake.read() as reader:
        after = reader.rows("SELECT probs FROM latest_weak_labels WHERE item_id = 'train-000'")
        sums = reader.rows("SELECT min(list_sum(probs)), max(list_sum(probs)) FROM latest_predictions")[0]
        kinds = reader.rows("SELECT DISTINCT kind FROM models WHERE stage = 'end_model'")
        figures = dict(reader.rows("SELECT name, value FROM metrics WHERE series = 'siftline' AND labels = 60"))
        series = {name for (name,) in reader.rows("SELECT DISTINCT series FROM metrics")}
        sure = reader.scalar(
            "SELECT max(abs(confidence - list_min(list_transform(probs, lambda p: greatest(p, 1 - p))))) "
            "FROM latest_predictions"
        )
        report = lf_report(reader)
        summary = {conflict for (conflict,) in reader.rows("SELECT conflict FROM lf_summary")}
    assert before != after, "people's labels reach the label model"
    assert sums[0] < 0.9
    assert sums[1] > 1.5
    assert kinds == [("one_vs_rest_logistic_regression",)]
    assert all(of["weighed"]["by_gold"] for of in learned.detail["by_class"].values())
    assert sure == pytest.approx(0, abs=1e-6)
    assert set(figures) == {"accuracy", "micro_f1", "macro_f1", "calibration_error"}
    assert figures["micro_f1"] > 0.8
    assert {"siftline", "gold_only", "random", "random_gold_only", "all_gold", "label_model"} <= series
    assert all(f.conflict is None and f.gain is None for f in report.functions)
    assert summary == {None}, "lf_summary says the same"
    assert {f.name: f.accuracy for f in report.functions}["says_a"] > 0.8  # type: ignore[operator]
    assert {d.against for d in report.disagreements} <= {"the model", "people"}


def unit_vectors(generator: np.random.Generator, count: int) -> np.ndarray:
    vectors = generator.standard_normal((count, 5))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_each_class_is_the_end_model_of_has_it_not_and_has_it_beside_its_votes() -> None:
    generator = np.random.default_rng(0)
    vectors = unit_vectors(generator, 30)
    probs = generator.random((30, 3))
    probs[:, 2] = 0.02  # no function votes for it
    probs[20] = 0  # not there when the label model ran
    weights = np.array([1.0] * 20 + [0.0] * 10)
    train = np.arange(30) < 25
    sets = truth([(0, 2), (), (1,)], 3, multi_label=True)
    assert sets.tolist() == [[True, False, True], [False, False, False], [False, True, False]]
    heads = OneVsRestHeads.fit(END_MODEL, Sight.plain(5), vectors, train, probs, weights)
    with_votes = heads.learned(np.arange(3), sets).model.predict_proba(heads.features)
    gold_only = heads.learned(np.arange(3), sets, from_weak=False).model.predict_proba(heads.features)
    shares = probs[[row for row in range(25) if row != 20]].mean(axis=0)
    for c in range(3):
        weak = EndModel.fit_weak(vectors[:20], np.stack([1 - probs[:20, c], probs[:20, c]], axis=1), np.ones(20))
        assert weak is not None
        whole = replace(weak, hold=HOLD)  # however few weak labels there are
        model = EndModel.fit_gold(whole, vectors[:3], sets[:, c].astype(np.int64), 2)
        said = model.predict_proba(vectors)[:, 1]
        odds = (log_odds(shares)[c] + log_odds(said)) / 2 + log_odds(probs)[:, c] - log_odds(shares)[c]
        odds[20] = (log_odds(shares)[c] + log_odds(said)[20]) / 2
        both = 1 / (1 + np.exp(-odds))
        alone = EndModel.fit_gold(None, vectors[:3], sets[:, c].astype(np.int64), 2)
        np.testing.assert_array_equal(gold_only[:, c], alone.predict_proba(vectors)[:, 1])
        if c == 2:
            np.testing.assert_array_equal(with_votes[:, c], gold_only[:, c])
        else:
            np.testing.assert_allclose(with_votes[:, c], both, rtol=1e-9)
    assert (heads.learned(np.arange(0), sets[:0]).model.predict_proba(heads.features)[:, 2] < 0.1).all()


def test_a_class_that_nobody_votes_for_sees_vectors_through_the_map_and_others_as_they_are(small: SmallLake) -> None:
    small.delete_votes("says_c")
    assert label_model(small.lake, LABEL_MODEL).committed
    say(small.lake, {(f"train-{number:03d}", "ann"): [number % 3] for number in range(30)}, step=100)
    config = replace(END_MODEL, kept=small.folder / "kept")
    assert end_model(small.lake, config).committed
    with small.lake.read() as reader:
        data = read_training_data(reader, config)
        _, stored = reader.matrix("SELECT item_id, probs FROM latest_predictions ORDER BY item_id")
        votes = dict(reader.rows("SELECT lf_name, map_from_entries(list((item_id, vote))) FROM lf_votes GROUP BY 1"))
        predictor = Predictor.of(reader, config)
        mapped = FeatureMap.fit(data.vectors[data.train]).of(data.vectors)
    rows, has = data.gold_rows, np.array([2 in label for label in data.gold.values()], np.int64)  # type: ignore[operator]
    alone = EndModel.fit_gold(None, mapped[rows], has, 2)
    np.testing.assert_allclose(stored[:, 2], alone.predict_proba(mapped)[:, 1], rtol=1e-6)
    plain = OneVsRestHeads.fit(config, Sight.plain(8), data.vectors, data.train, data.probs, data.weights)
    as_they_are = data.learned(plain, config).model.predict_proba(plain.features)
    np.testing.assert_array_equal(stored[:, :2], as_they_are[:, :2].astype(np.float32))
    assert not np.allclose(stored[:, 2], as_they_are[:, 2], atol=0.01)
    assert not predictor.anew
    said = predictor.predict(
        data.vectors,
        [""] * len(data.item_ids),
        {name: np.array([of.get(item_id, -1) for item_id in data.item_ids]) for name, of in votes.items()},
    )
    np.testing.assert_allclose(said.probs, stored, atol=1e-6)


@pytest.mark.parametrize("multi_label", [True, False])
@pytest.mark.parametrize("gold", [40, 9_000], ids=["few labels beside weak ones", "all labels alone"])
def test_what_is_seen_of_many_items_never_stands_in_memory_twice(
    multi_label: bool, gold: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several classes both views of all items did, and of all labelled ones what is seen of them."""
    monkeypatch.setattr("weak_labels.classifiers.feature_map.MOST_ROWS", 500)
    monkeypatch.setattr("weak_labels.classifiers.feature_map.LANDMARKS", 20)
    monkeypatch.setattr("weak_labels.classifiers.feature_map.CHUNK", 500)
    monkeypatch.setattr("weak_labels.classifiers.linear.PART", 500)
    monkeypatch.setattr("weak_labels.classifiers.linear.MAX_STEPS", 2)
    monkeypatch.setattr("weak_labels.classifiers.linear.FEW", 1_000)
    monkeypatch.setattr("warehouse.numeric.cores", lambda: 2)
    count, weak = 10_000, gold < 100
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((count, 512), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    probs = np.full((count, 3), [0.8, 0.1, 0.1] if weak else 0.0)
    probs[: count // 2, :2] = [0.1, 0.8] if weak else 0.0  # nobody votes for the last class
    weights = np.where(np.arange(count) % 20 == 0, float(weak), 0.0)
    data = TrainingData(
        item_ids=[str(place) for place in range(count)],
        train=np.ones(count, np.bool_),
        read_vectors=lambda: vectors,
        label_model_id="",
        probs=probs,
        weights=weights,
        content="",
        gold={str(place): (place % 3,) if multi_label else place % 3 for place in range(gold)},
        gold_left_out=0,
        texts=[],
    )
    config = replace(END_MODEL, multi_label=multi_label)
    assert len(data.vectors) == count
    tracemalloc.start()
    try:
        heads = data.heads(config)
        model = data.learned(heads, config).model
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert model.predict_proba(heads.features[:10]).shape == (10, 3)
    assert most < vectors.nbytes * (0.9 if weak else 2.5)


def test_gold_labels_of_a_class_are_neither_pooled_nor_asked_how_firmly_they_are_held() -> None:
    generator = np.random.default_rng(0)
    vectors, has = unit_vectors(generator, 80), generator.integers(2, size=80)
    probs = np.stack([np.where(has == 1, 0.1, 0.9), np.full(80, 0.5), np.full(80, 0.5)], axis=1)  # the wrong way round
    heads = OneVsRestHeads.fit(END_MODEL, Sight.plain(5), vectors, np.ones(80, np.bool_), probs, np.ones(80))
    sets = np.stack([has == 1, has == 1, has == 0], axis=1)
    found = heads.learned(np.arange(80), sets)
    assert "belief_in_weak_labels" not in str(found.detail)
    weak = EndModel.fit_weak(vectors, np.stack([1 - probs[:, 0], probs[:, 0]], axis=1), np.ones(80))
    assert weak is not None
    moved = EndModel.fit_gold(replace(weak, hold=HOLD), vectors, has, 2)
    np.testing.assert_array_equal(found.model.models[0].weights_DC, moved.weights_DC)
    alone = EndModel.fit_gold(None, vectors, has, 2)
    gold_only = heads.learned(np.arange(80), sets, from_weak=False).model.models[0]
    np.testing.assert_array_equal(gold_only.weights_DC, alone.weights_DC)


def test_without_weak_labels_the_end_model_counts_alone() -> None:
    vectors = np.eye(4)
    heads = OneVsRestHeads.fit(
        END_MODEL, Sight.plain(vectors.shape[1]), vectors, np.ones(4, np.bool_), np.zeros((4, 3)), np.zeros(4)
    )
    learned = heads.learned(np.arange(2), truth([(0,), ()], 3, multi_label=True))
    assert learned.detail == {}
    found = learned.model.predict_proba(heads.features)
    assert found[0, 0] > 0.5 > found[1, 0]


def test_people_say_what_votes_are_worth() -> None:
    generator = np.random.default_rng(1)
    has = generator.integers(0, 2, 120)
    right = np.where(has == 1, 2.0, -2.0)
    noise = generator.choice([-2.0, 2.0], 120)
    said = np.where(generator.random(120) < 0.8, has, 1 - has) * 0.6 + 0.2
    start = Weighed.without_gold(0.5)
    assert (start.offset, start.end_model, start.votes) == (0.0, 0.5, 1.0)
    rare, nobody = Weighed.without_gold(0.1), np.empty(0)
    assert rare.moved(nobody, nobody, nobody.astype(np.int64)).offset == pytest.approx(rare.offset)
    trusted, doubted = start.moved(said, right, has), start.moved(said, noise, has)
    assert trusted.votes > 1 > doubted.votes + 0.5
    assert doubted.end_model > 0.6
    assert ((doubted.predict_proba(said, noise) > 0.5) == has).mean() > (
        (start.predict_proba(said, noise) > 0.5) == has
    ).mean()


def test_people_say_how_many_have_a_class_of_which_functions_find_few() -> None:
    """The offset stayed near the share that the votes have, so the class was said of too few items."""
    generator = np.random.default_rng(0)
    has = (generator.random(60) < 0.4).astype(np.int64)
    votes = np.where((generator.random(60) < 0.2) & (has == 1), 4.0, 0.0)
    said = 0.08 + 0.1 * has + 0.02 * generator.random(60)
    start = Weighed.without_gold(0.08)
    assert start.predict_proba(said, votes).mean() < has.mean() - 0.2
    assert start.moved(said, votes, has).predict_proba(said, votes).mean() == pytest.approx(has.mean(), abs=0.02)


def test_no_label_judges_an_end_model_that_saw_it() -> None:
    generator = np.random.default_rng(0)
    vectors, everyone = np.eye(60), np.ones(60, np.bool_)  # what is learned of one item says nothing of another
    probs = np.where(generator.random((60, 3)) < 0.5, 0.3, 0.7)
    heads = OneVsRestHeads.fit(END_MODEL, Sight.plain(60), vectors, everyone, probs, np.ones(60))
    weighed = heads.learned(np.arange(60), generator.random((60, 3)) < 0.5).model.weighed
    assert all(of is not None and of.end_model < 0.6 for of in weighed), weighed


def test_the_score_of_sets_by_hand() -> None:
    true = np.array([[1, 0], [1, 1], [0, 0], [0, 0]], np.bool_)
    probs = np.array([[0.9, 0.1], [0.9, 0.2], [0.1, 0.1], [0.7, 0.0]])
    figures = {name: (value, more) for name, value, more in score_sets(true, probs)}
    assert figures["accuracy"] == (0.5, {"by_class": [[2, 0, 1], [0, 1, 0]]})
    assert figures["micro_f1"][0] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert figures["macro_f1"][0] == pytest.approx((0.8 + 0.0) / 2)
    nothing = {name: value for name, value, _ in score_sets(true[2:3], probs[2:3])}
    assert (nothing["accuracy"], nothing["micro_f1"], nothing["macro_f1"]) == (1.0, 1.0, 1.0)


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(SettingsError, match="'snorkel', which gives each item one class; with multi_label"):
        replace(LABEL_MODEL, kind="snorkel")
    with pytest.raises(SettingsError, match="self_training does not go with multi_label"):
        replace(END_MODEL, self_training=True)
