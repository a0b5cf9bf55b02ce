"""What accuracy hides where nearly all items have one class: whoever always says that class is nearly always right."""

from collections.abc import Sequence

from flows.report.current_models import latest_counts
from flows.report.text import count, counted, listed, percent, score
from warehouse import Reader
from weak_labels.analysis.lf_report import wilson

Matrix = Sequence[Sequence[int]]
"""Scored items [true class][predicted class]."""
DOMINANT = 0.9
"""Share of the scored items from which one class hides the others."""
HARDLY = 0.25
"""Share of the scored items of a class below which the end model hardly finds it."""


def hidden_sentence(reader: Reader, split: str) -> str:
    """What the figures that a run and status show say too little of; empty where all is well."""
    counts, names = latest_counts(reader, split, "accuracy")[0], reader.class_names()
    return rare_sentence(counts.get("confusion", []), names) or missed_sentence(counts.get("by_class", []), names)


def missed_sentence(by_class: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """Which classes of a multi-label project are hardly found, and which no scored item has; empty where none.

    Args:
        by_class: of each class the items that have it and are given it, have it and are not given it, and are given it
            and have it not.
        names: of the classes.
    """
    found = sorted((hit / (hit + missed), c) for c, (hit, missed, _) in enumerate(by_class) if hit + missed)
    hardly = [c for share, c in found if share < HARDLY]
    absent = [f"'{names[c]}'" for c, (hit, missed, _) in enumerate(by_class) if found and not hit + missed]
    parts = [f"'{names[c]}' ({by_class[c][0]} of {counted(sum(by_class[c][:2]), 'item')})" for c in hardly]
    said = f"On the scored items the end model hardly finds {listed(parts, 'and')}." if parts else ""
    if absent:
        said += f" No scored item has {listed(absent, 'or')}: nothing is measured of {_it(absent)}."
    return said.strip()


def latest_confusion(reader: Reader, split: str) -> Matrix:
    """Of the end model that was scored last with the most labels; empty where none was, or in a multi-label project."""
    return latest_counts(reader, split, "accuracy")[0].get("confusion", [])


def dominant(confusion: Matrix) -> int | None:
    """The class that hides the others; None where none does."""
    totals = [sum(row) for row in confusion]
    most = max(totals, default=0)
    return totals.index(most) if most and most >= DOMINANT * sum(totals) else None


def hides(confusion: Matrix) -> bool:
    """Whether a class hides others of which there are some."""
    return dominant(confusion) is not None and sum(map(bool, map(sum, confusion))) > 1


def finds_few(confusion: Matrix) -> bool:
    """Whether the end model finds less than half of what is not of the class that hides the others."""
    common = dominant(confusion)
    others = [(row, c) for c, row in enumerate(confusion) if c != common]
    return common is not None and 2 * sum(row[c] for row, c in others) < sum(sum(row) for row, _ in others)


def rare_sentence(confusion: Matrix, names: Sequence[str]) -> str:
    """What accuracy says of the rare classes, and what the scored items say nothing of; empty where all is well."""
    totals = [sum(row) for row in confusion]
    if (n := sum(totals)) and max(totals) == n:
        all_are = "The one scored item is" if n == 1 else f"All {count(n)} scored items are"
        return f"{all_are} '{names[totals.index(n)]}', so accuracy says nothing of other classes."
    return f"{_hidden(confusion, names)} {_absent(confusion, names)}".strip()


def _hidden(confusion: Matrix, names: Sequence[str]) -> str:
    common = dominant(confusion)
    if common is None:
        return ""
    totals = [sum(row) for row in confusion]
    n, others = sum(totals), [c for c in range(len(totals)) if c != common]
    rare = f"'{names[others[0]]}'" if len(others) == 1 else "another class"
    some, hit = n - totals[common], sum(confusion[c][c] for c in others)
    said = sum(confusion[c][other] for c in range(len(totals)) for other in others)
    low, high = wilson(hit, some)
    right = f"it says {rare} of {count(said)}, and is right on {count(hit)}" if said else f"it says {rare} of none"
    return (
        f"Saying '{names[common]}' of every item would be right on {score(totals[common] / n)}, so accuracy says "
        f"little here. Of {counted(some, 'item')} of {rare} the end model finds {count(hit)} ({percent(hit / some)}, "
        f"95% interval {percent(low)} to {percent(high)}); {right}."
    )


def _absent(confusion: Matrix, names: Sequence[str]) -> str:
    totals = [sum(row) for row in confusion]
    absent = [f"'{names[c]}'" for c, total in enumerate(totals) if not total]
    if not absent or not sum(totals):
        return ""
    return f"No scored item is {listed(absent, 'or', of='of ')}: nothing is measured of {_it(absent)}."


def _it(classes: Sequence[str]) -> str:
    return "it" if len(classes) == 1 else "these"
