"""Wrong answers found in multi-label projects: planted ones, beside simple controls on the same answers.

    python -m benchmarks.multi_label_noise [--seeds 5] [--labels 500] [--output FILE]

Three sets of 1,000 texts each: digests of none to two news of Reuters R8 in four classes (`tests/digests.py`), digests
of none to three news of R52 in nine other classes, and posts of 20 newsgroups whose classes are the words of their
group's name (comp.sys.mac.hardware is about comp, sys and hardware). Each seed draws the labelled texts, and in a tenth
of them changes the answer to one class: in half of these one that a text has is forgotten, as far as it has any, in the
others one is added. The encoder is the dense parent in int8 at 128 tokens.

Shape letters: T labelled items, D embedding, C classes.
"""

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from threadpoolctl import threadpool_limits

from active.quality.label_errors import suspicion, suspicion_by_class
from benchmarks.environment import environment
from benchmarks.selection_noise import average_precision
from engine.load import load_encoder
from features.ingest.samples import get_sample
from tests.digests import make_digest_project
from weak_labels.classifiers.inputs import Sight
from weak_labels.classifiers.linear import EndModelConfig
from weak_labels.classifiers.one_vs_rest import OneVsRestHeads

ITEMS = 1000
DRAW = 1
"""Seed of the texts; balance and threshold of the score were chosen on those of seed 0."""
SHARE = 0.1
FIRST = 0.05
WORDS = 40
R52_CLASSES = ("cocoa", "coffee", "cpi", "gnp", "gold", "interest", "money-fx", "money-supply", "sugar")

Texts = tuple[tuple[str, ...], list[tuple[str, list[str]]]]
"""Classes, and texts with theirs."""


def main() -> None:
    """Measure, print tables in Markdown and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--labels", type=int, default=500)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    result: dict[str, Any] = {**environment(), "seeds": arguments.seeds, "labels": arguments.labels, "sets": {}}
    print(f"commit {result['commit']}, uncommitted changes: {result['uncommitted_changes']}")
    encoder = load_encoder("dense", max_tokens=128, precision="int8")
    sets: dict[str, Callable[[Path], Texts]] = {"R8 digests": _r8, "R52 digests": _r52, "newsgroup names": _names}
    with tempfile.TemporaryDirectory() as folder:
        for name, read in sets.items():
            classes, rows = read(Path(folder))
            vectors = encoder.encode([text for text, _ in rows])
            has = np.array([[of in given for of in classes] for _, given in rows])
            seeds = [measure(vectors, has, seed, arguments.labels) for seed in range(arguments.seeds)]
            result["sets"][name] = found = {
                detector: {
                    figure: [round(float(f([s[detector][figure] for s in seeds])), 4) for f in (np.mean, np.std)]
                    for figure in figures
                }
                for detector, figures in seeds[0].items()
            }
            print(f"\n| {name}, C = {len(classes)} |", " | ".join(found["random"]), "|")
            print("|---|" + "---:|" * len(found["random"]))
            for detector, figures in found.items():
                print(
                    f"| {detector} |", " | ".join(f"{m:.3f} ± {sd:.3f}" for m, sd in figures.values()), "|", flush=True
                )
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=2) + "\n", "utf-8")


def measure(vectors: Any, has: Any, seed: int, labels: int) -> dict[str, dict[str, float]]:
    """Figures by detector: average precision over all wrong items and over those of one kind, and of the threshold.

    Args:
        vectors: [N, D].
        has: [N, C] the true classes.
        seed: draws labelled items and wrong answers.
        labels: T.
    """
    generator = np.random.default_rng([11, seed])
    rows = generator.permutation(len(vectors))[:labels]
    given, answers = vectors[rows], has[rows].copy()
    wrong = np.full(labels, -1)
    for row in np.flatnonzero(generator.random(labels) < SHARE):
        forget = generator.random() < 0.5 and answers[row].any()
        wrong[row] = generator.choice(np.flatnonzero(answers[row] if forget else ~answers[row]))
        answers[row, wrong[row]] ^= True
    is_wrong = wrong >= 0
    added = is_wrong & answers[np.arange(labels), wrong]
    scores = {
        "suspicion_by_class": suspicion_by_class(given, answers, generator),
        "suspicion, each class alone": np.stack(
            [suspicion(given, of.astype(np.int64), 2, generator) for of in answers.T], axis=1
        ),
        "end model": _end_model(given, answers),
        "random": generator.random(answers.shape),
    }
    figures: dict[str, dict[str, float]] = {}
    for name, score in scores.items():
        item, first = score.max(axis=1), np.argsort(-score.max(axis=1))[: round(FIRST * labels)]
        over = item > 0.5
        hits = first[is_wrong[first]]
        named = score[hits].argmax(axis=1) == wrong[hits]
        figures[name] = {
            "average precision": average_precision(is_wrong, item),
            "forgotten": average_precision(is_wrong[~added], item[~added]),
            "added": average_precision(added[~is_wrong | added], item[~is_wrong | added]),
            "right among the first 5%": float(is_wrong[first].mean()),
            "of these the class is right": float(named.mean()) if len(hits) else 0.0,
            "over 0.5": float(over.sum()),
            "of these wrong": float(is_wrong[over].mean()) if over.any() else 0.0,
        }
    return figures


def _end_model(vectors: Any, answers: Any) -> Any:
    """What the end model of a project without functions, which learned from these answers, says against each [T, C]."""
    count, classes = answers.shape
    config = EndModelConfig(classes=tuple(f"c{c}" for c in range(classes)), encoder_id="e", multi_label=True)
    nothing = np.zeros((count, classes)), np.zeros(count)
    with threadpool_limits(1):
        heads = OneVsRestHeads.fit(config, Sight.plain(vectors.shape[1]), vectors, np.ones(count, np.bool_), *nothing)
        probs = heads.learned(np.arange(count), answers).model.predict_proba(heads.features)
    return np.where(answers, 1.0 - probs, probs)


def _r8(folder: Path) -> Texts:
    root = make_digest_project(
        folder / "digests", get_sample("reuters-r8", folder / "r8"), train=ITEMS, test=0, seed=DRAW
    )
    lines = [(root / "data" / f"{name}.jsonl").read_text("utf-8").splitlines() for name in ("items", "gold")]
    texts, gold = ([json.loads(line) for line in of] for of in lines)
    rows = [(text["text"], said["label"]) for text, said in zip(texts, gold, strict=True)]
    return tuple(sorted({name for _, given in rows for name in given})), rows


def _r52(folder: Path) -> Texts:
    generator = np.random.default_rng(DRAW)
    news: dict[str, list[str]] = {}
    for text, label in _train("reuters-r52", folder):
        kind = "none" if label in ("acq", "earn") else label
        news.setdefault(kind, []).append(" ".join(text.split()[:WORDS]))
    rows: list[tuple[str, list[str]]] = []
    for _ in range(ITEMS):
        size = generator.choice([0, 1, 2, 3], p=[0.2, 0.4, 0.25, 0.15])
        chosen = sorted(generator.choice(R52_CLASSES, size, replace=False).tolist())
        parts = [str(generator.choice(news[name])) for name in chosen or ["none"]]
        generator.shuffle(parts)
        rows.append(("\n\n".join(parts), chosen))
    return R52_CLASSES, rows


def _names(folder: Path) -> Texts:
    posts = _train("20newsgroups", folder)
    words = {label: label.replace("-", ".").split(".") for label in {label for _, label in posts}}
    count = Counter(word for of in words.values() for word in set(of))
    classes = tuple(sorted(word for word, groups in count.items() if groups > 1))
    picked = np.random.default_rng(DRAW).permutation(len(posts))[:ITEMS]
    rows = [posts[place] for place in picked]
    return classes, [(" ".join(text.split()[: 2 * WORDS]), words[label]) for text, label in rows]


def _train(name: str, folder: Path) -> list[tuple[str, str]]:
    files = get_sample(name, folder / name)
    gold = dict(zip(*(pq.read_table(files.gold).column(c).to_pylist() for c in ("id", "label")), strict=True))
    return [(row["text"], gold[row["id"]]) for row in pq.read_table(files.items).to_pylist() if row["split"] == "train"]


if __name__ == "__main__":
    main()
