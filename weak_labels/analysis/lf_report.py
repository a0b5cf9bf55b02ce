"""How the functions that voted did, on the train split or a slice of it: `lf_report`.

Votes are read sparse, from one snapshot; nothing here grows with the number of items times functions. People's
labels are the only truth; where there is none, the label model's probabilities stand in and are called an estimate.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
from scipy import sparse

from warehouse import Reader, SettingsError
from warehouse.schema.lf_counts import TRAIN, lf_counts

Z_95 = 1.959964
"""Two-sided 95% point of the normal distribution."""
PAIR_ITEMS = 200_000
"""Pairs are counted on so many items at most, the same for equal data."""
PAIR_AGREEMENT = 0.95
PAIR_OVERLAP = 0.5
PAIR_MIN_ITEMS = 10
EXCERPT = 300

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class FunctionFigures:
    """How one function did. Shares are of the items that it was applied to, 0 to 1.

    Attributes:
        polarity: classes it voted for.
        applied_to: items it was applied to.
        votes: items on which it did not abstain.
        coverage: share on which it did not abstain.
        overlap: share on which another function voted too.
        conflict: share on which another function voted for another class; None in a multi-label project, where a vote
            says that an item has its class and nothing of the others, so none contradicts another.
        alone: share on which it alone voted.
        gold_votes: its votes on items that people labelled.
        accuracy: share of those that are right, or None without any.
        accuracy_low: lower end of its 95% interval.
        accuracy_high: upper end.
        estimated_accuracy: mean probability that the label model gives to its votes. No measurement: its own votes had
            their say in that, and the label model may be surer or less sure than it is right. None without one, and
            where it had nothing else to go by, neither another function's vote on these items nor a person's label
            that it learned from: it then repeats the votes.
        gain: what leaving it out would cost: share of the labelled items that the vote of all functions gets right
            (soft majority: ties are split, no vote is a guess), minus that of all others. None without gold labels, and
            in a multi-label project, where votes for different classes do not compete.
        faults: items that it failed on.
        switched_off: it failed too often and its votes do not count.
        why_off: why so; empty while they count.
    """

    name: str
    polarity: tuple[str, ...]
    applied_to: int
    votes: int
    coverage: float
    overlap: float
    conflict: float | None
    alone: float
    gold_votes: int
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None
    estimated_accuracy: float | None
    gain: float | None
    faults: int
    switched_off: bool
    why_off: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two functions that say the same: both vote on `items` items, which is `overlap` of those where either does.

    Of more than `PAIR_ITEMS` items all three are estimates from so many.
    """

    left: str
    right: str
    items: int
    agreement: float
    overlap: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Disagreement:
    """An item where the functions disagree with `against`: each other, the model, or people.

    Attributes:
        votes: function -> class name.
        predicted: the end model's class, or its classes in words; empty without one.
        gold: people's; empty without one.
        text: the beginning of the content.
    """

    against: str
    item_id: str
    votes: dict[str, str]
    predicted: str
    gold: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """All of it.

    Attributes:
        items: items of the train split, or of the slice.
        gold: labelled ones among them.
        selected: of these the ones that people were asked about for their value, mostly hard ones. On these functions
            are right less often than on all items: accuracy, its interval and gain are those of the labelled ones.
        covered: share on which at least one function voted.
        functions: the widest coverage first.
        pairs: the most alike first.
        disagreements: the clearest first, by `against`.
        label_model: the kind that the estimates are of, and why it is this one; empty without a label model.
    """

    items: int
    gold: int
    selected: int
    covered: float
    functions: Sequence[FunctionFigures]
    pairs: Sequence[Pair]
    disagreements: Sequence[Disagreement]
    label_model: str


def lf_report(reader: Reader, *, where: str | None = None, examples: int = 5) -> Report:
    """Figures of every function that was applied or failed.

    Args:
        reader: one snapshot. For a `where` that a person typed, one of `connect_locked_down`.
        where: SQL over the columns of `items` that says which of the train split are meant; all when left out.
        examples: disagreements of each kind.

    Raises:
        SettingsError: DuckDB does not understand `where`.
    """
    scoped = _scope(reader, where)
    scope = f"scope AS ({scoped})"
    items = int(reader.scalar(f"WITH {scope} SELECT count(*) FROM scope"))
    gold, selected = reader.rows(_LABELLED.format(scope=scope))[0]
    counts = reader.arrow(f"{lf_counts(scoped)} ORDER BY lf_name").to_pylist()
    names = [row["lf_name"] for row in counts]
    place = {name: number for number, name in enumerate(names)}
    classes = {int(c): str(n) for c, n in reader.rows("SELECT class_id, name FROM classes ORDER BY class_id")}
    estimates = dict(reader.rows(_ESTIMATES.format(scope=scope)))
    taught = bool(reader.scalar(_TAUGHT))
    multi_label = bool(reader.scalar("SELECT bool_or(multi_label) FROM classes"))
    gains = None if multi_label else _gains(reader, scope, place, len(classes), int(gold))
    figures: list[FunctionFigures] = []
    for row in counts:
        name, votes, judged, right = row["lf_name"], row["votes"], row["gold_votes"], row["gold_right"]
        n = max(row["applied_to"], 1)
        low, high = wilson(right, judged) if judged else (None, None)
        figures.append(
            FunctionFigures(
                name=name,
                polarity=tuple(row["polarity"] or ()),
                applied_to=row["applied_to"],
                votes=votes,
                coverage=votes / n,
                overlap=row["overlapping"] / n,
                conflict=None if multi_label else row["conflicting"] / n,
                alone=(votes - row["overlapping"]) / n,
                gold_votes=judged,
                accuracy=right / judged if judged else None,
                accuracy_low=low,
                accuracy_high=high,
                estimated_accuracy=estimates.get(name) if row["overlapping"] or (judged and taught) else None,
                gain=None if gains is None else float(gains[place[name]]),
                faults=row["faults"],
                switched_off=row["switched_off"],
                why_off=row["why_off"] or "",
            )
        )
    covered = int(
        reader.scalar(f"WITH {scope} SELECT count(DISTINCT v.item_id) FROM lf_votes v JOIN scope USING (item_id)")
    )
    return Report(
        items=items,
        gold=int(gold),
        selected=int(selected),
        covered=covered / max(items, 1),
        functions=sorted(figures, key=lambda f: (-f.coverage, f.name)),
        pairs=_pairs(reader, scope, names, items),
        disagreements=_disagreements(reader, scope, classes, examples, multi_label=multi_label),
        label_model=": ".join(part for row in reader.rows(_LABEL_MODEL) for part in row if part),
    )


# The fair sample has no value. A value that was drawn chooses nothing.
_LABELLED = """
    WITH {scope}, drawn AS (
        SELECT (detail->>'cycle')::INTEGER AS cycle FROM runs
        WHERE stage = 'select' AND (detail->>'strategy') = 'random' AND (detail->>'cycle') IS NOT NULL
    )
    SELECT count(*), count(*) FILTER (WHERE item_id IN (
        SELECT item_id FROM queue WHERE value > 0 AND cycle NOT IN (SELECT cycle FROM drawn)
    )) FROM scope JOIN gold_labels USING (item_id)
"""
_ESTIMATES = """
    WITH {scope}
    SELECT v.lf_name, avg(w.probs[v.vote + 1])::DOUBLE FROM lf_votes v JOIN scope USING (item_id)
    JOIN latest_weak_labels w ON w.item_id = v.item_id GROUP BY v.lf_name
"""
# The kinds that learn from labels; `auto` may take another one, whatever labels it was given.
_TAUGHT = """
    SELECT gold_labels > 0 AND starts_with(kind, 'anchored') FROM models
    WHERE stage = 'label_model' ORDER BY sequence DESC LIMIT 1
"""
_LABEL_MODEL = """
    SELECT kind, detail->>'reason' FROM models WHERE stage = 'label_model' ORDER BY sequence DESC LIMIT 1
"""
_MODEL_SAYS = """
    SELECT v.item_id, max(p.confidence) AS rank FROM lf_votes v JOIN scope USING (item_id)
    JOIN latest_predictions p ON p.item_id = v.item_id
    GROUP BY v.item_id HAVING bool_and(NOT list_contains(p.class_ids, v.vote))
"""
_PEOPLE_SAY = """
    SELECT v.item_id, count(*) AS rank FROM lf_votes v JOIN scope USING (item_id)
    JOIN gold_labels g ON g.item_id = v.item_id
    GROUP BY v.item_id HAVING count(*) FILTER (WHERE NOT list_contains(g.class_ids, v.vote)) * 2 > count(*)
"""
_EACH_OTHER = """
    SELECT item_id, sum(n) - max(n) AS rank FROM (
        SELECT v.item_id, v.vote, count(*) AS n FROM lf_votes v JOIN scope USING (item_id) GROUP BY v.item_id, v.vote
    ) GROUP BY item_id HAVING count(*) > 1
"""


def _scope(reader: Reader, where: str | None) -> str:
    if where is None:
        return TRAIN
    scope = f"{TRAIN} AND ({where}\n)"
    try:
        reader.scalar(f"SELECT count(*) FROM ({scope})")
    except duckdb.Error as error:
        raise SettingsError(
            f"--where {where!r} is no condition over items: {error}. Write one such as: length(content) < 100, or "
            "metadata->>'desk' = 'trade'"
        ) from error
    return scope


def _gains(reader: Reader, scope: str, place: dict[str, int], classes: int, gold: int) -> Floats | None:
    """Soft majority on the labelled items with all functions, minus that without each [L]."""
    if not gold or not place:
        return None
    votes = reader.rows(
        f"WITH {scope} SELECT g.class_id, list(v.lf_name), list(v.vote) FROM gold_labels g JOIN scope USING (item_id) "
        "JOIN lf_votes v ON v.item_id = g.item_id GROUP BY g.item_id, g.class_id"
    )
    gains = np.zeros(len(place))
    for true, functions, given in votes:
        counts_C = np.bincount(given, minlength=classes)
        before = _share_of_best(counts_C, true)
        for name, vote in zip(functions, given, strict=True):
            counts_C[vote] -= 1
            gains[place[name]] += before - _share_of_best(counts_C, true)
            counts_C[vote] += 1
    return np.round(gains / gold, 9) + 0.0  # thirds and the like leave 1e-17 of nothing, and -0


def _share_of_best(counts_C: npt.NDArray[np.int64], true: int) -> float:
    best = counts_C == counts_C.max()
    return float(best[true] / best.sum())


def _pairs(reader: Reader, scope: str, names: Sequence[str], items: int) -> list[Pair]:
    every = max(1, -(-items // PAIR_ITEMS))
    table = reader.arrow(
        f"WITH {scope} SELECT dense_rank() OVER (ORDER BY v.item_id) - 1 AS row, v.lf_name, v.vote "
        f"FROM lf_votes v JOIN scope USING (item_id) WHERE md5_number_lower(v.item_id) % {every} = 0"
    )
    if not table.num_rows:
        return []
    place = {name: number for number, name in enumerate(names)}
    row_V = table.column("row").to_numpy()
    lf_V = np.array([place[name] for name in table.column("lf_name").to_pylist()], np.int64)
    vote_V = table.column("vote").to_numpy()
    shape = (int(row_V.max()) + 1, len(names))
    both_LL = _product(row_V, lf_V, shape)
    same_LL = np.zeros_like(both_LL)
    for vote in np.unique(vote_V):
        chosen = vote_V == vote
        same_LL += _product(row_V[chosen], lf_V[chosen], shape)
    votes_L = np.diag(both_LL)
    either_LL = votes_L[:, None] + votes_L - both_LL
    overlap_LL = both_LL / np.maximum(either_LL, 1)
    agreement_LL = same_LL / np.maximum(both_LL, 1)
    alike = (both_LL >= PAIR_MIN_ITEMS) & (overlap_LL >= PAIR_OVERLAP) & (agreement_LL >= PAIR_AGREEMENT)
    found = [
        Pair(
            left=names[int(i)],
            right=names[int(j)],
            items=int(both_LL[int(i), int(j)]) * every,
            agreement=float(agreement_LL[int(i), int(j)]),
            overlap=float(overlap_LL[int(i), int(j)]),
        )
        for i, j in np.argwhere(np.triu(alike, 1)).tolist()
    ]
    return sorted(found, key=lambda pair: (-pair.overlap * pair.agreement, pair.left, pair.right))


def _product(row_V: Any, lf_V: Any, shape: tuple[int, int]) -> Floats:
    ones = sparse.csr_matrix((np.ones(len(row_V)), (row_V, lf_V)), shape=shape)
    return np.asarray((ones.T @ ones).todense(), np.float64)


def _disagreements(
    reader: Reader, scope: str, classes: dict[int, str], examples: int, *, multi_label: bool
) -> list[Disagreement]:
    found: list[Disagreement] = []
    kinds = {"each other": _EACH_OTHER, "the model": _MODEL_SAYS, "people": _PEOPLE_SAY}
    if multi_label:
        del kinds["each other"]  # votes for several classes of one item are no contradiction
    for against, chosen in kinds.items():
        rows = reader.rows(
            f"WITH {scope}, chosen AS ({chosen} ORDER BY rank DESC, item_id LIMIT {int(examples)}) "
            "SELECT c.item_id, list(v.lf_name ORDER BY v.lf_name), list(v.vote ORDER BY v.lf_name), "
            f"any_value(p.label), any_value(g.label), any_value(left(i.content, {EXCERPT})) "
            "FROM chosen c JOIN items i USING (item_id) JOIN lf_votes v USING (item_id) "
            "LEFT JOIN latest_predictions p ON p.item_id = c.item_id LEFT JOIN gold_labels g ON g.item_id = c.item_id "
            "GROUP BY c.item_id, c.rank ORDER BY c.rank DESC, c.item_id"
        )
        for item_id, names, votes, predicted, gold, text in rows:
            found.append(
                Disagreement(
                    against=against,
                    item_id=item_id,
                    votes={n: classes.get(int(v), str(v)) for n, v in zip(names, votes, strict=True)},
                    predicted=predicted or "",
                    gold=gold or "",
                    text=text,
                )
            )
    return found


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95% interval of a share by Wilson's score.

    Args:
        successes: 0 to n.
        n: 1 or more.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927) 209-212.
    """
    share = successes / n
    middle = share + Z_95**2 / (2 * n)
    half = Z_95 * sqrt(share * (1 - share) / n + Z_95**2 / (4 * n**2))
    scale = 1 + Z_95**2 / n
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)
