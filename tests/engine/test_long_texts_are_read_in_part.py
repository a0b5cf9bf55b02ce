"""A text is made into tokens as far as its vector needs, and the tokens are those of the whole text."""

import json
import random
from typing import Any

import pytest

from engine.model.tokenizer import TextTokenizer
from engine.weights.shipped import MINILM, package_folder
from tests.engine.tiny import tiny_tokenizer

PARTS = (
    *"abcdefgh,.-'  \n\t",
    *("e\u0301", " \u0301", "中", "文", "Σ", "İ", "ﬁ", "½", "😀", "\r\n", "\0", "\u00a0", "\u200b"),
    *("[MASK]", " [SEP] ", "x" * 120),
)


def real(max_tokens: int) -> TextTokenizer:
    content = (package_folder(MINILM) / "tokenizer.json").read_bytes()
    return TextTokenizer(content, vocab=30_522, max_tokens=max_tokens)


def given(tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the library is given from now on."""
    seen: list[str] = []
    make = TextTokenizer._ids

    def noting(self: TextTokenizer, texts: list[str]) -> list[list[int]]:
        seen.extend(texts)
        return make(self, texts)

    monkeypatch.setattr(TextTokenizer, "_ids", noting)
    return seen


@pytest.mark.parametrize("max_tokens", [3, 8, 40])
def test_the_tokens_are_those_of_the_whole_text(max_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(max_tokens)
    texts = ["".join(draw.choice(PARTS) for _ in range(draw.randrange(900))) for _ in range(1000)]
    found = real(max_tokens).encode(texts)
    monkeypatch.setattr("engine.model.tokenizer.CHARACTERS_A_TOKEN", 10**6)
    assert found == real(max_tokens).encode(texts)


def test_no_more_is_read_than_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = real(256)
    seen = given(tokenizer, monkeypatch)
    assert tokenizer.encode(["price of oil " * 100_000])[0].truncated
    assert [len(text) < 3000 for text in seen] == [True]


def test_a_text_of_few_tokens_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = real(256)
    seen = given(tokenizer, monkeypatch)
    text = "oil" + " " * 50_000 + "wheat"
    found = tokenizer.encode([text, "x" * 50_000, "short"])
    assert [len(tokens.ids) for tokens in found] == [4, 3, 3]
    assert not any(tokens.truncated for tokens in found)
    assert [len(part) for part in seen][1:] == [50_000, 5, len(text)]


@pytest.mark.parametrize(
    "change",
    [
        {"pre_tokenizer": {"type": "Metaspace", "replacement": "_", "prepend_scheme": "always"}},
        {"normalizer": {"type": "Replace", "pattern": {"String": "a b"}, "content": "c"}},
        {"added_tokens": [{"id": 100, "content": "oil price"}]},
        {"added_tokens": [{"id": 100, "content": "oils", "lstrip": True}]},
    ],
)
def test_where_a_blank_is_no_border_the_whole_text_is_read(
    change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = json.loads(tiny_tokenizer())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    added = [{**flags, **token} for token in change.get("added_tokens", [])]
    changed = {**content, **change, "added_tokens": added}
    tokenizer = TextTokenizer(json.dumps(changed).encode(), vocab=100 + len(added), max_tokens=8)
    seen = given(tokenizer, monkeypatch)
    tokenizer.encode(["oil " * 1000])
    assert [len(text) for text in seen] == [4000]
