"""Wrong labels found: average precision with planted noise, ours beside the peers' detectors on the same labels."""

from dataclasses import replace

import numpy as np

from active.quality.label_errors import suspicion
from benchmarks.data.sets import TextSet
from benchmarks.harness import Figures
from benchmarks.selection.strategies import peer_lines

LABELS = 1000
SHARES = (0.05, 0.1, 0.2)
SEEDS = 3
"""Data-OOB fits 50 models for each; more seeds than these would take most of the benchmark."""


def noise(data: TextSet, seeds: int) -> Figures:
    """Average precision by share of planted noise and detector: {share: {detector: {mean, sd}}}.

    A share of 1,000 labels is changed to another class, evenly; the detectors see vectors and labels.
    """
    found: Figures = {}
    for share in SHARES:
        scores: dict[str, list[float]] = {}
        for seed in range(min(seeds, SEEDS)):
            generator = np.random.default_rng([11, seed])
            rows = generator.permutation(len(data.labels))[:LABELS]
            labels, classes = data.labels[rows].copy(), len(data.classes)
            wrong = generator.random(len(labels)) < share
            labels[wrong] = (labels[wrong] + generator.integers(1, classes, wrong.sum())) % classes
            given = replace(data, vectors=data.vectors[rows], labels=labels)
            ours = suspicion(given.vectors, labels, classes, np.random.default_rng(0))
            scores.setdefault("siftline", []).append(average_precision(wrong, ours))
            for family in ("cleanlab", "pydvl"):
                for line in peer_lines("noise", given, family):
                    suspected = np.array(line["suspicion"])
                    scores.setdefault(str(line["detector"]), []).append(average_precision(wrong, suspected))
        found[str(share)] = {
            name: {"mean": round(float(np.mean(values)), 4), "sd": round(float(np.std(values)), 4)}
            for name, values in scores.items()
        }
    return found


def average_precision(wrong: np.ndarray, suspected: np.ndarray) -> float:
    """Mean of the precision at each wrong label, in falling suspicion."""
    hits = wrong[np.argsort(-suspected, kind="stable")]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(precision[hits].mean()) if hits.any() else 0.0
