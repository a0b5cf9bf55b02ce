"""Training text for distillation: token ids of many texts, and batches of equal length in an order fixed by a seed.

A batch holds texts of one length, so nothing is padded. Some batches join several texts into longer ones, because
collections of sentences hold too few long texts. The order of all batches is a function of seed and epoch alone, so a
run resumes at any step without stored generator states.

Shape letters: N texts, B texts of a batch, L tokens of each.
"""

import gzip
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine.errors import OptionError
from engine.tokenizer import TextTokenizer

READ_TEXTS = 20_000
MIN_BATCH = 4
"""Batches of fewer texts are left out: a pairwise loss needs pairs."""

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


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts of equal length.

    Attributes:
        ids_BL: token ids.
        texts_B: number of each text in the corpus; None when texts were joined.
    """

    ids_BL: Ints
    texts_B: Ints | None


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
        texts = [line for line, _ in zip(lines, range(room), strict=False)]
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
            with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
                table = ".tsv" in path.suffixes
                for line in file:
                    text = line.rstrip("\r\n")
                    if table:
                        text = text.rsplit("\t", 1)[-1]
                    if text:
                        yield text
        except (OSError, UnicodeDecodeError, EOFError) as error:
            raise OptionError(f"The text file {path} cannot be read: {error}.") from error


def batches(
    corpus: Corpus, members: Ints, *, tokens: int, joined_frac: float, longest: int, seed: int, epoch: int
) -> list[tuple[str, Ints]]:
    """All batches of one epoch as (kind, texts): kind "plain", or "joined" for texts that will be joined.

    Args:
        corpus: the texts.
        members: numbers of the texts to use.
        tokens: tokens of a batch, about.
        joined_frac: share of the texts that are also used in joined batches, 0 to 1.
        longest: tokens of a joined text at most.
        seed: fixes the order, with the epoch.
        epoch: number of the epoch.
    """
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(members)
    plain = order[np.argsort(corpus.lengths[order], kind="stable")]
    result: list[tuple[str, Ints]] = []
    edges = np.flatnonzero(np.diff(corpus.lengths[plain])) + 1
    for same in np.split(plain, edges):
        size = max(MIN_BATCH, tokens // int(corpus.lengths[same[0]]))
        result += [("plain", same[i : i + size]) for i in range(0, len(same), size) if len(same) - i >= MIN_BATCH]
    loose = generator.permutation(order)[: int(len(order) * joined_frac)]
    place = 0
    while place < len(loose):
        length = int(generator.integers(32, longest + 1))
        need = tokens * 2 // max(16, int(corpus.lengths.mean()))  # about twice what fills the batch: some is cut off
        result.append((f"joined {length}", loose[place : place + need]))
        place += need
    return [result[i] for i in generator.permutation(len(result))]


def gather(corpus: Corpus, kind: str, texts: Ints) -> Batch | None:
    """Token ids of one batch; None when the texts are too few to join."""
    if kind == "plain":
        return Batch(np.stack([corpus.text(number) for number in texts]).astype(np.int64), texts)
    length = int(kind.split()[1])
    rows: list[Ints] = []
    row: list[int] = []
    for number in texts:
        ids = corpus.text(int(number))
        first, last = int(ids[0]), int(ids[-1])
        row = [*(row or [first]), *ids[1:-1].tolist()]
        if len(row) >= length - 1:
            rows.append(np.array([*row[: length - 1], last], np.int64))
            row = []
    return Batch(np.stack(rows), None) if len(rows) >= MIN_BATCH else None
