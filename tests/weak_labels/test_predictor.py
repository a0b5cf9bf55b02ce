"""What the end model says of a text that is no item is what its stage says of an item of that text."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.weak_labels.small_lake import CLASSES, SmallLake, build, clouds, prepared
from tests.weak_labels.test_models_are_kept import KINDS, labelled
from warehouse import Lake, SettingsError
from warehouse.reader import list_column_to_matrix
from weak_labels.end_model import end_model
from weak_labels.heads import Heads
from weak_labels.label_models import LabelModelConfig, label_model
from weak_labels.predictor import Predictor
from weak_labels.training_data import read_training_data


@pytest.fixture
def small(tmp_path: Path) -> Iterator[SmallLake]:
    with prepared(labelled, tmp_path) as small:
        yield small


@pytest.mark.parametrize("kind", KINDS)
def test_it_says_what_the_stage_says(kind: str, small: SmallLake) -> None:
    config, sets = replace(small.end_config, **KINDS[kind]), kind == "sets"
    if sets:
        assert label_model(small.lake, LabelModelConfig(kind="anchored", classes=CLASSES, multi_label=True)).committed
        unseen = [f"unseen-{number}" for number in range(4)]  # nothing voted on them, as on no text that is no item
        small.put_items(unseen, split="test")
        small.put_vectors(unseen, clouds(4, seed=5)[0])
    else:
        small.answer({item_id: small.truth[item_id] for item_id in small.train_ids()[:80]})
    assert end_model(small.lake, config).committed
    with small.lake.read() as reader:
        predictor = Predictor.of(reader, config)
        stored = reader.arrow(
            """
            SELECT content, vector, p.probs, p.confidence, label
            FROM items JOIN vectors USING (item_id) JOIN predictions p USING (item_id)
            JOIN latest_predictions USING (item_id)
            WHERE NOT $1 OR item_id LIKE 'unseen-%' ORDER BY item_id
            """,
            [sets],
        )
    assert len(stored) == (4 if sets else 180)
    said = predictor.predict(
        list_column_to_matrix(stored.column("vector"), what="vector"), stored.column("content").to_pylist()
    )
    assert np.allclose(said.probs, list_column_to_matrix(stored.column("probs"), what="probs"), atol=1e-6)
    assert np.allclose(said.confidence, stored.column("confidence").to_numpy(), atol=1e-6)
    if not sets:  # the view of sets is asked in tests/journeys/test_multi_label_project.py
        assert said.labels == stored.column("label").to_pylist()
    assert predictor.gold_labels == (0 if sets else 80)
    assert predictor.weak_labels > 100


def test_of_a_text_it_sees_the_words_where_it_learned_from_words(small: SmallLake) -> None:
    config = replace(small.end_config, self_training=True)
    with small.lake.read() as reader:
        data = read_training_data(reader, config)
    texts = [f"{CLASSES[small.truth[item_id]]} is what this is about, {item_id}" for item_id in data.item_ids]
    vectors = np.eye(8, dtype=np.float32)[[small.truth[item_id] for item_id in data.item_ids]]  # both views agree
    data = replace(data, texts=texts, vectors=vectors)
    heads = data.heads(config)
    assert heads.features.shape[1] > 8
    assert abs(heads.features_of(data.feature_map.of(vectors), texts) - heads.features).max() == 0


@pytest.mark.parametrize("self_training", [False, True])
def test_vectors_are_mapped_where_no_weak_labels_teach(small: SmallLake, *, self_training: bool) -> None:
    config = replace(small.end_config, self_training=self_training)
    with small.lake.read() as reader:
        data = read_training_data(reader, config)
    for weak in (True, False):
        heads = data.heads(config, weak=weak)
        assert isinstance(heads, Heads)
        assert np.array_equal(heads.vectors, data.vectors) is weak
    assert data.feature_map.of(data.vectors) is data.vectors
    alone = replace(data, weights=np.zeros_like(data.weights))
    heads = alone.heads(config)
    assert isinstance(heads, Heads)
    assert np.array_equal(heads.vectors, alone.feature_map.of(data.vectors))
    assert not np.array_equal(heads.vectors, data.vectors)


def test_answers_since_the_last_run_are_learned_from(small: SmallLake) -> None:
    assert end_model(small.lake, small.end_config).committed
    of_class = small.train_ids(of_class=1)
    small.answer(dict.fromkeys(of_class, 2))
    with small.lake.read() as reader:
        predictor = Predictor.of(reader, small.end_config)
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
