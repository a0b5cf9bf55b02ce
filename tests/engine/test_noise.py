"""Training text that nobody wrote: of the words that there are, in the amount asked for, fixed by its seed."""

from collections import Counter

import numpy as np
import pytest
from tokenizers import Tokenizer

from engine.training.augment import LONGEST, with_noise, word_pieces
from engine.training.corpus import Corpus
from engine.weights.shipped import read_minilm

START, END = 101, 102


@pytest.fixture(scope="module")
def tokenizer() -> bytes:
    return read_minilm().tokenizer


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    """Texts of 3 to 20 of the tokenizer's first words, each text with its own."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(3, 21, 400)
    texts = [np.array([START, *generator.integers(1996, 9000, length), END]) for length in lengths]
    sizes = [len(text) for text in texts]
    return Corpus(np.concatenate(texts).astype(np.int32), np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))


def test_halves_spell_what_the_whole_does(tokenizer: bytes) -> None:
    known = Tokenizer.from_str(tokenizer.decode())
    pieces = word_pieces(tokenizer)
    words = {number: word for word, number in known.get_vocab().items()}
    assert "guitar" in {words[number] for number in pieces.halves}
    for number, halves in pieces.halves.items():
        for first, second in halves.tolist():
            assert words[first] + words[second].removeprefix("##") == words[number]
            assert words[second].startswith("##")
    special = {words[number] for number in set(words) - set(pieces.ids.tolist())}
    assert {"[CLS]", "[SEP]", "[PAD]", "[unused5]"} <= special
    assert all(word.startswith("[") for word in special)


def test_added_texts_are_made_of_those_there_are(corpus: Corpus, tokenizer: bytes) -> None:
    pieces = word_pieces(tokenizer)
    noisy = with_noise(corpus, 0.5, pieces, seed=0)
    assert np.array_equal(noisy.ids[: len(corpus.ids)], corpus.ids)
    assert np.array_equal(noisy.offsets[: len(corpus) + 1], corpus.offsets)
    added = [noisy.text(number).tolist() for number in range(len(corpus), len(noisy))]
    tokens = sum(map(len, added))
    assert len(corpus.ids) // 2 <= tokens < 0.5 * len(corpus.ids) + LONGEST
    known = set(corpus.ids.tolist())
    halves = {half for pairs in pieces.halves.values() for half in pairs.flatten().tolist()}
    kinds = Counter[str]()
    originals = {tuple(corpus.text(number).tolist()) for number in range(len(corpus))}
    for text in added:
        assert (text[0], text[-1]) == (START, END)
        assert 3 <= len(text) <= LONGEST
        assert not {START, END} & set(text[1:-1])
        kinds["written"] += tuple(text) in originals
        kinds["new words"] += any(word not in known for word in text)
        kinds["only known words"] += all(word in known for word in text)
        kinds["torn"] += any(word not in known and word in halves for word in text)
    assert kinds["written"] < 0.1 * len(added)
    assert min(kinds["new words"], kinds["only known words"], kinds["torn"]) > 0.1 * len(added)


def test_noise_is_fixed_by_its_seed(corpus: Corpus, tokenizer: bytes) -> None:
    first, again, other = (with_noise(corpus, 0.2, word_pieces(tokenizer), seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first.ids, again.ids)
    assert not np.array_equal(first.ids, other.ids)


@pytest.mark.parametrize("frac", [0.0, 0.5])
def test_nothing_is_made_of_nothing(tokenizer: bytes, frac: float) -> None:
    empty = Corpus(np.array([START, END, START, END], np.int32), np.array([0, 2, 4]))
    assert np.array_equal(with_noise(empty, frac, word_pieces(tokenizer), seed=0).ids, empty.ids)
