"""Label models on labeling functions that nobody tuned them on, drawn by chance from real texts with their labels.

    python -m benchmarks.drawn_functions [--data DIR] [--sets trec,r8] [--draws 20] [--first 100]
        [--output docs/benchmarks/drawn.json]

A draw looks at 60, 120 or 250 texts and their labels, as a person does who writes functions, and makes 4 to 100 of
them: lists of one to six words that stand mostly in texts of one class there, and voters for several classes (naive
Bayes, learned from 15 to 44 of these texts, silent where it is not sure). A function that is bad on the texts looked at
is dropped, as a person would. What a label model then says of all other texts is compared with their labels. A quarter
of the draws on two classes keep one text of the rarer class for nine of the other. `--first` is the first seed; the
rule of `auto` was chosen on seeds below 100, so figures begin with 100.

Shape letters: N texts, L functions, W words, C classes.
"""

import itertools
import logging
import re
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
from scipy.sparse import csr_matrix

from benchmarks.data.files import data_folder
from benchmarks.data.sets import NoSet, reader_of
from benchmarks.harness import Figures, command, environment
from benchmarks.pages import keep, render
from weak_labels.label_models import LabelModelConfig, fit
from weak_labels.label_models.votes import Ints, Probs

SETS = ("youtube", "sms", "trec", "agnews", "subj", "custrev", "sst2", "r8")
KINDS = ("majority", "auto", "anchored", "snorkel", "dawid_skene")
MOST_TEXTS = 5000
MARGIN = 0.01
"""Accuracy by which a model has to be above or below the majority to be counted as such."""
UNSEEN_FROM = 100
"""The first seed on which no rule was chosen."""
FEWEST = 3
"""Functions of a draw; one with fewer is left out, since all models but one become the majority there."""
_WORD = re.compile(r"[a-z0-9']+|[?!]")

Generator = np.random.Generator


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """One set: which words and pairs of words stand in each text [N, W], true classes [N], number of classes C."""

    words: csr_matrix
    truth: Ints
    classes: int

    def take(self, rows: Ints) -> "Texts":
        """Some of the texts."""
        return Texts(csr_matrix(self.words[rows]), self.truth[rows], self.classes)


def _read_texts(name: str, folder: Path) -> Texts:
    """Read a set; words that stand in fewer than four texts are left out."""
    rows = reader_of(name, folder)(folder)[0]
    rows = [rows[place] for place in np.random.default_rng(0).permutation(len(rows))[:MOST_TEXTS]]
    names = sorted({label for _, label, _ in rows})
    found = [_words(text) for text, _, _ in rows]
    often = Counter(word for words in found for word in words)
    column = {word: place for place, word in enumerate(sorted(w for w, texts in often.items() if texts >= 4))}
    known = [[column[word] for word in sorted(words & column.keys())] for words in found]
    ends = np.cumsum([0, *map(len, known)])
    matrix = csr_matrix((np.ones(ends[-1]), np.concatenate(known), ends), shape=(len(rows), len(column)))
    return Texts(matrix, np.array([names.index(label) for _, label, _ in rows]), len(names))


def _words(text: str) -> set[str]:
    words = _WORD.findall(text.lower())
    return {*words, *(f"{a} {b}" for a, b in itertools.pairwise(words))}


def _draw(texts: Texts, generator: Generator) -> tuple[Ints, Ints] | None:
    """Votes [N, L] of drawn functions on the texts not looked at, -1 abstains, and their classes [N].

    None where fewer than `FEWEST` functions come out.
    """
    if texts.classes == 2 and generator.random() < 0.25:
        texts = _skewed(texts, generator)
    size = min(int(generator.choice([60, 120, 250])), len(texts.truth) // 2)  # a set of somebody's own may be small
    looked = generator.choice(len(texts.truth), size=size, replace=False)
    surest = float(generator.choice([0.4, 0.55, 0.7, 0.85]))
    match generator.choice(["words", "words", "voters", "both", "many words"]):
        case "words":
            count = int(generator.choice([4, 8, 16, 32])) * max(1, texts.classes // 3)
            votes = _keywords(texts, looked, count, surest, generator)
        case "many words":
            votes = _keywords(texts, looked, 100, surest, generator)
        case "voters":
            votes = _voters(texts, looked, int(generator.choice([3, 5, 8, 12])), generator)
        case _:
            votes = _keywords(texts, looked, int(generator.choice([6, 15])), surest, generator)
            votes += _voters(texts, looked, int(generator.choice([1, 2, 4])), generator)
    kept = [vote_N for vote_N in votes if _passes(vote_N[looked], texts.truth[looked], texts.classes)]
    if len(kept) < FEWEST:
        return None
    others = np.setdiff1d(np.arange(len(texts.truth)), looked)
    return np.stack(kept, axis=1)[others], texts.truth[others]


def _skewed(texts: Texts, generator: Generator) -> Texts:
    """One text of a class for nine of the other, or all of that class where there are too few."""
    common = int(generator.random() < 0.5)
    many, few = (np.flatnonzero(texts.truth == side) for side in (common, 1 - common))
    few = generator.choice(few, size=min(len(few), max(30, len(many) // 9)), replace=False)
    return texts.take(np.sort(np.concatenate([many, few])))


def _keywords(texts: Texts, looked: Ints, count: int, surest: float, generator: Generator) -> list[Ints]:
    """Functions for one class each, of words of which at least a share `surest` stands in texts of that class."""
    hits_CW = _hits(seen := texts.take(looked))
    share_C = np.bincount(seen.truth, minlength=texts.classes) / len(looked)
    precision_CW = (hits_CW + share_C[:, None]) / (hits_CW.sum(axis=0) + 1)
    least_C = np.maximum(surest, np.minimum(0.95, 1.3 * share_C))
    good_CW = (hits_CW.sum(axis=0) >= 2) & (precision_CW >= least_C[:, None])
    votes: list[Ints] = []
    for _ in range(50 * count):
        if len(votes) == count:
            break
        class_id = int(generator.integers(texts.classes))
        words = np.flatnonzero(good_CW[class_id])
        if not len(words):
            continue
        chosen = generator.choice(words, size=min(len(words), int(generator.integers(1, 7))), replace=False)
        hit_N = np.asarray(texts.words[:, chosen].sum(axis=1)).reshape(-1) > 0
        if hit_N.sum() >= 8:
            votes.append(np.where(hit_N, class_id, -1))
    return votes


def _voters(texts: Texts, looked: Ints, count: int, generator: Generator) -> list[Ints]:
    """Functions for all classes: naive Bayes on a few texts and some of the words, its log-odds shrunk to a fifth."""
    width = int(np.shape(texts.words)[1])
    votes: list[Ints] = []
    for _ in range(4 * count):
        if len(votes) == count:
            break
        size = min(len(looked), int(generator.integers(15, 45)))
        few = texts.take(generator.choice(looked, size=size, replace=False))
        known = max(50, int(width * generator.choice([0.05, 0.2, 1.0])))
        columns = generator.choice(width, size=min(known, width), replace=False)
        silent = float(generator.choice([0.34, 0.6, 0.8, 0.95]))
        number_C = np.bincount(few.truth, minlength=texts.classes)
        odds_CW = np.log((_hits(few)[:, columns] + 0.3) / (number_C[:, None] + 0.6))
        score_NC = texts.words[:, columns] @ odds_CW.T / 5 + np.log((number_C + 0.1) / size)
        probs_NC = np.exp(score_NC - score_NC.max(axis=1, keepdims=True))
        probs_NC /= probs_NC.sum(axis=1, keepdims=True)
        vote_N = np.where(probs_NC.max(axis=1) >= silent, probs_NC.argmax(axis=1), -1)
        if (vote_N >= 0).sum() >= 20:
            votes.append(vote_N)
    return votes


def _hits(texts: Texts) -> np.ndarray:
    """In how many texts of each class each word stands [C, W]."""
    return np.stack([np.asarray(texts.words[texts.truth == c].sum(axis=0)).reshape(-1) for c in range(texts.classes)])


def _passes(vote_N: Ints, truth_N: Ints, classes: int) -> bool:
    """Whether a person would keep a function that does this on the texts looked at."""
    cast_N = vote_N >= 0
    return int(cast_N.sum()) >= 3 and float((vote_N == truth_N)[cast_N].mean()) >= (0.55 if classes == 2 else 0.45)


def _accuracy(probs_NC: Probs, truth_N: Ints) -> float:
    """Share of right answers; of classes that are equally probable each is taken equally often."""
    top_NC = np.isclose(probs_NC, probs_NC.max(axis=1, keepdims=True), rtol=1e-9)
    return float((top_NC[np.arange(len(truth_N)), truth_N] / top_NC.sum(axis=1)).mean())


def _measure(name: str, texts: Texts, seed: int) -> Figures | None:
    """One draw: functions, share of covered texts, accuracy of each model on the covered ones."""
    number = SETS.index(name) if name in SETS else crc32(name.encode())
    drawn = _draw(texts, np.random.default_rng([seed, number]))
    if drawn is None:
        return None
    votes, truth = drawn
    covered = (votes >= 0).any(axis=1)
    row: Figures = {"set": name, "seed": seed, "functions": votes.shape[1], "covered": round(float(covered.mean()), 4)}
    for kind in KINDS:
        fitted = fit(votes, LabelModelConfig(kind=kind, classes=tuple(map(str, range(texts.classes)))))
        row[kind] = round(_accuracy(fitted.probs[covered], truth[covered]), 4)
        if kind == "auto":
            row["taken"] = fitted.kind
    return row


def pages(figures: Figures) -> dict[str, str]:
    """docs/benchmarks/drawn.md: each model beside the majority, over all draws and by set."""

    def against_majority(rows: list[Figures]) -> dict[str, tuple[float, ...]]:
        found: dict[str, tuple[float, ...]] = {}
        for kind in KINDS:
            lead = np.array([row[kind] - row["majority"] for row in rows])
            counts = int((lead < -MARGIN).sum()), int((lead > MARGIN).sum())
            found[kind] = float(np.mean([row[kind] for row in rows])), float(lead.mean()), *counts, float(lead.min())
        return found

    rows = figures["draws"]
    names = list(dict.fromkeys(row["set"] for row in rows))
    sets = {name: against_majority([row for row in rows if row["set"] == name]) for name in names}
    more = {"models": against_majority(rows), "sets": sets, "margin": MARGIN, "unseen_from": UNSEEN_FROM}
    return {".md": render("drawn.md.j2", figures, **more)}


def main() -> None:
    """Measure, print the page, write where asked."""
    parser = command(__doc__, data=True)
    parser.add_argument("--sets", default=",".join(SETS), help="with commas, also folders of weak/")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--first", type=int, default=UNSEEN_FROM)
    given = parser.parse_args()
    warnings.filterwarnings("ignore", module="snorkel")
    logging.getLogger("snorkel").setLevel(logging.ERROR)
    try:
        folder = data_folder(given.data, "weak", "text")
        sets = {name: _read_texts(name, folder) for name in given.sets.split(",")}
    except (FileNotFoundError, NoSet) as error:
        parser.exit(1, f"{error}\n")
    rows: list[Figures] = []
    for name, texts in sets.items():
        found = (_measure(name, texts, seed) for seed in range(given.first, given.first + given.draws))
        rows += [row for row in found if row]
    if not rows:
        parser.exit(1, f"No draw gave {FEWEST} functions. More --draws, or sets of more texts, may.\n")
    figures = {"first": given.first, "seeds": given.draws, "draws": rows, "environment": environment()}
    print(pages(figures)[".md"])
    keep(figures, given.output, pages)


if __name__ == "__main__":
    main()
