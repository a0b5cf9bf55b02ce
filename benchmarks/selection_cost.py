"""The value of a label against the value of a second: accuracy by the time that people spend, simulated.

The time of an answer is that of the simulated annotator: reading speed and a decision, with a log-normal spread. What
is expected of the next answer is learned from the ones before, as `active.value.labeling_cost` does in the product.
"""

from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from active.annotation.simulated_annotator import seconds_to_answer
from active.strategies import STRATEGIES, Situation
from active.value.labeling_cost import Effort
from benchmarks.selection_data import TextSet
from benchmarks.selection_loop import Floats, Rows, State, pool_of, run
from benchmarks.selection_strategies import filled_up, graph_of
from benchmarks.selection_strategies import pool_of as as_pool

KINDS = ("random", "value per label", "value per second")
BUDGETS = (64, 128, 256)
MOST = 768
SEEDS = 3


def cost(data: TextSet, seeds: int) -> dict[str, Any]:
    """Accuracy in the time that random picks take for 64, 128 and 256 labels.

    Returns:
        {kind: {labels: mean accuracy in that time, "seconds per label": mean of the first 256}}.
    """
    found: dict[str, dict[str, list[float]]] = {kind: {} for kind in KINDS}
    for seed in range(min(seeds, SEEDS)):
        runs = {kind: _one_run(data, kind, seed) for kind in KINDS}
        given = [float(np.interp(budget, *runs["random"][:2])) for budget in BUDGETS]
        for kind, (labels, minutes, scores) in runs.items():
            for budget, time in zip(BUDGETS, given, strict=True):
                found[kind].setdefault(str(budget), []).append(float(np.interp(time, minutes, scores)))
            pace = 60 * float(np.interp(256, labels, minutes)) / 256
            found[kind].setdefault("seconds per label", []).append(pace)
    return {
        kind: {name: round(float(np.mean(values)), 4) for name, values in row.items()} for kind, row in found.items()
    }


def _one_run(data: TextSet, kind: str, seed: int) -> tuple[Floats, Floats, Floats]:
    """Labels, minutes and accuracy after each batch."""
    rows = pool_of(len(data.vectors), seed)
    texts = [data.texts[row] for row in rows]
    characters = np.array([len(text) for text in texts], np.int64)
    seconds = np.array([seconds_to_answer(str(row), text, seed) for row, text in zip(rows, texts, strict=True)])
    asked: list[Rows] = []

    def choose(state: State, batch: int) -> Rows:
        expected = None
        if kind == "value per second":
            effort = Effort.learned(characters[state.labelled], seconds[state.labelled])
            expected = effort.seconds(characters) if effort is not None else None
        pool = as_pool(state)
        given = Situation(pool=pool, graph=graph, generator=state.generator, seconds=expected)
        pick = STRATEGIES["random" if kind == "random" else "value"](given, batch).rows
        asked.append(filled_up(pick, pool, state, batch))
        return asked[-1]

    with threadpool_limits(1):
        graph = graph_of(data.vectors[rows])
        scores = run(
            data.vectors,
            data.labels,
            data.test_vectors,
            data.test_labels,
            classes=len(data.classes),
            choose=choose,
            seed=seed,
            most=MOST,
        )
    minutes = np.cumsum([seconds[part].sum() for part in asked]) / 60
    return np.array(list(scores)), minutes, np.array(list(scores.values()))
