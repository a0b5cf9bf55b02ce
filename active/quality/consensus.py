"""How far annotators agree, and how right each of them is: Krippendorff's alpha, and accuracies or two rates each.

They become the weights of the view `gold_labels` (see `warehouse/schema/answer_views.py`), so the label of an item
always follows from the answers in force, and only the weights wait for this stage. Without items that several people
labelled nobody can be judged, and the view falls back to the majority. Answers that were asked for because people
disagree, or because a label looked wrong, judge nobody: their items were chosen for being answered wrongly. So are
a reviewer's, whose opinion outweighs all others and judges nobody either. Why: gold-labels-by-annotator-skill.md in
docs/decisions.

In a multi-label project an opinion is a set of classes. Each class of an item is then a yes-or-no question of its own,
so that everything here works on pairs of item and class. Where few are answered by yes, accuracy says next to nothing:
who overlooks classes is right nearly always. So each annotator has two rates there, one where the answer is yes and one
where it is no. The alpha is the mean over classes.

Shape letters: N items with several opinions (or pairs), A annotators, C classes, V opinions.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Number
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from active.pool.graph import check_places
from warehouse import Delete, Lake, Reader, SettingsError, StageResult, Upsert
from warehouse.commits.stage import Write, hash_token
from warehouse.schema.answer_views import FIRST_OPINIONS, LAST_WORD, UNKNOWN_ACCURACY

STRENGTH = 10.0
"""Opinions that the prior of an accuracy counts for."""
YES_NO_STRENGTH = 4.0
"""Questions of the rarer answer that the prior of the two rates counts for; of the other as many more as there are."""
OVERLOOKED = 1 - UNKNOWN_ACCURACY
"""Share of those with yes for an answer that the prior takes to be answered by no."""
MADE_UP = OVERLOOKED / 2
"""As many as this share of them it takes to be answered by yes wrongly: people overlook more than they make up."""
STEPS = 200
TOLERANCE = 1e-8
LEAST_WEIGHT = 0.05
"""An opinion always counts a little for its class, also of an annotator who is mostly wrong."""
DECIMALS = 6

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Opinions:
    """Opinions on the items that have at least two: one per annotator and item, or per annotator, item and class.

    Attributes:
        annotators: [A] names, ascending.
        item: [V] place of the item, 0 to N - 1, ascending.
        annotator: [V] place of the annotator.
        class_id: [V] what was said.
        items: N.
        per_item: questions per item: 1, or C in a multi-label project, where the question of class c is item % C == c.
        yes_or_no: the answers are 1 for yes and 0 for no, as they are in a multi-label project.

    Raises:
        SettingsError: places or classes are no whole numbers (`pandas.factorize` makes them), there are not as many of
            each, or an item has one opinion.
    """

    annotators: Sequence[str]
    item: Rows
    annotator: Rows
    class_id: Rows
    items: int
    per_item: int = 1
    yes_or_no: bool = False

    def __post_init__(self) -> None:
        check_places(self.item, self.items, "Items of the opinions")
        check_places(self.annotator, len(self.annotators), "Annotators of the opinions")
        check_places(self.class_id, 2**31, "Classes of the opinions")
        _check_lengths(self.item, self.annotator, self.class_id)
        alone = np.flatnonzero(np.bincount(self.item) == 1)
        if alone.size:
            raise SettingsError(
                f"{alone.size} items have one opinion, the first is item {alone[0]}; leave them out: there is nobody "
                "to compare them with."
            )

    def alphas(self) -> list[float | None]:
        """Krippendorff's alpha of each kind of question [per_item]."""
        kind = self.item % self.per_item
        return [krippendorff_alpha(self.item[kind == c], self.class_id[kind == c]) for c in range(self.per_item)]

    def alpha(self) -> float | None:
        """The mean of the alphas that are defined; None where none is."""
        found = [alpha for alpha in self.alphas() if alpha is not None]
        return float(np.mean(found)) if found else None


def read_opinions(reader: Reader, reviewers: Sequence[str] = ()) -> Opinions:
    """Read the opinions of `FIRST_OPINIONS` but for those of reviewers; items with one opinion are left out.

    In a multi-label project every opinion is one per class: 1 has the class, 0 has it not.
    """
    classes, multi_label = reader.rows("SELECT count(*), bool_or(coalesce(multi_label, false)) FROM classes")[0]
    said = "class_ids" if multi_label else "class_id"
    rows = reader.rows(
        f"""
        SELECT item_id, annotator, {said} FROM ({FIRST_OPINIONS})
        WHERE annotator NOT IN (SELECT unnest(?::VARCHAR[]))
        QUALIFY count(*) OVER (PARTITION BY item_id) > 1 ORDER BY item_id, annotator, {said}
        """,
        [list(reviewers)],
    )
    names = sorted({annotator for _, annotator, _ in rows})
    place = {name: number for number, name in enumerate(names)}
    numbers: dict[str, int] = {}
    item = np.array([numbers.setdefault(item_id, len(numbers)) for item_id, _, _ in rows], np.int64)
    annotator = np.array([place[name] for _, name, _ in rows], np.int64)
    if not multi_label:
        class_id = np.array([class_id for _, _, class_id in rows], np.int64)
        return Opinions(annotators=names, item=item, annotator=annotator, class_id=class_id, items=len(numbers))
    has_VC = np.zeros((len(rows), int(classes)), np.int64)
    for row, (_, _, class_ids) in enumerate(rows):
        has_VC[row, class_ids] = 1
    return Opinions(
        annotators=names,
        item=(item[:, None] * has_VC.shape[1] + np.arange(has_VC.shape[1])).reshape(-1),
        annotator=np.repeat(annotator, has_VC.shape[1]),
        class_id=has_VC.reshape(-1),
        items=len(numbers) * has_VC.shape[1],
        per_item=has_VC.shape[1],
        yes_or_no=True,
    )


def krippendorff_alpha(item: Rows, class_id: Rows) -> float | None:
    """Agreement beyond chance of any number of annotators, some of whom may not have answered.

    Args:
        item: [V] item of each answer.
        class_id: [V] what was said; classes are nominal.

    Returns:
        1 for full agreement, 0 for chance, below 0 for less; None where it is not defined: no item has two answers, or
        all answers are of one class.

    Raises:
        SettingsError: there are not as many of both, or an answer is missing (NaN, None): leave its row out.

    Source: Krippendorff (2011), Computing Krippendorff's Alpha-Reliability, nominal data with missing values.
    """
    _check_lengths(item, class_id)
    if not len(item):
        return None
    given: Any = class_id
    said = np.asarray(given if hasattr(given, "dtype") else np.array(list(given), object))  # else NaN is the text "nan"
    kinds = set[type]()
    if said.dtype.kind == "O":  # numbers of any width are alike, as an array takes them
        kinds = {next((kind for kind in (str, Number) if isinstance(v, kind)), type(v)) for v in said.tolist()}
    if len(kinds) > 1 or (said.dtype.kind in "fO" and bool((said != said).any())):
        raise SettingsError("Some answers are missing, or of another kind than the rest; leave their rows out.")
    _, item = np.unique(item, return_inverse=True)
    values, class_id = np.unique(said, return_inverse=True)
    said_NC = np.zeros((int(item.max()) + 1, len(values)))
    np.add.at(said_NC, (item, class_id), 1.0)
    said_NC = said_NC[said_NC.sum(axis=1) > 1]
    answers_N = said_NC.sum(axis=1)
    total = float(answers_N.sum())
    of_class_C = said_NC.sum(axis=0)
    expected = total**2 - float((of_class_C**2).sum())
    if not len(said_NC) or expected == 0:
        return None
    observed = float(((answers_N**2 - (said_NC**2).sum(axis=1)) / (answers_N - 1)).sum())
    return 1.0 - (total - 1.0) * observed / expected


def accuracies(opinions: Opinions, classes: int) -> Floats:
    """Estimated accuracy of each annotator [A], strictly between 0 and 1.

    One accuracy per annotator, whose mistakes fall on the other classes alike, under a Beta prior of mean
    `UNKNOWN_ACCURACY`: few shared items change little, and nobody becomes infallible.

    Raises:
        SettingsError: an opinion is for no class that there is.

    Source: Dawid and Skene (1979), Maximum Likelihood Estimation of Observer Error-Rates Using the EM Algorithm, with
    one parameter per observer and a prior on it.
    """
    check_places(opinions.class_id, classes, "Classes of the opinions")
    count = len(opinions.annotators)
    said_A = np.bincount(opinions.annotator, minlength=count).astype(np.float64)
    accuracy_A = np.full(count, UNKNOWN_ACCURACY)
    others = max(classes - 1, 1)
    for _ in range(STEPS):
        weight_A = np.log(accuracy_A * others / (1 - accuracy_A))
        score_NC = np.zeros((opinions.items, max(classes, 2)))
        np.add.at(score_NC, (opinions.item, opinions.class_id), weight_A[opinions.annotator])
        score_NC = np.exp(score_NC - score_NC.max(axis=1, keepdims=True))
        right_V = (score_NC / score_NC.sum(axis=1, keepdims=True))[opinions.item, opinions.class_id]
        right_A = np.bincount(opinions.annotator, weights=right_V, minlength=count)
        before, accuracy_A = accuracy_A, (right_A + STRENGTH * UNKNOWN_ACCURACY) / (said_A + STRENGTH)
        if np.abs(accuracy_A - before).max(initial=0.0) < TOLERANCE:
            break
    return accuracy_A


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """How yes-or-no questions are answered.

    Attributes:
        share: of the questions whose right answer is yes, 0 to 1.
        sensitivity: [A] share of them that each annotator answers by yes.
        specificity: [A] share of the others that each annotator answers by no.
        per_question: mean number of opinions on a question.
    """

    share: float
    sensitivity: Floats
    specificity: Floats
    per_question: float

    def accuracy(self) -> Floats:
        """Share of questions that each annotator answers rightly [A]."""
        return self.share * self.sensitivity + (1 - self.share) * self.specificity

    def weights(self) -> tuple[Floats, Floats]:
        """By how much each annotator's yes and no count [A], both at least `LEAST_WEIGHT`.

        Of rare classes a yes needs more evidence than a no. Each opinion carries its part of that, so that the sum over
        a question has all of it, and a label that nobody contradicts stays what was said.
        """
        part = np.log(self.share / (1 - self.share)) / self.per_question
        yes_A = np.log(self.sensitivity / (1 - self.specificity)) + part
        no_A = np.log(self.specificity / (1 - self.sensitivity)) - part
        return np.maximum(yes_A, LEAST_WEIGHT), np.maximum(no_A, LEAST_WEIGHT)


def rates(opinions: Opinions) -> Rates:
    """Estimated rates of each annotator where every question is answered by yes, which is 1, or no, which is 0.

    Their prior takes everybody to overlook some of what is there and to make up half as much, whatever the share of yes
    is: so few shared items leave the majority its say, and nobody becomes infallible.

    Raises:
        SettingsError: an opinion is neither 0 nor 1, or there is none.

    Source: Dawid and Skene (1979), as `accuracies`, with both parameters of each observer.
    """
    check_places(opinions.class_id, 2, "Answers by yes (1) or no (0)")
    if not opinions.items:
        raise SettingsError("There are no opinions to compare; give those on at least one item.")
    count, yes_V = len(opinions.annotators), opinions.class_id == 1
    said_A = np.bincount(opinions.annotator, minlength=count)
    answers_N = np.bincount(opinions.item, minlength=opinions.items)
    true_N = np.bincount(opinions.item, weights=yes_V, minlength=opinions.items) / answers_N
    sensitivity_A = np.full(count, np.nan)
    specificity_A = np.full(count, np.nan)
    share = 0.5
    for _ in range(STEPS):
        share = (float(true_N.sum()) + 1) / (opinions.items + 2)
        strength = YES_NO_STRENGTH / min(share, 1 - share)
        true_V = true_N[opinions.item]
        yes_A = np.bincount(opinions.annotator, weights=true_V, minlength=count)
        missed_A = np.bincount(opinions.annotator, weights=true_V * ~yes_V, minlength=count)
        wrong_A = np.bincount(opinions.annotator, weights=(1 - true_V) * yes_V, minlength=count)
        before_A, other_A = sensitivity_A, specificity_A
        sensitivity_A = 1 - (missed_A + OVERLOOKED * YES_NO_STRENGTH) / (yes_A + strength * share)
        specificity_A = 1 - (wrong_A + MADE_UP * YES_NO_STRENGTH) / (said_A - yes_A + strength * (1 - share))
        if max(np.abs(sensitivity_A - before_A).max(), np.abs(specificity_A - other_A).max()) < TOLERANCE:
            break
        for_yes_A = np.log(sensitivity_A / (1 - specificity_A))
        for_no_A = np.log(specificity_A / (1 - sensitivity_A))
        evidence_V = np.where(yes_V, for_yes_A[opinions.annotator], -for_no_A[opinions.annotator])
        evidence_N = np.bincount(opinions.item, weights=evidence_V, minlength=opinions.items)
        true_N = 1 / (1 + np.exp(-(evidence_N + np.log(share / (1 - share)))))
    per_question = len(opinions.item) / opinions.items
    return Rates(share=share, sensitivity=sensitivity_A, specificity=specificity_A, per_question=per_question)


def consensus(lake: Lake, reviewers: Sequence[str] = ()) -> StageResult:
    """Estimate the annotators' skills and their agreement from the answers in force; writes only what changed.

    Args:
        lake: the warehouse.
        reviewers: annotators who have the last word; they judge nobody, and nobody judges them.
    """
    with lake.read() as reader:
        opinions = read_opinions(reader, reviewers)
        people = {name for (name,) in reader.rows("SELECT annotator FROM annotators")} if reviewers else set[str]()
        known = reader.arrow("SELECT * EXCLUDE (run_id, committed_at) FROM annotator_skills ORDER BY annotator")
        measured = reader.arrow(
            "SELECT * EXCLUDE (run_id, committed_at) FROM metrics WHERE series = 'annotators' ORDER BY metric_id"
        )
        gold = int(reader.scalar("SELECT count(*) FROM gold_labels") or 0) if opinions.items or measured.num_rows else 0
        names = reader.class_names()
    classes = max(len(names), 2, int(opinions.class_id.max(initial=0)) + 1)
    skills = sorted(_skills(opinions, classes) + [_last_word(name) for name in reviewers], key=itemgetter("annotator"))
    alpha = opinions.alpha()
    # Where the alpha is defined no more, a row without one says so: else the last one that was would still be read.
    told = alpha is not None or measured.num_rows > 0
    metrics = [_metric(alpha, opinions, gold, names)] if told else []
    new_skills = skills if skills != known.to_pylist() else []
    gone = sorted({row["annotator"] for row in known.to_pylist()} - {row["annotator"] for row in skills})
    new_metrics = [row for row in metrics if row not in measured.to_pylist()]
    params = {"skills": hash_token({"rows": skills}), "metrics": hash_token({"rows": metrics})}
    with lake.stage("consensus", version=1, inputs=("annotations",), params=params) as stage:
        if not (new_skills or gone or new_metrics):
            return stage.nothing()
        writes: list[Write] = []
        if gone:
            writes.append(Delete("annotator_skills", pa.table({"annotator": gone})))
        if new_skills:
            writes.append(Upsert("annotator_skills", pa.Table.from_pylist(new_skills)))
        if new_metrics:
            writes.append(Upsert("metrics", pa.Table.from_pylist(new_metrics)))
        detail: dict[str, Any] = {"items with several opinions": opinions.items // opinions.per_item}
        if alpha is not None:
            detail["krippendorff_alpha"] = round(alpha, 4)
        if strangers := sorted(set(reviewers) - people):
            detail["advice"] = (
                f"no answer is by {', '.join(strangers)} so far, of [annotate] reviewers. A name counts letter by "
                "letter, as in the view annotators."
            )
        return stage.commit(writes, rows_read=len(opinions.item) // opinions.per_item, detail=detail)


def _check_lengths(*columns: Any) -> None:
    if len({np.shape(column) for column in columns}) > 1 or np.ndim(columns[0]) != 1:
        shapes = ", ".join(str(np.shape(column)) for column in columns)
        raise SettingsError(f"The columns of the answers have the shapes {shapes}; give one entry for each answer.")


def _skills(opinions: Opinions, classes: int) -> list[dict[str, Any]]:
    if not opinions.items:
        return []
    compared_A = np.bincount(opinions.annotator, minlength=len(opinions.annotators)) // opinions.per_item
    if opinions.yes_or_no:
        of_each = rates(opinions)
        yes_A, no_A = of_each.weights()
        columns = (of_each.accuracy(), yes_A, no_A, of_each.sensitivity)
    else:
        found_A = np.round(accuracies(opinions, classes), DECIMALS)
        columns = (found_A, np.maximum(np.log(found_A * (classes - 1) / (1 - found_A)), LEAST_WEIGHT))
    rows = zip(*(column.round(DECIMALS).tolist() for column in columns), strict=True)
    return [
        _skill(name, int(compared), *row)
        for name, compared, row in zip(opinions.annotators, compared_A, rows, strict=True)
    ]


def _skill(
    annotator: str,
    compared: int,
    accuracy: float | None,
    weight: float,
    weight_no: float | None = None,
    sensitivity: float | None = None,
) -> dict[str, Any]:
    said = {"annotator": annotator, "accuracy": accuracy, "weight": weight, "compared": compared}
    return {**said, "weight_no": weight_no, "sensitivity": sensitivity}


def _last_word(reviewer: str) -> dict[str, Any]:
    return _skill(reviewer, 0, None, LAST_WORD)


def _metric(alpha: float | None, opinions: Opinions, gold: int, names: Sequence[str]) -> dict[str, Any]:
    items, answers = (n // opinions.per_item for n in (opinions.items, len(opinions.item)))
    detail: dict[str, Any] = {"items": items, "answers": answers, "annotators": len(opinions.annotators)}
    if opinions.per_item > 1:
        rounded = [None if of is None else round(of, DECIMALS) for of in opinions.alphas()]
        detail["by_class"] = dict(zip(names, rounded, strict=True))
    return {
        "metric_id": f"annotators/krippendorff_alpha/train/{gold}/0",
        "series": "annotators",
        "name": "krippendorff_alpha",
        "split": "train",
        "labels": gold,
        "seed": 0,
        "value": None if alpha is None else round(alpha, DECIMALS),
        "detail": json.dumps(detail, sort_keys=True),
    }
