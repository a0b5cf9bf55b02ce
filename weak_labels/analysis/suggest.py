"""Candidate labeling functions from people's labels and clusters, written to a file for a person to keep or drop.

Words and cells are chosen on one half of the labelled items and measured on the other half, so that a candidate's
precision is not the precision that it was chosen for. Coverage is counted on the whole train split.
"""

import functools
import hashlib
import io
import itertools
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from warehouse import Reader, SettingsError
from warehouse.queries.reader import list_column_to_matrix
from warehouse.text import percent
from weak_labels.analysis.lf_report import wilson
from weak_labels.functions.builders import keywords
from weak_labels.functions.types import Matrix

MIN_GOLD = 20
BY_CHANCE = 0.5
"""How probable it may be at most that as many items drawn at random are right as often as a candidate is."""
CLUSTER_ITEMS = 50_000
"""Cells are learned from so many vectors at most."""
_MIN_CHARS = 3
Gold = dict[str, tuple[frozenset[str], str]]
"""Classes and text by labelled item."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SuggestConfig:
    """What is worth a person's look.

    Attributes:
        encoder_id: encoder whose vectors are clustered.
        min_precision: lowest share of right hits, on the half that chooses.
        min_hits: fewest labelled items hit in that half.
        words: most words in one keyword function.
        per_class: most word lists per class.
        cells: number of cells of the clustering.
        seed: of the clustering.
    """

    encoder_id: str
    min_precision: float = 0.8
    min_hits: int = 3
    words: int = 5
    per_class: int = 2
    cells: int = 40
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.min_precision <= 1:
            raise SettingsError(f"min_precision is {self.min_precision}; it must be above 0 and at most 1.")
        for name in ("min_hits", "words", "per_class", "cells"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}; it must be 1 or more.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Suggestion:
    """One candidate.

    Attributes:
        name: variable in the file.
        label: class it votes for.
        code: the expression after `name =`.
        hits: labelled items of the measuring half that it hits.
        right: those of its class.
        coverage: share of the train split that it hits, 0 to 1.
        examples: beginnings of some texts that it hits.
    """

    name: str
    label: str
    code: str
    hits: int
    right: int
    coverage: float
    examples: tuple[str, ...]

    @property
    def precision(self) -> float | None:
        """Share of right hits on the measuring half; None where it hit nothing there."""
        return self.right / self.hits if self.hits else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Suggestions:
    """All candidates, and the centres [K, D] that the cluster functions among them need (None without)."""

    gold: int
    found: Sequence[Suggestion]
    centres: Matrix | None
    config: SuggestConfig

    @property
    def missing(self) -> str:
        """What a candidate would have needed, in a sentence."""
        return (
            f"No word and no cell hits {self.config.min_hits} or more of the half of the {self.gold} labels that "
            f"chooses, {self.config.min_precision:.0%} of them of one class, and more than the class has anyhow. More "
            "labels may help: siftline run"
        )


def suggest(reader: Reader, config: SuggestConfig) -> Suggestions:
    """Candidates from the labels in force.

    Raises:
        SettingsError: fewer than `MIN_GOLD` labelled train items.
    """
    gold: Gold = {
        item_id: (frozenset(labels), text)
        for item_id, labels, text in reader.rows(
            "SELECT g.item_id, g.labels, i.content FROM gold_labels g JOIN items i USING (item_id) "
            "WHERE i.split = 'train' ORDER BY g.item_id"
        )
    }
    if len(gold) < MIN_GOLD:
        raise SettingsError(
            f"Suggestions are made from people's labels; there are {len(gold)} on the train split, {MIN_GOLD} are "
            "needed. Answer a batch first: siftline run"
        )
    choosing = {item_id for item_id, (_, text) in gold.items() if _half(text)}
    words = _words(reader, config, gold, choosing)
    cells, centres = _cells(reader, config, gold, choosing)
    found = sorted([*words, *cells], key=lambda s: (s.label, -(s.precision or 0), -s.coverage, s.name))
    return Suggestions(gold=len(gold), found=found, centres=centres if cells else None, config=config)


def as_file(suggestions: Suggestions, centres_name: str) -> str:
    """The candidates as a file of labeling functions, each with its figures and examples in comments."""
    lines = [
        f'"""Candidates by `siftline lf suggest` from {suggestions.gold} labels: keep, change or drop each of them."""',
        "",
    ]
    if suggestions.centres is not None:
        lines += ["from pathlib import Path", ""]
    kinds = sorted({s.code.split("(", 1)[0] for s in suggestions.found})
    lines += [f"from weak_labels import {', '.join(kinds)}", ""] if kinds else [f"# {suggestions.missing}", ""]
    if suggestions.centres is not None:
        lines += [f'CENTRES = Path(__file__).with_name("{centres_name}")', ""]
    for s in suggestions.found:
        if s.hits:
            low, high = wilson(s.right, s.hits)
            measured = f"right on {s.right} of {s.hits} labelled items not used to choose it ({low:.2f} to {high:.2f})"
        else:
            measured = "not measured: it hits no labelled item but those used to choose it"
        lines.append(f"# {measured}; votes on {percent(s.coverage)} of the train split")
        lines += [f"#   {_comment(text)}" for text in s.examples]
        lines += [f"{s.name} = {s.code}", ""]
    return "\n".join(lines)


def _half(text: str) -> bool:
    """Whether an item of this text chooses; by its id, the same text might choose and measure."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[0] % 2 == 0


def _comment(text: str) -> str:
    # A text from data must not end the comment or move the cursor.
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else "?" for c in line)[:100]


@functools.cache
def _word() -> re.Pattern[str]:
    # Vowel signs and accents of their own belong to the letter before them; Python counts them as signs.
    marks = re.escape("".join(c for c in map(chr, range(sys.maxunicode)) if unicodedata.category(c)[0] == "M"))
    letters = f"\\w[{marks}]*"
    return re.compile(f"(?:{letters})+(?:['’](?:{letters})+)?")


def _terms(text: str) -> set[str]:
    found = list(_word().finditer(text))
    words = (word.group().lower() for word in found)
    # A comma between two words is none of the white space that a phrase of `keywords` stands for.
    beside = ((a, b) for a, b in itertools.pairwise(found) if text[a.end() : b.start()].isspace())
    pairs = {f"{a.group()} {b.group()}".lower() for a, b in beside}
    return {word for word in words if len(word) >= _MIN_CHARS and not word.isdigit()} | pairs


def _words(reader: Reader, config: SuggestConfig, gold: Gold, choosing: set[str]) -> list[Suggestion]:
    """Lists of words, each right often enough; the next word is the one that hits most items not hit yet."""
    items_of: dict[str, set[str]] = defaultdict(set)
    for item_id in choosing:
        for term in _terms(gold[item_id][1]):
            items_of[term].add(item_id)
    lists: list[tuple[str, list[str]]] = []
    for label in sorted({label for labels, _ in gold.values() for label in labels}):
        ours = {item_id for item_id in choosing if label in gold[item_id][0]}
        good = {
            term: hit & ours
            for term, hit in items_of.items()
            if _goes_with(len(hit), len(hit & ours), len(ours) / len(choosing), config)
        }
        left = set(ours)
        for _ in range(config.per_class):
            chosen: list[str] = []
            while len(chosen) < config.words and good:
                # Of equals the more precise, then the shorter, then the first in the alphabet.
                term = max(
                    good, key=lambda t: (len(good[t] & left), len(good[t]) / len(items_of[t]), -len(t), _reverse(t))
                )
                if not good[term] & left:
                    break
                chosen.append(term)
                left -= good.pop(term)
            if not chosen:
                break
            lists.append((label, chosen))
    counter = Counter[str]()
    found: list[Suggestion] = []
    for label, chosen in lists:
        name = _identifier(label)
        counter[name] += 1
        coverage, hit, examples = _hits(reader, keywords(label, chosen).screen)
        measured = [item_id for item_id in hit if item_id in gold and item_id not in choosing]
        found.append(
            Suggestion(
                name=f"words_{name}_{counter[name]}",
                label=label,
                code=f"keywords({label!r}, {chosen!r})",
                hits=len(measured),
                right=sum(label in gold[item_id][0] for item_id in measured),
                coverage=coverage,
                examples=examples,
            )
        )
    return found


def _goes_with(hits: int, right: int, share: float, config: SuggestConfig) -> bool:
    """Whether it hits enough, and is right often enough, and not because its class is nearly everywhere.

    Args:
        hits: labelled items of the choosing half that it hits.
        right: those of its class.
        share: of its class among all of that half.
        config: what is enough.
    """
    if hits < config.min_hits or right / hits < config.min_precision:
        return False
    from scipy.special import bdtrc  # takes a tenth of a second to import

    return float(bdtrc(right - 1, hits, share)) <= BY_CHANCE


def _hits(reader: Reader, pattern: str) -> tuple[float, set[str], tuple[str, ...]]:
    """Share of the train split that a pattern matches, the labelled items among it, and some texts."""
    rows = reader.rows(
        "WITH train AS (SELECT item_id, content, regexp_matches(content, ?) AS hit FROM items WHERE split = 'train') "
        "SELECT avg(hit::INT), list(t.item_id) FILTER (WHERE hit AND g.item_id IS NOT NULL), "
        "min_by(left(content, 200), md5(t.item_id), 3) FILTER (WHERE hit) "
        "FROM train t LEFT JOIN gold_labels g ON g.item_id = t.item_id",
        [pattern],
    )
    share, labelled, examples = rows[0]
    return float(share or 0.0), set(labelled or ()), tuple(examples or ())


def _cells(
    reader: Reader, config: SuggestConfig, gold: Gold, choosing: set[str]
) -> tuple[list[Suggestion], Matrix | None]:
    """Cells of a k-means on the vectors in which the labels of the choosing half agree."""
    from sklearn.cluster import MiniBatchKMeans

    base = (
        "FROM vectors x JOIN items i ON i.item_id = x.item_id AND i.content_hash = x.content_hash "
        "WHERE x.encoder_id = ? AND i.split = 'train'"
    )
    _, sample = reader.matrix(
        f"SELECT x.item_id, x.vector {base} ORDER BY md5(x.item_id), x.item_id LIMIT {CLUSTER_ITEMS}",
        [config.encoder_id],
    )
    if len(sample) < 2 * config.cells:
        return [], None
    # One more digit of precision than float32 would leave ties to the order of summation.
    means = MiniBatchKMeans(config.cells, random_state=config.seed, batch_size=4096).fit(sample.astype(float))
    centres = means.cluster_centers_
    centres_KD = (centres / np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-12)).astype(np.float32)
    sizes = np.zeros(config.cells, np.int64)
    cell_of: dict[str, int] = {}
    examples: dict[int, list[str]] = defaultdict(list)
    for table in reader.batches(
        f"SELECT x.item_id, x.vector, left(i.content, 200) AS text {base} ORDER BY x.item_id",
        [config.encoder_id],
        rows=20_000,
    ):
        ids: list[str] = table.column("item_id").to_pylist()
        vectors = list_column_to_matrix(table.column("vector"), what="vector").astype(np.float64)
        cells = (vectors @ centres_KD.astype(np.float64).T).argmax(axis=1)
        sizes += np.bincount(cells, minlength=config.cells)
        texts: list[str] = table.column("text").to_pylist()
        for item_id, cell, text in zip(ids, cells.tolist(), texts, strict=True):
            if len(examples[cell]) < 3:
                examples[cell].append(text)
            if item_id in gold:
                cell_of[item_id] = cell
    share_of = Counter(label for item_id in choosing for label in gold[item_id][0])
    found: list[Suggestion] = []
    for cell in range(config.cells):
        inside = [item_id for item_id, c in cell_of.items() if c == cell]
        chosen_by = [gold[item_id][0] for item_id in inside if item_id in choosing]
        (label, right), hits = _most(chosen_by), len(chosen_by)
        if not _goes_with(hits, right, share_of[label] / max(1, len(choosing)), config):
            continue
        measured = [item_id for item_id in inside if item_id not in choosing]
        found.append(
            Suggestion(
                name=f"cell_{cell}_{_identifier(label)}",
                label=label,
                code=f"cluster({label!r}, [{cell}], centres=CENTRES)",
                hits=len(measured),
                right=sum(label in gold[item_id][0] for item_id in measured),
                coverage=float(sizes[cell] / max(sizes.sum(), 1)),
                examples=tuple(examples[cell]),
            )
        )
    return found, centres_KD


def _most(sets: Iterable[frozenset[str]]) -> tuple[str, int]:
    """The class that most of some sets have, and how many."""
    counts = Counter(label for labels in sets for label in labels)
    if not counts:
        return "", 0
    label = max(counts, key=lambda name: (counts[name], _reverse(name)))
    return label, counts[label]


def _reverse(text: str) -> tuple[int, ...]:
    """Sorts backwards, so that `max` takes the first in the alphabet."""
    return tuple(-ord(c) for c in text)


def _identifier(label: str) -> str:
    signs = "".join(c if f"a{c}".isidentifier() else "_" for c in label.lower())
    return re.sub("__+", "_", signs).strip("_") or "class"


def write(suggestions: Suggestions, path: Path, *, replace: bool) -> None:
    """Write the file of functions and, beside it, the centres; those of earlier suggestions stay.

    Raises:
        SettingsError: the file is there and `replace` is False.
    """
    if path.exists() and not replace:
        raise SettingsError(f"{path} is there already, maybe with your changes. Name another --output, or add --force.")
    centres = path.with_name("clusters.npy")
    if suggestions.centres is not None:
        buffer = io.BytesIO()
        np.save(buffer, suggestions.centres, allow_pickle=False)
        content = buffer.getvalue()
        if centres.exists() and centres.read_bytes() != content:
            # Functions that a person kept from earlier suggestions look at their cells in there.
            centres = path.with_name(f"clusters-{hashlib.sha256(content).hexdigest()[:8]}.npy")
        centres.write_bytes(content)
    path.write_text(as_file(suggestions, centres.name), encoding="utf-8")
