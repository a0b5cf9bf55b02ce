"""Vectors of 16 bits: what is stored is what the encoder says, and the files have half the size."""

from pathlib import Path

import numpy as np
import pytest

from engine.load import load_encoder
from engine.protocol import Encoder
from features.embedding.half_precision import CompactEncoder
from features.embedding.stage import EmbedConfig, embed
from flows.project.project import Project
from flows.settings.settings_file import load_settings
from tests.features.test_embed_stage import put_items, stored
from warehouse import Lake, SettingsError

TEXTS = {f"item-{n}": f"{n} tonnes of wheat for {n * 7 % 13} dollars" for n in range(300)}


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder("dense", max_tokens=16, threads=1)


def test_numbers_are_those_of_float16_whatever_is_asked(encoder: Encoder) -> None:
    compact, texts = CompactEncoder(encoder), list(TEXTS.values())[:5]
    full, rounded = encoder.encode(texts), compact.encode(texts)
    assert np.array_equal(rounded, full.astype(np.float16))
    assert rounded.dtype == np.float32
    assert not np.array_equal(rounded, full)
    assert np.abs(rounded @ rounded.T - full @ full.T).max() < 1e-4
    assert np.array_equal(compact.embed(texts).vectors, rounded)
    assert np.array_equal(compact.encode(texts, trace=True).vectors, rounded)
    assert (compact.dimension, compact.max_tokens) == (encoder.dimension, encoder.max_tokens)


def test_they_come_back_as_a_matrix_from_half_the_disk(lake: Lake, encoder: Encoder) -> None:
    put_items(lake, TEXTS)
    compact = CompactEncoder(encoder)
    sizes: list[int] = []
    for each in (encoder, compact):
        embed(lake, each, EmbedConfig())
        sizes.append(sum(file.stat().st_size for file in (lake.path / "data").rglob("vectors/*.parquet")))
    assert sizes[1] - sizes[0] < 0.6 * sizes[0]
    with lake.read() as reader:
        ids, vectors = reader.read_vectors(compact.encoder_id)
        assert np.array_equal(vectors, compact.encode([TEXTS[item] for item in ids.to_pylist()]))
        assert len(reader.read_vectors(encoder.encoder_id)[0]) == len(TEXTS), "the two kinds do not mix"
    assert not np.array_equal(stored(lake, encoder.encoder_id)["item-1"], stored(lake, compact.encoder_id)["item-1"])


@pytest.mark.parametrize(("setting", "mark"), [("", ""), ('stored = "float16"', "-float16")])
def test_a_project_chooses_them_in_its_settings(tmp_path: Path, setting: str, mark: str) -> None:
    plain = load_encoder("default", max_tokens=16).encoder_id
    assert Project(project(tmp_path, setting)).encoder.encoder_id == plain + mark


def test_another_kind_of_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="stored"):
        load_settings(project(tmp_path, 'stored = "float8"'))


def project(folder: Path, setting: str) -> Path:
    (folder / "siftline.toml").write_text(
        '[project]\nname = "x"\nclasses = ["a", "b"]\n[[sources]]\nname = "s"\npath = "x.csv"\ntext = "t"\n'
        f"[encoder]\nmax_tokens = 16\n{setting}\n",
        "utf-8",
    )
    return folder
