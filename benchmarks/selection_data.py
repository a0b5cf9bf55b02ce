"""What the benchmark of the selection reads: labelled text sets as a pool to pick from and a test part to score on.

There are two families. *Reported* sets are the ones figures are published for. *Development* sets are what `value` was
worked out on; none of their texts stands in a reported set: other halves of subj, SST-2 and 20 newsgroups, and four
that are reported nowhere. Any other folder of `weak/` in WRENCH's format is a set too, by its name. Vectors are those
of the frozen dense parent with int8 weights at 128 tokens, computed once and kept in `.cache/`.

Shape letters: N pool items, M test items, D embedding, C classes, L labeling functions.
"""

import csv
import gzip
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".cache" / "selection"
VARIABLE = "SIFTLINE_DATA"
POOL = 2000
TEST = 1000
MAX_TOKENS = 128
PRECISION = "int8"
RARE = 20
SOURCES = ("multi30k", "imdb_cosine_chunks20", "yelp_cosine", "ud_en", "clinc_train", "clinc_wiki", "stsb_train")

Row = tuple[str, str, tuple[int, ...]]
"""Text, label, and the votes of labeling functions, if there are any."""


class NoSet(ValueError):
    """A set is not in the data folder, or has rows without a text or a label."""


@dataclass(frozen=True, slots=True)
class TextSet:
    """One set with vectors.

    Attributes:
        name: of the set.
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


def data_folder(given: Path | None) -> Path:
    """The folder that was asked for, else SIFTLINE_DATA, else shared/data beside the repository.

    Raises:
        FileNotFoundError: it holds neither `weak` nor `text`.
    """
    folder = given or Path(os.environ.get(VARIABLE) or ROOT.parent / "shared" / "data")
    if not (folder / "weak").is_dir() and not (folder / "text").is_dir():
        raise FileNotFoundError(
            f"{folder} holds neither weak nor text. Give the data folder with --data DIR or in {VARIABLE}."
        )
    return folder


def reader_of(name: str, folder: Path) -> Callable[[Path], tuple[list[Row], list[Row]]]:
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
    return _wrench((name, (there[0],)), (name, tuple(there[1:])))


def read_set(name: str, folder: Path) -> TextSet:
    """Read a set, drawing at most 2,000 pool and 1,000 test items with a fixed seed, and embed what is not cached.

    Args:
        name: of `reader_of`.
        folder: of `data_folder`.

    Raises:
        NoSet: it is not there, or rows lack a text or a label.
    """
    pool, test = reader_of(name, folder)(folder)
    generator = np.random.default_rng(0)
    pool, test = _drawn(pool, POOL, generator), _drawn(test, TEST, generator)
    classes = tuple(sorted({label for _, label, _ in [*pool, *test]}))
    place = {label: number for number, label in enumerate(classes)}
    vectors = _vectors([text for text, _, _ in [*pool, *test]])
    return TextSet(
        name=name,
        classes=classes,
        vectors=vectors[: len(pool)],
        texts=tuple(text for text, _, _ in pool),
        labels=np.array([place[label] for _, label, _ in pool], np.int64),
        votes=np.array([votes for _, _, votes in pool], np.int64).reshape(len(pool), -1),
        test_vectors=vectors[len(pool) :],
        test_labels=np.array([place[label] for _, label, _ in test], np.int64),
    )


def _drawn(rows: list[Row], most: int, generator: np.random.Generator) -> list[Row]:
    kept = list({text: (text, label, votes) for text, label, votes in rows}.values())
    chosen = np.sort(generator.permutation(len(kept))[:most])
    return [kept[row] for row in chosen]


def _vectors(texts: list[str]) -> npt.NDArray[np.float32]:
    from engine.load import load_encoder  # torch takes a second to import; cached sets need none

    digest = hashlib.sha256(json.dumps([PRECISION, MAX_TOKENS, *texts]).encode()).hexdigest()[:16]
    file = CACHE / f"{digest}.npy"
    if file.is_file():
        return np.load(file, allow_pickle=False)
    encoder = load_encoder("dense", max_tokens=MAX_TOKENS, precision=PRECISION)
    vectors = encoder.encode(texts)
    CACHE.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".part.npy")
    np.save(temporary, vectors, allow_pickle=False)
    temporary.replace(file)
    return vectors


def _wrench(*parts: tuple[str, tuple[str, ...]]) -> Callable[[Path], tuple[list[Row], list[Row]]]:
    def read(folder: Path) -> tuple[list[Row], list[Row]]:
        sides: list[list[Row]] = []
        for name, splits in parts:
            rows: list[Row] = []
            for split in splits:
                path = folder / "weak" / name / f"{split}.json"
                for place, row in json.loads(_there(path).read_text("utf-8")).items():
                    label, text = row.get("label"), row["data"].get("text")
                    if label in (None, -1) or not isinstance(text, str):
                        raise NoSet(f"{path}: row {place} has no text or no label, and a selection needs both.")
                    rows.append((text, str(label), tuple(row["weak_labels"])))
            sides.append(rows)
        return sides[0], sides[1]

    return read


def _there(path: Path) -> Path:
    if not path.is_file():
        raise NoSet(f"{path} is not there, which a set that was asked for is read from.")
    return path


def _lines(path: Path) -> list[Row]:
    rows = [line.partition(" ") for line in _there(path).read_text("latin-1").split("\n") if line]
    return [(text, label, ()) for label, _, text in rows]


def _halves(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """Two halves by the hash of the text, so that a text is always in the same one."""
    sides: tuple[list[Row], list[Row]] = ([], [])
    for row in rows:
        sides[hashlib.sha256(row[0].encode("utf-8")).digest()[0] & 1].append(row)
    return sides


def _split(rows: list[Row], test: int) -> tuple[list[Row], list[Row]]:
    order = np.random.default_rng(1).permutation(len(rows))
    return [rows[row] for row in order[test:]], [rows[row] for row in order[:test]]


def _subj(half: int) -> Callable[[Path], tuple[list[Row], list[Row]]]:
    return lambda folder: _split(_halves(_lines(folder / "text" / "subj.all"))[half], TEST)


def _custrev(folder: Path) -> tuple[list[Row], list[Row]]:
    return _split(_lines(folder / "text" / "custrev.all"), 1275)


def _sst2(folder: Path) -> tuple[list[Row], list[Row]]:
    return _halves(_lines(folder / "text" / "stsa.binary.train"))[1], _lines(folder / "text" / "stsa.binary.dev")


def _sst2_development(folder: Path) -> tuple[list[Row], list[Row]]:
    return _split(_halves(_lines(folder / "text" / "stsa.binary.train"))[0], 1000)


def _sample(name: str) -> tuple[list[Row], list[Row]]:
    from features.ingest.samples import get_sample

    files = get_sample(name, CACHE / name)
    gold = dict(zip(*(pq.read_table(files.gold).column(c).to_pylist() for c in ("id", "label")), strict=True))
    sides: dict[str, list[Row]] = {"train": [], "test": []}
    for row in pq.read_table(files.items).to_pylist():
        sides[row["split"]].append((row["text"], gold[row["id"]], ()))
    return sides["train"], sides["test"]


def _r8(folder: Path) -> tuple[list[Row], list[Row]]:
    return _sample("reuters-r8")


def _newsgroups(folder: Path) -> tuple[list[Row], list[Row]]:
    train, test = _sample("20newsgroups")
    return _halves(train)[1], test


def _newsgroups_development(folder: Path) -> tuple[list[Row], list[Row]]:
    return _split(_halves(_sample("20newsgroups")[0])[0], 1000)


def _families_development(folder: Path) -> tuple[list[Row], list[Row]]:
    pool, test = _newsgroups_development(folder)
    return [(t, y.split(".")[0], v) for t, y, v in pool], [(t, y.split(".")[0], v) for t, y, v in test]


def _r52_development(folder: Path) -> tuple[list[Row], list[Row]]:
    """The topics of R52 that R8 does not have and that have 20 texts or more; no text of it stands in R8."""
    r8 = {label for _, label, _ in _sample("reuters-r8")[0]}
    rows = [row for side in _sample("reuters-r52") for row in side if row[1] not in r8]
    labels = [label for _, label, _ in rows]
    return _split([row for row in rows if labels.count(row[1]) >= RARE], 400)


def _sources_development(folder: Path) -> tuple[list[Row], list[Row]]:
    """Unlabelled sentences; the class is the collection that a sentence comes from, as frequent as it is there."""
    with gzip.open(_there(folder / "unlabelled" / "sentences.tsv.gz"), "rt", encoding="utf-8", newline="") as stream:
        rows = [(r[1], r[0], ()) for r in csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE) if len(r) == 2]
    rows = [row for row in rows if row[1] in SOURCES]
    kept = [rows[n] for n in np.random.default_rng(2).permutation(len(rows))[: POOL + 1000]]
    return kept[1000:], kept[:1000]


REPORTED: Mapping[str, Callable[[Path], tuple[list[Row], list[Row]]]] = {
    "trec": _wrench(("trec", ("train",)), ("trec", ("valid", "test"))),
    "agnews": _wrench(("agnews", ("valid",)), ("agnews", ("test",))),
    "subj": _subj(1),
    "custrev": _custrev,
    "sst2": _sst2,
    "r8": _r8,
    "20news": _newsgroups,
}
DEVELOPMENT: Mapping[str, Callable[[Path], tuple[list[Row], list[Row]]]] = {
    "subj-a": _subj(0),
    "sst2-a": _sst2_development,
    "20news-a": _newsgroups_development,
    "families-a": _families_development,
    "r52-rest": _r52_development,
    "youtube": _wrench(("youtube", ("train",)), ("youtube", ("valid", "test"))),
    "sms": _wrench(("sms", ("train",)), ("sms", ("valid", "test"))),
    "sources": _sources_development,
}
