"""The embed stage: every item gets the vector of its present content, once, in one commit."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from engine.load import load_encoder
from engine.protocol import Encoder, Encoding, Progress
from features.embedding.stage import UNREAD, EmbedConfig, embed, encode_texts
from flows.report.current_models import unread_share
from tests.lakes import copy_of
from warehouse import DataError, Lake, SettingsError, Upsert

CONFIG = EmbedConfig(batch_items=3)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder("dense", max_tokens=16, threads=1)


class Watched:
    """The real encoder, seen from outside: which texts it was given; and vectors can be spoiled after it."""

    def __init__(self, inner: Encoder, *, encoder_id: str = "", spoil: dict[str, float] | None = None) -> None:
        self.inner = inner
        self.encoder_id = encoder_id or inner.encoder_id
        self.dimension = inner.dimension
        self.max_tokens = inner.max_tokens
        self.spoil = spoil or {}
        self.given: list[str] = []

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return self.embed(texts).vectors

    def embed(self, texts: Sequence[str], progress: Progress | None = None) -> Encoding:
        self.given.extend(texts)
        encoding = self.inner.embed(texts, progress)
        for row, text in enumerate(texts):
            if text in self.spoil:
                encoding.vectors[row] *= self.spoil[text]
        return encoding


def put_items(lake: Lake, texts: dict[str, str], *, read: int = 1) -> None:
    count = len(texts)
    columns = {
        "item_id": list(texts),
        "content": list(texts.values()),
        "content_hash": [hashlib.sha256(text.encode()).hexdigest() for text in texts.values()],
        "modality": ["text"] * count,
        "source": ["test"] * count,
        "position": list(range(1, count + 1)),
        "metadata": ["{}"] * count,
        "split": ["train"] * count,
    }
    with lake.stage("ingest", version=read, inputs=()) as stage:
        stage.commit([Upsert("items", pa.table(columns))])


def stored(lake: Lake, encoder_id: str) -> dict[str, np.ndarray]:
    with lake.read() as reader:
        ids, vectors = reader.matrix("SELECT item_id, vector FROM vectors WHERE encoder_id = ?", [encoder_id])
    return dict(zip(ids, vectors, strict=True))


TEXTS = {f"item-{n}": f"{n} tonnes of wheat" for n in range(8)}


def test_vectors_are_those_of_the_encoder(lake: Lake, encoder: Encoder) -> None:
    put_items(lake, TEXTS)
    seen: list[tuple[int, int]] = []
    result = embed(lake, encoder, CONFIG, lambda done, total: seen.append((done, total)))
    assert result.committed
    assert result.rows_written == {"vectors": 8}
    vectors = stored(lake, encoder.encoder_id)
    for item_id, text in TEXTS.items():
        assert np.array_equal(vectors[item_id], encoder.encode([text])[0])
    assert seen[0] == (0, 8)
    assert seen[-1] == (8, 8)
    with lake.read() as reader:
        rows = reader.rows(
            "SELECT v.content_hash = i.content_hash, tokens, truncated, active_frac, route FROM vectors v "
            "JOIN items i USING (item_id)"
        )
    assert set(rows) == {(True, 6, False, 1.0, "")}


def test_texts_that_the_encoder_cannot_read_are_told(lake: Lake, encoder: Encoder) -> None:
    strange = {"ru": "Москва является столицей России", "zh": "曝阿诺准备出书告白艳史", "id": "c2a97e0b6ffd4b18a3e2"}
    put_items(lake, strange)
    share = embed(lake, encoder, CONFIG).detail[UNREAD]
    assert share > 0.5
    with lake.read() as reader:
        assert unread_share(reader) == pytest.approx(share)
    put_items(lake, TEXTS, read=2)  # a few among many are not the texts as a whole
    assert UNREAD not in embed(lake, encoder, CONFIG).detail
    with lake.read() as reader:
        assert unread_share(reader) == pytest.approx(share * 3 / 11)
    embed(lake, Watched(encoder, encoder_id="another"), CONFIG)
    with lake.read() as reader:
        assert unread_share(reader) == 0.0


def test_a_second_run_adds_nothing(lake: Lake, encoder: Encoder) -> None:
    put_items(lake, TEXTS)
    embed(lake, encoder, CONFIG)
    before = lake.snapshot()
    watched = Watched(encoder)
    assert not embed(lake, watched, CONFIG).committed
    assert watched.given == []
    assert lake.snapshot() == before


def test_only_new_and_changed_contents_are_encoded(lake: Lake, encoder: Encoder) -> None:
    put_items(lake, TEXTS)
    embed(lake, encoder, CONFIG)
    put_items(lake, {"item-3": "changed", "new": "new text", "item-4": TEXTS["item-4"]}, read=2)
    watched = Watched(encoder)
    assert embed(lake, watched, CONFIG).rows_written == {"vectors": 2}
    assert watched.given == ["changed", "new text"]
    vectors = stored(lake, encoder.encoder_id)
    assert len(vectors) == 9
    assert np.array_equal(vectors["item-3"], encoder.encode(["changed"])[0])


def test_a_run_that_was_stopped_goes_on_from_its_batches(lake: Lake, encoder: Encoder, tmp_path: Path) -> None:
    class Stopping(Watched):
        def embed(self, texts: Sequence[str], progress: Progress | None = None) -> Encoding:
            if len(self.given) >= 6:
                raise KeyboardInterrupt
            return super().embed(texts, progress)

    kept = tmp_path / "kept"
    config = EmbedConfig(batch_items=3, kept=kept)
    put_items(lake, TEXTS)
    with pytest.raises(KeyboardInterrupt):
        embed(lake, Stopping(encoder), config)
    assert not stored(lake, encoder.encoder_id)
    first, _ = sorted(kept.rglob("*.arrow"))
    assert first.stat().st_mode & 0o077 == 0
    spoiled = pa.ipc.open_file(first).read_all().column("content_hash").to_pylist()
    first.write_bytes(first.read_bytes()[:-200] + bytes(200))
    with pytest.raises(KeyboardInterrupt):  # what another encoder made is no business of this one
        embed(lake, Stopping(encoder, encoder_id="another"), config)

    watched = Watched(encoder)
    put_items(lake, {"item-7": "edited meanwhile"}, read=2)
    seen: list[tuple[int, int]] = []
    result = embed(lake, watched, config, lambda done, total: seen.append((done, total)))
    assert result.rows_written == {"vectors": 8}
    again = 8 - len(watched.given)  # of eight distinct texts
    assert again > 0
    assert (result.detail["encoded"], result.detail["kept by a stopped run"]) == (len(watched.given), again)
    assert {hashlib.sha256(text.encode()).hexdigest() for text in watched.given} == {
        *spoiled,
        *(hashlib.sha256(text.encode()).hexdigest() for text in (TEXTS["item-6"], "edited meanwhile")),
    }
    assert seen[-1] == (8, 8)
    vectors = stored(lake, encoder.encoder_id)
    for item_id, text in {**TEXTS, "item-7": "edited meanwhile"}.items():
        assert np.array_equal(vectors[item_id], encoder.encode([text])[0])
    assert not kept.exists()


def test_no_room_for_batches_costs_only_time(lake: Lake, encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("a file where the folder would be")
    put_items(lake, TEXTS)
    assert embed(lake, encoder, EmbedConfig(batch_items=3, kept=tmp_path / "kept")).rows_written == {"vectors": 8}


def test_items_without_news_write_nothing(lake: Lake, encoder: Encoder) -> None:
    put_items(lake, TEXTS)
    embed(lake, encoder, CONFIG)
    put_items(lake, TEXTS, read=2)
    before = lake.snapshot()
    assert not embed(lake, encoder, CONFIG).committed
    assert lake.snapshot() == before


def test_equal_contents_are_encoded_once(lake: Lake, encoder: Encoder) -> None:
    put_items(lake, {"b": "oil", "a": "oil", "d": "gold", "c": "oil"})
    watched = Watched(encoder)
    result = embed(lake, watched, CONFIG)
    assert watched.given == ["oil", "gold"]
    assert result.detail["encoded"] == 2
    assert result.rows_written == {"vectors": 4}
    # Also when the twin was embedded by an earlier run.
    put_items(lake, {"e": "oil", "f": "tin", "g": "gold"}, read=2)
    watched = Watched(encoder)
    assert embed(lake, watched, CONFIG).rows_written == {"vectors": 3}
    assert watched.given == ["tin"]
    vectors = stored(lake, encoder.encoder_id)
    assert np.array_equal(vectors["e"], vectors["a"])
    assert np.array_equal(vectors["g"], vectors["d"])


def test_the_order_of_items_does_not_matter(lake: Lake, encoder: Encoder, tmp_path: Path) -> None:
    put_items(lake, TEXTS)
    embed(lake, encoder, CONFIG)
    with copy_of(Lake, tmp_path / "other") as other:
        put_items(other, dict(reversed(TEXTS.items())))
        embed(other, encoder, EmbedConfig())
        assert other.content_hash(["vectors"]) == lake.content_hash(["vectors"])


def test_another_encoder_has_vectors_of_its_own(lake: Lake, encoder: Encoder) -> None:
    put_items(lake, TEXTS)
    embed(lake, encoder, CONFIG)
    other = Watched(encoder, encoder_id="other")
    assert embed(lake, other, CONFIG).rows_written == {"vectors": 8}
    assert len(other.given) == 8
    assert len(stored(lake, encoder.encoder_id)) == 8


def test_no_items_are_nothing_to_do(lake: Lake, encoder: Encoder) -> None:
    assert not embed(lake, encoder, CONFIG).committed


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 0.0, 2.0])
def test_bad_vectors_are_refused_by_item_and_nothing_is_stored(lake: Lake, encoder: Encoder, factor: float) -> None:
    put_items(lake, TEXTS)
    with pytest.raises(DataError, match="length 1 for item-5") as caught:
        embed(lake, Watched(encoder, spoil={TEXTS["item-5"]: factor}), CONFIG)
    assert "item-4" not in str(caught.value)
    assert stored(lake, encoder.encoder_id) == {}
    assert embed(lake, encoder, CONFIG).committed


def test_texts_that_are_no_items_are_named_where_the_encoder_refuses_them(encoder: Encoder) -> None:
    texts = ["oil rose", "half \ud800 a pair"]
    np.testing.assert_array_equal(encode_texts(encoder, texts[:1]), encoder.encode(texts[:1]))
    with pytest.raises(DataError, match=r"'half \\ud800 a pair': a lone surrogate"):
        encode_texts(encoder, texts)


def test_batch_items_must_be_positive() -> None:
    with pytest.raises(SettingsError, match="batch_items is 0"):
        EmbedConfig(batch_items=0)


def test_vectors_are_not_copied_whole_on_their_way_to_the_commit(lake: Lake, encoder: Encoder, tmp_path: Path) -> None:
    count = 30_000
    put_items(lake, {f"item-{n:05}": f"text {n % 20}" for n in range(count)})
    watched, before = pa.proxy_memory_pool(pa.default_memory_pool()), pa.default_memory_pool()
    pa.set_memory_pool(watched)
    try:
        embed(lake, encoder, EmbedConfig(kept=tmp_path / "kept"))
    finally:
        pa.set_memory_pool(before)
    largest = watched.max_memory()
    assert largest is not None
    assert largest < count * encoder.dimension * 4 / 2
    vectors = stored(lake, encoder.encoder_id)
    assert len(vectors) == count
    assert np.array_equal(vectors["item-00021"], encoder.encode(["text 1"])[0])
