"""Why an item is worth a label, in words a person reads beside the task.

Shape letters: N items of the pool.
"""

import numpy as np

from active.graph import Floats, Rows
from active.pool import Pool

SURE = 0.5
CLOSE = 0.9
WORTH_SAYING = 0.00005
"""Half of the last digit that is written."""


def reasons(pool: Pool, speaks_for: Rows, redundancy: Floats, settled: Floats, rows: Rows) -> list[str]:
    """One sentence for each of some items.

    Args:
        pool: what is known about the items.
        speaks_for: [N] others that are closer to the item than to any taken one.
        redundancy: [N] cosine of the nearest taken item.
        settled: [N] share of the end model's doubt over the pool that a label of the item would take.
        rows: places of the items that are wanted.
    """
    order = np.argsort(-pool.predicted, axis=1, kind="stable") if len(pool.class_names) > 1 else None
    sentences: list[str] = []
    votes: dict[bytes, str] = {}  # few items are voted on in a way of their own
    for row in rows.tolist():
        cast = pool.votes[row].tobytes()
        if cast not in votes:
            votes[cast] = _votes(pool, row)
        parts = [_speaks_for(int(speaks_for[row])), votes[cast]]
        if order is not None and pool.has_prediction[row]:
            best, second = int(order[row, 0]), int(order[row, 1])
            parts.append(_sets(pool, row) if pool.multi_label else _prediction(pool, row, best, second))
        if settled[row] >= WORTH_SAYING:
            parts.append(f"a label settles {settled[row]:.2%} of what the model does not know")
        if redundancy[row] >= CLOSE:
            parts.append("close to one already labelled or queued")
        sentences.append("; ".join(parts) + ".")
    return sentences


def with_seconds(reason: str, seconds: float) -> str:
    """A reason of `reasons` that also says how long an answer is expected to take, where that decided."""
    return f"{reason.removesuffix('.')}; about {max(1, round(seconds))} s to answer."


def _speaks_for(count: int) -> str:
    if count == 0:
        return "Speaks only for itself"
    return f"Speaks for {count} {'record' if count == 1 else 'records'} nobody has labelled"


def _votes(pool: Pool, row: int) -> str:
    voted = np.flatnonzero(pool.votes[row])
    functions = int(pool.votes[row].sum())
    if functions == 0:
        return "no function votes on it"
    names = _named(pool, voted)
    if len(voted) > 1 and not pool.multi_label:
        return f"{functions} functions disagree on {names}"
    return f"{functions} {'function votes' if functions == 1 else 'functions vote'} {names}"


def _prediction(pool: Pool, row: int, best: int, second: int) -> str:
    probs = pool.predicted[row]
    if probs[best] - probs[second] < SURE:
        return f"the model is unsure between {_name(pool, best)} and {_name(pool, second)}"
    return f"the model says {_name(pool, best)} ({probs[best]:.0%})"


def _sets(pool: Pool, row: int) -> str:
    """What the model says in a multi-label project: the class that it is least sure about, else all classes."""
    probs = pool.predicted[row]
    least_sure = int(np.abs(probs - 0.5).argmin())
    if abs(2 * probs[least_sure] - 1) < SURE:
        return f"the model is unsure whether {_name(pool, least_sure)} fits ({probs[least_sure]:.0%})"
    said = np.flatnonzero(probs >= 0.5)
    return f"the model says {_named(pool, said)}" if len(said) else "the model says that no class fits"


def _named(pool: Pool, classes: Rows) -> str:
    *others, last = [_name(pool, c) for c in classes.tolist()]
    return f"{', '.join(others)} and {last}" if others else last


def _name(pool: Pool, number: int) -> str:
    """The class's name, in quotes where it has several words."""
    name = pool.class_names[number]
    return f"'{name}'" if " " in name else name
