"""Bad input has a defined result or an error that says which text, and options that make no sense are refused."""

import numpy as np
import pytest

from engine.client import ENCODERS, Encoder, load_encoder
from engine.config import EncoderConfig
from engine.encoder import dense_encoder
from engine.errors import EngineError, InputError, NumericError, OptionError
from engine.local import DenseClient
from engine.tokenizer import TextTokenizer
from engine.weights import MINILM, encoder_tensors, package_files, read_tensors


@pytest.mark.parametrize(
    "text",
    ["", " \n\t ", "\x00\x01\x1b[31m\x7f", "\u202e\u200b\ufeff", "\ufffd" * 50, "e" + "\u0301" * 5000, "\U0010ffff"],
)
def test_odd_text_has_a_unit_vector(encoder: Encoder, text: str) -> None:
    vector = encoder.encode([text])
    assert np.isfinite(vector).all()
    assert abs(float(np.linalg.norm(vector)) - 1) < 1e-5


def test_a_million_characters_are_cut(encoder: Encoder) -> None:
    encoding = encoder.embed(["oil price " * 100_000, "x" * 1_000_000])
    assert encoding.tokens.tolist() == [64, 3]
    assert encoding.truncated.tolist() == [True, False]
    assert np.isfinite(encoding.vectors).all()


def test_no_texts_are_no_vectors(encoder: Encoder) -> None:
    encoding = encoder.embed([])
    assert encoding.vectors.shape == (0, encoder.dimension)
    assert encoding.routes == []


def test_the_bad_one_of_many_is_named(encoder: Encoder) -> None:
    texts = ["fine"] * 64
    texts[17] = "half of a pair \ud83d"
    with pytest.raises(InputError, match="text 17: a lone surrogate at character 15") as caught:
        encoder.encode(texts)
    assert list(caught.value.reasons) == [17]
    del texts[17]
    assert encoder.encode(texts).shape == (63, encoder.dimension)


def test_every_bad_text_is_named(encoder: Encoder) -> None:
    with pytest.raises(InputError) as caught:
        encoder.encode(["a", None, "b", 3.5, b"bytes", *[None] * 10])  # type: ignore[list-item]
    assert list(caught.value.reasons) == [1, 3, 4, *range(5, 15)]
    assert caught.value.reasons[4] == "bytes instead of text"


def test_one_string_is_not_a_list_of_texts(encoder: Encoder) -> None:
    with pytest.raises(InputError, match="pass a list"):
        encoder.encode("oil")


def test_a_vector_that_is_not_finite_never_leaves() -> None:
    files = package_files(MINILM)
    config = EncoderConfig.from_json(files["config.json"], files["1_Pooling/config.json"])
    tokenizer = TextTokenizer(files["tokenizer.json"], vocab=config.vocab, max_tokens=8)
    tensors = read_tensors(files["model.safetensors"], encoder_tensors(config), name="model.safetensors")
    oil = tokenizer.encode(["oil"])[0].ids[1]
    tensors["embeddings.word_embeddings.weight"][oil] = float("nan")
    broken = DenseClient(dense_encoder(config, tensors), tokenizer, encoder_id="broken", max_tokens=8, threads=1)
    with pytest.raises(NumericError) as caught:
        broken.encode(["bank", "oil", "trade"])
    assert caught.value.indexes == (1,)


def test_an_unknown_encoder_lists_the_known() -> None:
    with pytest.raises(OptionError, match="Known are: default, dense"):
        load_encoder("routed-9")


@pytest.mark.parametrize("options", [{"max_tokens": 2}, {"max_tokens": 513}, {"threads": 0}, {"device": "cuda"}])
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(OptionError, match=str(next(iter(options.values())))):
        load_encoder(**options)  # type: ignore[arg-type]
    assert issubclass(OptionError, EngineError)


def test_the_id_tells_encoders_apart() -> None:
    ids = {load_encoder(max_tokens=n, threads=1).encoder_id for n in (8, 9)}
    assert len(ids) == 2
    assert {load_encoder(name, max_tokens=8, threads=2).encoder_id for name in ENCODERS} <= ids
