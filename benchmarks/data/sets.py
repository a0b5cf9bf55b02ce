"""Labelled text sets as a pool to pick from and a test part to score on, with vectors.

There are two families. *Reported* sets are the ones figures are published for. *Development* sets are what `value` was
worked out on; none of their texts stands in a reported set: other halves of subj, SST-2 and 20 newsgroups, and four
that are reported nowhere. Any other folder of `weak/` in WRENCH's format is a set too, by its name.

Shape letters: N pool items, M test items, D embedding, C classes, L labeling functions.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.data.files import Row, label_lines, sample, tab_lines, vectors
from benchmarks.data.wrench import read_split

POOL, TEST = 2000, 1000
RARE = 20
SOURCES = ("multi30k", "imdb_cosine_chunks20", "yelp_cosine", "ud_en", "clinc_train", "clinc_wiki", "stsb_train")

Sides = tuple[list[Row], list[Row]]
"""Rows of the pool and of the test part."""
Reader = Callable[[Path], Sides]
"""Reads a set from a data folder."""


class NoSet(ValueError):
    """A set is not in the data folder, or has rows without a text or a label."""


@dataclass(frozen=True, slots=True)
class TextSet:
    """One set with vectors.

    Attributes:
        classes: C names, sorted.
        vectors: [N, D] of the pool.
        texts: [N] of the pool.
        labels: [N] class ids of the pool.
        votes: [N, L] of the pool, -1 abstains; L is 0 where there are no functions.
        test_vectors: [M, D].
        test_labels: [M].
    """

    name: str
    classes: tuple[str, ...]
    vectors: npt.NDArray[np.float32]
    texts: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    votes: npt.NDArray[np.int64]
    test_vectors: npt.NDArray[np.float32]
    test_labels: npt.NDArray[np.int64]

    def content(self) -> str:
        """Hash of all that a run is made of: a set of the same name may be another one in another data folder."""
        digest = hashlib.sha256(json.dumps([self.classes, self.texts]).encode())
        for array in (self.vectors, self.labels, self.votes, self.test_vectors, self.test_labels):
            digest.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]


def reader_of(name: str, folder: Path) -> Reader:
    """What reads a set: a key of `REPORTED` or `DEVELOPMENT`, or a folder of `weak/` in WRENCH's format.

    Raises:
        NoSet: it is neither.
    """
    known = {**REPORTED, **DEVELOPMENT}
    if name in known:
        return known[name]
    place = folder / "weak" / name
    there = [split for split in ("train", "valid", "test") if (place / f"{split}.json").is_file()]
    if len(there) < 2 or there[-1] != "test":
        raise NoSet(f"{name} is none of {', '.join(known)}, and {place} has no test.json beside a train or valid.json.")
    return _wrench(name, there[0], *there[1:])


def read_set(name: str, folder: Path) -> TextSet:
    """Read a set, drawing at most 2,000 pool and 1,000 test items with a fixed seed, and embed what is not cached.

    Raises:
        NoSet: it is not there, or rows lack a text or a label.
    """
    pool, test = reader_of(name, folder)(folder)
    generator = np.random.default_rng(0)
    pool, test = _drawn(pool, POOL, generator), _drawn(test, TEST, generator)
    classes = tuple(sorted({label for _, label, _ in [*pool, *test]}))
    place = {label: number for number, label in enumerate(classes)}
    embedded = vectors([text for text, _, _ in [*pool, *test]], "int8")
    return TextSet(
        name=name,
        classes=classes,
        vectors=embedded[: len(pool)],
        texts=tuple(text for text, _, _ in pool),
        labels=np.array([place[label] for _, label, _ in pool], np.int64),
        votes=np.array([votes for _, _, votes in pool], np.int64).reshape(len(pool), -1),
        test_vectors=embedded[len(pool) :],
        test_labels=np.array([place[label] for _, label, _ in test], np.int64),
    )


def _drawn(rows: list[Row], most: int, generator: np.random.Generator) -> list[Row]:
    kept = list({text: (text, label, votes) for text, label, votes in rows}.values())
    return [kept[row] for row in np.sort(generator.permutation(len(kept))[:most])]


def _wrench(name: str, pool: str, *test: str) -> Reader:
    """The pool is one file of a folder in WRENCH's format, the test part others."""

    def rows(folder: Path, split: str) -> list[Row]:
        path = _there(folder / "weak" / name / f"{split}.json")
        try:
            found = read_split(path)
        except ValueError as error:
            raise NoSet(str(error)) from error
        if not found.texts or (found.truth < 0).any():
            raise NoSet(f"{path}: a row has no text or no label, and a selection needs both.")
        return [(t, str(c), tuple(v)) for t, c, v in zip(found.texts, found.truth, found.votes.tolist(), strict=True)]

    return lambda folder: (rows(folder, pool), [row for split in test for row in rows(folder, split)])


def _there(path: Path) -> Path:
    if not path.is_file():
        raise NoSet(f"{path} is not there, which a set that was asked for is read from.")
    return path


def _lines(name: str) -> Callable[[Path], list[Row]]:
    return lambda folder: label_lines(_there(folder / "text" / name))


def _half(rows: list[Row], half: int) -> list[Row]:
    """One of two halves, by the hash of the text, so that a text is always in the same one."""
    return [row for row in rows if hashlib.sha256(row[0].encode("utf-8")).digest()[0] & 1 == half]


def _split(rows: list[Row], test: int) -> Sides:
    order = np.random.default_rng(1).permutation(len(rows))
    return [rows[row] for row in order[test:]], [rows[row] for row in order[:test]]


def _newsgroups_development(folder: Path) -> Sides:
    return _split(_half(sample("20newsgroups")[0], 0), 1000)


def _families_development(folder: Path) -> Sides:
    pool, test = ([(t, y.split(".")[0], v) for t, y, v in rows] for rows in _newsgroups_development(folder))
    return pool, test


def _r52_development(folder: Path) -> Sides:
    """The topics of R52 that R8 does not have and that have 20 texts or more; no text of it stands in R8."""
    r8 = {label for _, label, _ in sample("reuters-r8")[0]}
    rows = [row for side in sample("reuters-r52") for row in side if row[1] not in r8]
    labels = [label for _, label, _ in rows]
    return _split([row for row in rows if labels.count(row[1]) >= RARE], 400)


def _sources_development(folder: Path) -> Sides:
    """Unlabelled sentences; the class is the collection that a sentence comes from, as frequent as it is there."""
    lines = tab_lines(_there(folder / "unlabelled" / "sentences.tsv.gz"))
    rows: list[Row] = [(text, source, ()) for source, text in lines if source in SOURCES]
    kept = [rows[n] for n in np.random.default_rng(2).permutation(len(rows))[: POOL + 1000]]
    return kept[1000:], kept[:1000]


_subj, _custrev, _sst2 = (_lines(name) for name in ("subj.all", "custrev.all", "stsa.binary.train"))
REPORTED: Mapping[str, Reader] = {
    "trec": _wrench("trec", "train", "valid", "test"),
    "agnews": _wrench("agnews", "valid", "test"),
    "subj": lambda folder: _split(_half(_subj(folder), 1), TEST),
    "custrev": lambda folder: _split(_custrev(folder), 1275),
    "sst2": lambda folder: (_half(_sst2(folder), 1), _lines("stsa.binary.dev")(folder)),
    "r8": lambda folder: sample("reuters-r8"),
    "20news": lambda folder: (_half(sample("20newsgroups")[0], 1), sample("20newsgroups")[1]),
}
DEVELOPMENT: Mapping[str, Reader] = {
    "subj-a": lambda folder: _split(_half(_subj(folder), 0), TEST),
    "sst2-a": lambda folder: _split(_half(_sst2(folder), 0), 1000),
    "20news-a": _newsgroups_development,
    "families-a": _families_development,
    "r52-rest": _r52_development,
    "youtube": _wrench("youtube", "train", "valid", "test"),
    "sms": _wrench("sms", "train", "valid", "test"),
    "sources": _sources_development,
}
