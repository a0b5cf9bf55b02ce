"""What the end model says of a text that is no item is what its stage says of an item of that text."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.weak_labels.small_lake import CLASSES, SmallLake, build, prepared
from tests.weak_labels.test_models_are_kept import KINDS, labelled
from warehouse import Lake, SettingsError
from warehouse.queries.reader import list_column_to_matrix
from weak_labels.classifiers.feature_map import FeatureMap
from weak_labels.classifiers.heads import Heads
from weak_labels.end_model.predictor import Predictor
from weak_labels.end_model.stage import end_model
from weak_labels.end_model.training_data import read_training_data
from weak_labels.label_models import LabelModelConfig, label_model


@pytest.fixture
def small(tmp_path: Path) -> Iterator[SmallLake]:
    with prepared(labelled, tmp_path) as small:
        yield small


@pytest.mark.parametrize("kind", KINDS)
def test_it_says_what_the_stage_says(kind: str, small: SmallLake, monkeypatch: pytest.MonkeyPatch) -> None:
    config, sets = replace(small.end_config, kept=small.folder / "kept", **KINDS[kind]), kind == "sets"
    if kind == "words":
        say_their_class(small)
    if sets:
        assert label_model(small.lake, LabelModelConfig(kind="anchored", classes=CLASSES, multi_label=True)).committed
    small.answer({item_id: small.truth[item_id] for item_id in small.train_ids()[:80]})
    assert end_model(small.lake, config).committed
    with small.lake.read() as reader:
        stored = reader.arrow(
            """
            SELECT item_id, content, vector, p.probs, p.confidence, label
            FROM items JOIN vectors USING (item_id) JOIN predictions p USING (item_id)
            JOIN latest_predictions USING (item_id) ORDER BY item_id
            """
        )
        voted = dict(reader.rows("SELECT lf_name, map_from_entries(list((item_id, vote))) FROM lf_votes GROUP BY 1"))
        anew = Predictor.of(reader, replace(config, kept=None))
        monkeypatch.setattr(
            "weak_labels.end_model.predictor.read_training_data", lambda *_: pytest.fail("learned once more")
        )
        kept = Predictor.of(reader, config)
        assert not kept.is_behind(reader)
    ids, texts = stored.column("item_id").to_pylist(), stored.column("content").to_pylist()
    vectors = list_column_to_matrix(stored.column("vector"), what="vector")
    votes = {name: np.array([of.get(item_id, -1) for item_id in ids]) for name, of in voted.items()}
    assert (kept.anew, anew.anew) == (False, True)
    assert bool(kept.sight.words) == (kind == "words")
    for predictor in (kept, anew):
        said = predictor.predict(vectors, texts, votes)
        assert np.allclose(said.probs, list_column_to_matrix(stored.column("probs"), what="probs"), atol=1e-6)
        assert np.allclose(said.confidence, stored.column("confidence").to_numpy(), atol=1e-6)
        if not sets:  # the view of sets is asked in tests/journeys/test_multi_label_project.py
            assert said.labels == stored.column("label").to_pylist()
        assert predictor.functions == (tuple(sorted(voted)) if sets else ())
        assert predictor.gold_labels == (0 if kind == "words" else 80)  # its texts were edited since people saw them
        assert predictor.weak_labels > 100
    assert kept.predict(vectors, texts, votes).probs.tobytes() == anew.predict(vectors, texts, votes).probs.tobytes()


def say_their_class(small: SmallLake) -> None:
    """Texts and vectors of which both tell the class, so that the end model sees words too."""
    ids = list(small.truth)
    texts = [f"{CLASSES[of]} is what this is about, {item_id}" for item_id, of in small.truth.items()]
    for split in ("train", "test"):
        rows = [row for row, item_id in enumerate(ids) if item_id.startswith(split)]
        small.put_items([ids[row] for row in rows], split=split, texts=[texts[row] for row in rows])
    small.put_vectors(ids, np.eye(8, dtype=np.float32)[list(small.truth.values())], texts=texts)


@pytest.mark.parametrize("self_training", [False, True])
def test_vectors_are_seen_as_they_are_too_where_weak_labels_teach(small: SmallLake, *, self_training: bool) -> None:
    config = replace(small.end_config, self_training=self_training)
    with small.lake.read() as reader:
        data = read_training_data(reader, config)
        mapped = FeatureMap.fit(data.vectors[data.train]).of(data.vectors)
        assert not np.array_equal(mapped, data.vectors)
        heads = data.heads(config)
        assert isinstance(heads, Heads)
        plain, through_the_map = heads.sight.views(heads.features)
        seen = heads.features[: len(data.vectors)]
        assert np.array_equal(seen[:, plain], data.vectors)
        assert np.array_equal(seen[:, through_the_map], mapped)
        assert len(heads.weak["linear"]) == 2
        for alone in (data.heads(config, weak=False), replace(data, weights=np.zeros_like(data.weights)).heads(config)):
            assert isinstance(alone, Heads)
            assert np.array_equal(alone.features, mapped)
            assert not alone.weak["linear"]


def test_it_stays_what_was_learned_and_knows_when_it_is_behind(small: SmallLake) -> None:
    config = replace(small.end_config, kept=small.folder / "kept")
    assert end_model(small.lake, config).committed
    small.answer(dict.fromkeys(small.test_ids()[:3], 2))  # of which nothing is learned
    of_class = small.train_ids(of_class=1)
    with small.lake.read() as reader:
        assert not Predictor.of(reader, config).is_behind(reader)
    small.answer(dict.fromkeys(of_class, 2))
    with small.lake.read() as reader:
        behind = Predictor.of(reader, config)
        assert (behind.gold_labels, behind.anew, behind.is_behind(reader)) == (0, False, True)
    assert end_model(small.lake, config).committed
    with small.lake.read() as reader:
        found = Predictor.of(reader, config)
        assert (found.gold_labels, found.anew, found.is_behind(reader)) == (len(of_class), False, False)


@pytest.mark.parametrize("gone", ["file", "settings", "code"])
def test_where_it_is_not_kept_it_is_learned_from_all_answers_and_kept_again(
    gone: str, small: SmallLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(small.end_config, kept=small.folder / "kept")
    assert end_model(small.lake, config).committed
    if gone == "settings":
        config = replace(config, kind="mlp")
    elif gone == "code":
        monkeypatch.setattr("weak_labels.end_model.predictor.VERSION", 999)
    else:
        path = small.folder / "kept" / "learned.npz"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    with small.lake.read() as reader:
        assert Predictor.of(reader, config).anew
        assert Predictor.of(reader, config).anew is (gone == "settings")  # which is kept when a run learned it
    of_class = small.train_ids(of_class=1)
    small.answer(dict.fromkeys(of_class, 2))
    with small.lake.read() as reader:
        predictor = Predictor.of(reader, replace(config, kept=None))
        vectors, before = zip(
            *reader.rows("SELECT vector, probs[3] FROM vectors JOIN predictions USING (item_id) ORDER BY item_id"),
            strict=True,
        )
    assert predictor.gold_labels == len(of_class)
    assert predictor.predict(np.array(vectors), [""] * len(vectors)).probs[:, 2].mean() > np.mean(before) + 0.05


def test_before_there_is_anything_to_learn_from_it_says_so(tmp_path: Path) -> None:
    with Lake(tmp_path / "lake") as lake:
        small = build(lake, tmp_path)
        with small.lake.read() as reader, pytest.raises(SettingsError, match="siftline run"):
            Predictor.of(reader, small.end_config)


def test_where_the_items_have_no_vector_of_this_encoder_yet_it_says_so(small: SmallLake) -> None:
    assert end_model(small.lake, small.end_config).committed
    with small.lake.read() as reader, pytest.raises(SettingsError, match=r"another encoder.*'?other'?.*siftline run"):
        Predictor.of(reader, replace(small.end_config, encoder_id="other"))
