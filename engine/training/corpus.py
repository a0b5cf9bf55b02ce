"""Training text for distillation: token ids of many texts, and batches of a few lengths in an order fixed by a seed.

A batch holds groups of texts of one length, so nothing is padded. The order of all batches is a function of seed and
epoch alone, so a run resumes at any step without stored generator states.

Shape letters: N texts, B texts of a batch, L tokens of each.
"""

import gzip
import itertools
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine.errors import OptionError
from engine.model.tokenizer import TextTokenizer

READ_TEXTS = 20_000
MIN_BATCH = 4
"""Batches of fewer texts are left out: a pairwise loss needs pairs."""
GROUPS = 8
"""Groups of a batch, about, each of texts of one length. Gradients of one length pull every step another
way; attention and oneDNN work best on few lengths."""
JOINED_LENGTHS = (32, 48, 64, 96, 128, 192, 256)
"""Few lengths, so that joined texts of one length fill whole groups."""

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Corpus:
    """Token ids of N texts.

    Attributes:
        ids: all token ids, text after text, [CLS] and [SEP] included.
        offsets: [N + 1] where each text starts.
    """

    ids: npt.NDArray[np.int32]
    offsets: Ints

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Ints:
        """[N] tokens of each text."""
        return np.diff(self.offsets)

    def text(self, number: int) -> npt.NDArray[np.int32]:
        """Token ids of one text."""
        return self.ids[self.offsets[number] : self.offsets[number + 1]]


def read_corpus(paths: Sequence[Path], tokenizer: TextTokenizer, *, limit: int | None = None) -> Corpus:
    """Texts of files, one per line; of a .tsv line, the last column. Files that end in .gz are unpacked.

    Args:
        paths: the files.
        tokenizer: cuts texts to its limit.
        limit: texts to read at most.

    Raises:
        OptionError: a file cannot be read, or there is no text.
    """
    pieces: list[npt.NDArray[np.int32]] = []
    lengths: list[int] = []
    lines = _lines(paths)
    while limit is None or len(lengths) < limit:
        room = READ_TEXTS if limit is None else min(READ_TEXTS, limit - len(lengths))
        texts = list(itertools.islice(lines, room))
        if not texts:
            break
        tokens = [encoded.ids for encoded in tokenizer.encode(texts)]
        pieces.append(np.concatenate([np.array(ids, np.int32) for ids in tokens]))
        lengths += [len(ids) for ids in tokens]
    if not lengths:
        raise OptionError(f"There is no text in {', '.join(str(path) for path in paths) or 'no file'}.")
    return Corpus(np.concatenate(pieces), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


def _lines(paths: Sequence[Path]) -> Iterator[str]:
    for path in paths:
        try:
            with (
                gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file
            ):
                table = ".tsv" in path.suffixes
                for line in file:
                    text = line.rstrip("\r\n")
                    if table:
                        text = text.rsplit("\t", 1)[-1]
                    if text:
                        yield text
        except (OSError, UnicodeDecodeError, EOFError, zlib.error) as error:
            raise OptionError(f"The text file {path} cannot be read: {error}.") from error


def with_joined(corpus: Corpus, frac: float, *, longest: int, seed: int) -> Corpus:
    """The texts, and behind them longer ones made by joining some: collections of sentences hold too few long texts.

    Args:
        corpus: the texts.
        frac: tokens of the joined texts as a share of the corpus's tokens, 0 to 1.
        longest: tokens of a joined text at most.
        seed: fixes which texts are joined.
    """
    generator = np.random.default_rng(seed)
    lengths = [length for length in JOINED_LENGTHS if length <= longest]
    room = int(len(corpus.ids) * frac) if lengths else 0
    pieces: list[npt.NDArray[np.int32]] = []
    row: list[int] = []
    length = int(generator.choice(lengths)) if lengths else 0
    for number in generator.permutation(len(corpus)):
        if room <= 0:
            break
        ids = corpus.text(int(number))
        row = [*(row or [int(ids[0])]), *ids[1:-1].tolist()]
        if len(row) >= length - 1:
            pieces.append(np.array([*row[: length - 1], int(ids[-1])], np.int32))
            room -= length
            length, row = int(generator.choice(lengths)), []
    sizes = np.concatenate([corpus.lengths, np.array([len(piece) for piece in pieces], np.int64)])
    return Corpus(np.concatenate([corpus.ids, *pieces]), np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))


def batches(corpus: Corpus, members: Ints, *, tokens: int, seed: int, epoch: int) -> list[Ints]:
    """All batches of one epoch, each the numbers of its texts, from the shortest to the longest.

    Args:
        corpus: the texts.
        members: numbers of the texts to use.
        tokens: tokens of a batch at most, but for one of `MIN_BATCH` texts.
        seed: fixes the order, with the epoch.
        epoch: number of the epoch.
    """
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(members)
    lengths = corpus.lengths
    order = order[np.argsort(lengths[order], kind="stable")]
    groups: list[Ints] = []
    for same in np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1):
        size = max(1, tokens // GROUPS // int(lengths[same[0]]))
        groups += [same[i : i + size] for i in range(0, len(same), size)]
    result: list[Ints] = []
    batch: list[Ints] = []
    texts = room = 0
    for number in generator.permutation(len(groups)):
        group = groups[number]
        taken = len(group) * int(lengths[group[0]])
        if taken > room and texts >= MIN_BATCH:
            result.append(np.concatenate(batch))
            batch, texts = [], 0
        if not texts:
            room = tokens
        batch.append(group)
        texts, room = texts + len(group), room - taken
    if texts >= MIN_BATCH:
        result.append(np.concatenate(batch))
    return [texts[np.argsort(lengths[texts], kind="stable")] for texts in result]
