"""The heads of the end model: what a hidden layer learns that a linear head cannot, and when `auto` uses it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from tests.weak_labels.small_lake import ENCODER, build, clouds
from warehouse import Lake, SettingsError
from weak_labels.analysis.evaluate import evaluate, evaluate_rivals
from weak_labels.calibration import LEAST_GOLD
from weak_labels.classifiers.heads import Heads, _chosen
from weak_labels.classifiers.inputs import Sight
from weak_labels.classifiers.linear import EndModelConfig, Floats, Ints, Vectors
from weak_labels.end_model.stage import end_model
from weak_labels.label_models import label_model

NO_ROWS = np.empty(0, np.int64)


def crossed(n: int, seed: int) -> tuple[Vectors, Ints]:
    """Unit vectors whose class is whether two coordinates have one sign, which no line tells."""
    vectors = np.random.default_rng(seed).normal(size=(n, 4)) * [2, 2, 0.5, 0.5]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32), (vectors[:, 0] * vectors[:, 1] > 0).astype(np.int64)


def heads(kind: str, vectors: Vectors, probs: Floats, *, weak_rows: int, seed: int = 0) -> Heads:
    classes = tuple(f"class {number}" for number in range(probs.shape[1]))
    config = EndModelConfig(classes=classes, encoder_id=ENCODER, kind=kind, seed=seed)
    rows = np.arange(weak_rows)
    return Heads.fit(config, Sight.plain(vectors.shape[1]), vectors, rows, probs[rows], np.ones(weak_rows))


def accuracy(found: Heads, rows: Ints, truth: Ints, judged: slice, *, from_weak: bool = True) -> float:
    model = found.learned(rows, truth[rows], from_weak=from_weak).model
    return float((model.predict_proba(found.features[judged]).argmax(axis=1) == truth[judged]).mean())


@pytest.mark.parametrize("from_weak", [True, False], ids=["weak labels", "gold labels alone"])
def test_a_hidden_layer_learns_what_no_line_tells(from_weak: bool) -> None:
    vectors, truth = crossed(1500, seed=1)
    probs = 0.2 + 0.6 * np.eye(2)[truth]
    found = {kind: heads(kind, vectors, probs, weak_rows=1000) for kind in ("linear", "mlp")}
    rows = NO_ROWS if from_weak else np.arange(1000)
    linear, mlp = (accuracy(found[kind], rows, truth, slice(1000, None), from_weak=from_weak) for kind in found)
    assert linear < 0.65
    assert mlp > 0.9


@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("from_weak", [True, False], ids=["weak labels", "gold labels alone"])
def test_with_balanced_classes_more_of_a_rare_one_is_found(kind: str, from_weak: bool) -> None:
    generator = np.random.default_rng(1)
    truth = (generator.random(3000) < 0.03).astype(np.int64)
    vectors = generator.normal(size=(3000, 8)) + 1.2 * truth[:, None]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    learn, probs = np.arange(600), 0.1 + 0.8 * np.eye(2)[truth]
    found = dict[bool, float]()
    for balanced in (False, True):
        config = EndModelConfig(classes=("common", "rare"), encoder_id=ENCODER, kind=kind, balanced=balanced)
        weak = Heads.fit(
            config, Sight.plain(vectors.shape[1]), vectors, learn, probs[learn], np.full(600, float(from_weak))
        )
        rows = NO_ROWS if from_weak else learn
        said = weak.learned(rows, truth[rows]).model.predict_proba(vectors[600:]).argmax(axis=1)
        right = int((said & truth[600:]).sum())
        found[balanced] = 2 * right / (int(said.sum()) + int(truth[600:].sum()))
    assert found[True] > found[False] + 0.05


class TestAuto:
    def test_it_uses_the_hidden_layer_where_gold_labels_say_so(self) -> None:
        vectors, truth = crossed(1000, seed=1)
        found = heads("auto", vectors, np.eye(2)[truth], weak_rows=1000).learned(np.arange(100), truth[:100])
        assert found.model.kind == "mlp"
        assert found.detail["wanted"] == "auto"
        told = found.detail["auto"]
        assert told["by"] == "gold labels, cross-validated"
        assert told["gold_labels"] == 100
        assert told["accuracy"]["mlp"] > told["accuracy"]["linear"]

    def test_it_stays_linear_where_both_do_as_well(self) -> None:
        vectors, truth = clouds(400, seed=1)
        found = heads("auto", vectors, np.eye(3)[truth], weak_rows=400).learned(np.arange(100), truth[:100])
        assert found.model.kind == "logistic_regression"
        assert found.detail["auto"]["accuracy"].keys() == {"linear", "mlp"}

    @pytest.mark.parametrize(("more", "kind"), [(1, "linear"), (9, "mlp")])
    def test_it_stays_linear_where_a_lead_may_be_chance(self, more: int, kind: str) -> None:
        answers = {name: np.tile([0.9, 0.1], (100, 1)) for name in ("linear", "mlp")}
        answers["linear"][:20] = answers["mlp"][more:20] = [0.1, 0.9]
        assert _chosen(answers, np.zeros(100, np.int64))[0] == kind

    def test_it_stays_linear_with_too_few_gold_labels(self) -> None:
        vectors, truth = crossed(1000, seed=1)
        few = LEAST_GOLD - 1
        found = heads("auto", vectors, np.eye(2)[truth], weak_rows=1000).learned(np.arange(few), truth[:few])
        assert found.model.kind == "logistic_regression"
        assert found.detail["auto"] == {"by": "fewer than 60 gold labels, or of one class", "gold_labels": few}


def test_equal_data_and_seed_give_equal_bits_on_any_number_of_cores() -> None:
    vectors, truth = crossed(600, seed=1)

    def probs(seed: int, threads: int) -> bytes:
        with threadpool_limits(threads):
            found = heads("mlp", vectors, np.eye(2)[truth], weak_rows=600, seed=seed)
            return found.learned(np.arange(20), truth[:20]).model.predict_proba(vectors).tobytes()

    assert probs(0, 1) == probs(0, 2)
    assert probs(0, 1) != probs(1, 1)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_many_items_are_learned_from_part_by_part(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, truth = clouds(600, seed=1)
    labels = 0.1 + 0.7 * np.eye(3)[truth]
    found = list[Floats]()
    monkeypatch.setattr("weak_labels.classifiers.linear.PART", 100)
    for few, cores in ((600, 2), (100, 1), (100, 2)):
        monkeypatch.setattr("weak_labels.classifiers.linear.FEW", few)
        monkeypatch.setattr("warehouse.numeric.cores", lambda cores=cores: cores)
        taught = heads(kind, vectors, labels, weak_rows=550).learned(np.arange(40), truth[:40])
        found.append(taught.model.predict_proba(vectors))
    assert found[1] == pytest.approx(found[0], abs=1e-4)
    assert found[1].tobytes() == found[2].tobytes()
    assert len(np.unique(found[1].argmax(axis=1))) == 3


def test_words_beside_the_vectors_stay_sparse() -> None:
    vectors, truth = crossed(300, seed=1)
    model = heads("mlp", vectors, np.eye(2)[truth], weak_rows=300).learned(NO_ROWS, NO_ROWS).model
    assert model.hidden is not None
    seen = model.hidden.beside(csr_matrix(np.concatenate([vectors, np.zeros((300, 1000))], axis=1)))
    assert seen.shape == (300, 4 + 1000 + len(model.hidden.offset_H))
    dense = model.hidden.beside(vectors)
    np.testing.assert_allclose(seen[:, 1004:].toarray(), dense[:, 4:])
    assert np.linalg.norm(dense[:, 4:], axis=1).max() <= 1


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(SettingsError, match="kind of the end model is 'forest'; use one of linear, mlp, auto"):
        EndModelConfig(classes=("a", "b"), encoder_id=ENCODER, kind="forest")


@pytest.mark.parametrize("self_training", [False, True])
def test_the_stage_and_its_scores_use_the_head_that_is_asked_for(
    lake: Lake, tmp_path: Path, self_training: bool
) -> None:
    small = build(lake, tmp_path)
    label_model(lake, small.label_config)
    small.answer({item_id: small.truth[item_id] for item_id in small.train_ids()[:9]})
    linear = replace(small.end_config, self_training=self_training)
    mlp = replace(linear, kind="mlp")
    assert end_model(lake, linear).committed
    evaluate(lake, small.evaluate_config(), linear)
    result = end_model(lake, mlp)
    assert result.committed
    assert result.detail["wanted"] == "mlp"
    # Figures of the other head are no figures of this one.
    assert evaluate(lake, small.evaluate_config(), mlp).committed
    assert evaluate_rivals(lake, small.evaluate_config(), mlp).committed
    with lake.read() as reader:
        kinds = [kind for (kind,) in reader.rows("SELECT kind FROM models WHERE stage = 'end_model' ORDER BY sequence")]
        figures = reader.rows(
            "SELECT series, labels, value, detail FROM metrics WHERE name = 'accuracy' AND series <> 'end_model'"
        )
    assert kinds == ["logistic_regression", "mlp"]
    assert len({json.loads(detail)["basis"] for *_, detail in figures}) == 1
    assert {series for series, *_ in figures} >= {"siftline", "gold_only", "random", "all_gold"}
    assert not end_model(lake, mlp).committed
