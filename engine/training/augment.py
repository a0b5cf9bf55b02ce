"""Training text that nobody wrote: parts of texts, joined, with words replaced, torn apart or in another order.

The parent gives a vector to any row of tokens, so such text needs no label. It holds what collections of clean
sentences lack: rare words, misspelt ones (which the tokenizer tears apart just so), and words in company that they
never have.

Shape letters: L tokens of a text.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from engine.training.corpus import Corpus, Ints

LONGEST = 128
"""Tokens of an added text at most."""
TWO_PARTS_FRAC = 0.4
"""Of the texts, those that are the beginning of one and the end of another; the others are a part of one."""
REPLACED = (0.0, 0.1, 0.3)
TORN = (0.0, 0.0, 0.1, 0.3)
"""Shares of a text's words that are replaced, and torn apart: one of these for each text."""
SHUFFLED_FRAC = 0.2


@dataclass(frozen=True, slots=True)
class Pieces:
    """Word pieces of a vocabulary.

    Attributes:
        ids: [V] all that stand for text.
        halves: id of a piece -> pairs of ids that spell the same.
    """

    ids: Ints
    halves: Mapping[int, Ints]


def word_pieces(tokenizer: bytes) -> Pieces:
    """The pieces of a tokenizer.

    Args:
        tokenizer: content of its tokenizer.json, which was read before.
    """
    known = Tokenizer.from_str(tokenizer.decode("utf-8"))
    vocabulary = known.get_vocab(with_added_tokens=True)
    prefix = str(json.loads(tokenizer)["model"].get("continuing_subword_prefix") or "")
    special = {number for number, token in known.get_added_tokens_decoder().items() if token.special}
    halves: dict[int, Ints] = {}
    ids: list[int] = []
    for piece, number in sorted(vocabulary.items()):
        is_marked = piece.startswith("[") and piece.endswith("]") and len(piece) > 2  # [CLS], [unused5]
        if is_marked or number in special:
            continue
        ids.append(number)
        head, word = (prefix, piece[len(prefix) :]) if piece.startswith(prefix) else ("", piece)
        pairs = ((head + word[:place], prefix + word[place:]) for place in range(1, len(word)))
        found = [[vocabulary[pair[0]], vocabulary[pair[1]]] for pair in pairs if all(p in vocabulary for p in pair)]
        if found:
            halves[number] = np.array(found, np.int64)
    return Pieces(np.array(sorted(ids), np.int64), halves)


def with_noise(corpus: Corpus, frac: float, pieces: Pieces, *, longest: int = LONGEST, seed: int) -> Corpus:
    """The texts, and behind them such as nobody wrote.

    Args:
        corpus: the texts.
        frac: tokens of the added texts as a share of the corpus's tokens.
        pieces: of its tokenizer.
        longest: tokens of an added text at most.
        seed: fixes what is added.
    """
    generator = np.random.default_rng([seed, 7])
    room = int(len(corpus.ids) * frac) if int(corpus.lengths.max()) > 2 else 0
    added: list[Ints] = []
    while room > 0:
        text = corpus.text(int(generator.integers(len(corpus)))).astype(np.int64)
        words_L = _part(corpus, text[1:-1], generator)
        replaced = generator.random(len(words_L)) < generator.choice(REPLACED)
        words_L[replaced] = generator.choice(pieces.ids, int(replaced.sum()))
        if generator.random() < SHUFFLED_FRAC:
            generator.shuffle(words_L)
        words_L = _torn(words_L, pieces, generator.choice(TORN), generator)[: longest - 2]
        if len(words_L):
            added.append(np.concatenate([text[:1], words_L, text[-1:]]))
            room -= len(added[-1])
    sizes = np.concatenate([corpus.lengths, np.array([len(text) for text in added], np.int64)])
    ids = np.concatenate([corpus.ids, *(text.astype(np.int32) for text in added)])
    return Corpus(ids, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))


def _part(corpus: Corpus, words_L: Ints, generator: np.random.Generator) -> Ints:
    """A part of a text, or its beginning and the end of another."""
    if generator.random() < TWO_PARTS_FRAC:
        other_L = corpus.text(int(generator.integers(len(corpus))))[1:-1].astype(np.int64)
        cut, other_cut = generator.integers(len(words_L) + 1), generator.integers(len(other_L) + 1)
        return np.concatenate([words_L[:cut], other_L[other_cut:]])
    first = int(generator.integers(len(words_L) // 2 + 1))
    return words_L[first : first + 1 + int(generator.integers(max(1, len(words_L))))]


def _torn(words_L: Ints, pieces: Pieces, frac: float, generator: np.random.Generator) -> Ints:
    """The text with some pieces in halves."""
    if not frac:
        return words_L
    row: list[int] = []
    for number, hit in zip(words_L.tolist(), generator.random(len(words_L)) < frac, strict=True):
        halves = pieces.halves.get(number) if hit else None
        row += [number] if halves is None else halves[int(generator.integers(len(halves)))].tolist()
    return np.array(row, np.int64)
