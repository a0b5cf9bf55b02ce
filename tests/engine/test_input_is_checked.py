"""Bad input has a defined result or an error that says which text, and options that make no sense are refused; for the
dense encoder and for the routed one."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from engine.errors import EngineError, InputError, NumericError, OptionError
from engine.load import load_encoder
from engine.model.tokenizer import TextTokenizer, Tokens, check_texts
from engine.protocol import ENCODERS, Encoder
from engine.runtime.loading import encoder_of
from tests.engine.tiny import tiny_routed, tiny_tokenizer


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n\t ",
        "ᚠᛇᚻ ߒߞߏ 𒀭𒂗 ꦗꦮ",
        "\x00\x01\x1b[31m\x7f",
        "\u202e\u200b\ufeff",
        "\ufffd" * 50,
        "e" + "\u0301" * 5000,
        "\U0010ffff",
    ],
)
def test_odd_text_has_a_unit_vector(either: Encoder, text: str) -> None:
    vector = either.encode([text])
    assert np.isfinite(vector).all()
    assert abs(float(np.linalg.norm(vector)) - 1) < 1e-5


def test_a_million_characters_are_cut(either: Encoder) -> None:
    encoding = either.embed(["oil price " * 100_000, "x" * 1_000_000])
    assert encoding.tokens.tolist() == [64, 3]
    assert encoding.truncated.tolist() == [True, False]
    assert np.isfinite(encoding.vectors).all()


def test_no_texts_are_no_vectors(either: Encoder) -> None:
    encoding = either.embed([])
    assert encoding.vectors.shape == (0, either.dimension)
    assert encoding.routes == []


def test_texts_that_can_be_read_only_once_are_all_encoded() -> None:
    assert check_texts(iter(["a", "b"])) == ["a", "b"]  # type: ignore[arg-type]
    with pytest.raises(InputError, match="1 of 2 texts"):
        check_texts(iter(["a", None]))  # type: ignore[arg-type]


def test_long_texts_are_not_held_by_the_tokenizer_all_together(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = encoder_of(tiny_routed(), tiny_tokenizer(), sha256={}, active=0.3, max_tokens=16, threads=1)
    texts = [*["x" * 600_000] * 9, "y" * 3_000_000, "bank trade", "bank"]
    given: list[int] = []
    encode = TextTokenizer.encode

    def encoded(self: TextTokenizer, window: Sequence[str]) -> list[Tokens]:
        given.append(sum(map(len, window)))
        return encode(self, window)

    monkeypatch.setattr(TextTokenizer, "encode", encoded)
    vectors = encoder.encode(texts)
    assert given == [1_800_000, 1_800_000, 1_800_000, 3_000_000, 14]
    assert np.array_equal(vectors[[0, 10, 11]], encoder.encode([texts[0], texts[10], texts[11]]))


def test_the_bad_one_of_many_is_named(either: Encoder) -> None:
    texts = ["fine"] * 64
    texts[17] = "half of a pair \ud83d"
    with pytest.raises(InputError, match="text 17: a lone surrogate at character 15") as caught:
        either.encode(texts)
    assert list(caught.value.reasons) == [17]
    del texts[17]
    assert either.encode(texts).shape == (63, either.dimension)


def test_every_bad_text_is_named(either: Encoder) -> None:
    with pytest.raises(InputError) as caught:
        either.encode(["a", None, "b", 3.5, b"bytes", *[None] * 10])  # type: ignore[list-item]
    assert list(caught.value.reasons) == [1, 3, 4, *range(5, 15)]
    assert caught.value.reasons[4] == "bytes instead of text"


def test_one_string_is_not_a_list_of_texts(either: Encoder) -> None:
    with pytest.raises(InputError, match="pass a list"):
        either.encode("oil")


@pytest.mark.parametrize("texts", [None, 3])
def test_what_is_no_list_of_texts_is_refused_in_words(texts: Any) -> None:
    with pytest.raises(InputError, match=rf"The texts are {texts}; pass a list"):
        check_texts(texts)


def test_a_table_is_not_taken_for_its_columns_and_a_column_of_arrow_is_texts() -> None:
    tables: list[Any] = [pd.DataFrame({"text": ["oil"]}), {"text": ["oil"]}, np.array([["oil"]])]
    for table in tables:
        with pytest.raises(InputError, match=rf"The texts are a {type(table).__name__}; pass one column of it"):
            check_texts(table)
    column: Any = pa.chunked_array([["oil"], ["wheat"]])
    assert check_texts(column) == ["oil", "wheat"]


def test_a_vector_that_is_not_finite_never_leaves() -> None:
    model = tiny_routed()
    with torch.no_grad():
        model.tokens.weight[4] = float("nan")  # "oil"
    broken = encoder_of(model, tiny_tokenizer(), sha256={}, active=0.3, max_tokens=8, threads=1)
    with pytest.raises(NumericError) as caught:
        broken.encode(["bank", "oil", "trade"])
    assert caught.value.indexes == (1,)
    assert broken.encode(["bank", "trade"]).shape == (2, 32)


def test_an_unknown_encoder_lists_the_known() -> None:
    with pytest.raises(
        OptionError, match=r"Known are: default, dense, routed, shallow, or the path of a \.safetensors file"
    ):
        load_encoder("routed-9")


@pytest.mark.parametrize("name", [None, 3, Path("mine.safetensors"), ["dense"]])
def test_a_name_that_is_no_text_is_refused_with_the_known(name: Any) -> None:
    with pytest.raises(
        OptionError, match=rf"name is {re.escape(repr(name))}; give text: default, dense, .*\.safetensors"
    ):
        load_encoder(name)


@pytest.mark.parametrize("option", ["max_tokens", "threads", "memory_budget"])
@pytest.mark.parametrize("value", [12.5, "64"])
def test_counts_are_whole_numbers(option: str, value: Any) -> None:
    with pytest.raises(OptionError, match=f"{option} is {value!r}; it must be a whole number"):
        load_encoder("dense", **{option: value})


def test_counts_of_numpy_are_whole_numbers_too() -> None:
    counts: dict[str, Any] = {"max_tokens": np.int64(32), "threads": np.int64(1)}
    assert load_encoder("dense", **counts).encoder_id == load_encoder("dense", max_tokens=32, threads=1).encoder_id


@pytest.mark.parametrize("name", ["dense", "routed", "shallow"])
@pytest.mark.parametrize(
    "options", [{"max_tokens": 2}, {"max_tokens": 513}, {"threads": 0}, {"device": "tpu"}, {"active": 0.31}], ids=str
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, object]) -> None:
    with pytest.raises(OptionError, match=str(next(iter(options.values())))):
        load_encoder(name, **options)  # type: ignore[arg-type]
    assert issubclass(OptionError, EngineError)


@pytest.mark.parametrize("name", ["dense", "shallow"])
def test_a_dense_encoder_has_no_budget(name: str) -> None:
    with pytest.raises(OptionError, match=rf"active is 1\.0; the encoder '{name}' is dense and has no budget"):
        load_encoder(name, active=1.0)


def test_a_budget_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(OptionError, match=r"active=0\.31.* has: 0\.2, 0\.3, 0\.5, 1\."):
        load_encoder("routed", active=0.31)


def test_the_id_tells_encoders_apart() -> None:
    names = sorted(set(ENCODERS.values()))
    ids = {load_encoder(name, max_tokens=n, threads=1).encoder_id for name in names for n in (8, 9)}
    assert len(ids) == 2 * len(names)
    assert {load_encoder(name, max_tokens=8, threads=2).encoder_id for name in ENCODERS} <= ids
