"""The sentences of the report that weigh figures against each other, so that template and drawings need not.

Each says what was measured and what is missing, also when the result is not in Siftline's favour.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from active.selection.exploration import FairScore
from active.selection.stopping import outlook
from features.embedding.stage import MOSTLY_READ
from flows.report.facts import Facts, Point
from flows.report.plots import Curve, curve_ticks
from flows.report.rare_classes import DOMINANT, dominant
from flows.report.text import count, counted, duration, percent, score
from flows.report.visible import visible
from weak_labels.analysis.lf_report import FunctionFigures, wilson

SERIES = {
    "siftline": ("Siftline", "labels picked by value, and weak labels"),
    "random": ("Random pick", "labels picked at random, and weak labels"),
    "gold_only": ("Same, no weak labels", "labels picked by value, nothing else"),
    "random_gold_only": ("Random, no weak labels", "labels picked at random, nothing else"),
    "label_model": ("Label model alone", "the combined votes of the labeling functions, no end model"),
    "all_gold": ("All labels", "the end model taught with every label of the train split"),
}
ACROSS = ("all_gold",)
FAIR_ITEMS = 10
"""With fewer the interval says nothing."""
LEFT_ASIDE = 0.2
"""Share of what weak labels taught below which the end model is said to leave it aside; before any label it is 0.98."""
LEARNS = "It takes labeling functions that vote, or answers, for more than one class; then run `siftline run`."
"""What an end model needs."""
_HOW = {
    "siftline": "set [evaluate] gold in siftline.toml and run `siftline run`",
    "gold_only": "set [evaluate] gold in siftline.toml and run `siftline run` once people have answered",
    "label_model": "write labeling functions, set [evaluate] gold in siftline.toml and run `siftline run`",
    "random": "set [evaluate] gold, with the labels of the train split too, from which nothing else learns, and run "
    "`siftline run` once people have answered",
    "all_gold": "set [evaluate] gold, with the labels of the train split too, and run `siftline run`",
}
_AS = {"random_gold_only": "random"}
"""Series that are had in the way of another."""
SCORED_BEFORE = "The end model of now has not been scored; this is what earlier ones were scored with."


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The latest score of Siftline beside its rivals' at the same number of labels."""

    labels: int
    value: float
    random: Point | None
    weak_only: float | None
    ceiling: Point | None


def compare(facts: Facts, name: str = "accuracy") -> Comparison | None:
    """The figures that the key result names; None where Siftline was not scored."""
    series = facts.series[name]
    own = series.get("siftline", [])
    if not own:
        return None
    last = own[-1]
    ceiling = series.get("all_gold", [])
    return Comparison(
        labels=last.labels,
        value=last.mean,
        random=next((p for p in series.get("random", []) if p.labels == last.labels), None),
        weak_only=own[0].mean if own[0].labels == 0 and last.labels else None,
        ceiling=ceiling[-1] if ceiling else None,
    )


def key_result(facts: Facts) -> str:
    """The result of the project in one sentence."""
    if not facts.items:
        return "Nothing has been read yet."
    work = f"{counted(facts.gold_labels, 'label')}"
    if facts.gold_labels:
        kind = f"{facts.simulation} annotation".lstrip()
        timed = facts.seconds and facts.timed_labels == facts.gold_labels
        work += f" from {duration(facts.seconds)} of {kind}" if timed else f" from {kind}"
    found = compare(facts)
    if found is None:
        fair = fair_sentence(facts.fair)
        said = f". {fair}" if fair else "; no accuracy has been measured yet."
        return f"{counted(facts.items, 'item')}, {work}{said}"
    if found.labels != facts.gold_labels:
        work += f" (scored with {count(found.labels)})"
    said = f"{work}: accuracy {score(found.value)}"
    if found.random:
        said += f"; a random pick of the same size gets {plus_minus(found.random)}"
    return f"{said}.{sets_sentence(facts, found.labels)}{' ' + SCORED_BEFORE if facts.scored_before else ''}"


def sets_sentence(facts: Facts, labels: int) -> str:
    """What accuracy is where an item may have several classes, and the figure beside it; empty where it has one."""
    micro_f1 = measured(facts, "micro_f1", labels)
    return "" if micro_f1 is None else f" An item is right where all its classes are; micro F1 is {score(micro_f1)}."


def plus_minus(point: Point) -> str:
    """A mean with its standard deviation over seeds, where there is one: 0.931 ± 0.003."""
    return score(point.mean) + (f" ± {score(point.spread)}" if point.spread is not None else "")


def shown(value: float) -> float:
    """A figure as the page shows it: words that weigh two figures go by what a reader sees of them."""
    return round(value, 3)


def are(n: float) -> str:
    """The verb to a count."""
    return "is" if n == 1 else "are"


def moved(before: float, now: float) -> str:
    """How a figure came from another: up from, down from, or the same as it."""
    if shown(now) == shown(before):
        return f"the same as {score(before)}"
    return f"{'up' if now > before else 'down'} from {score(before)}"


def curve_sentence(facts: Facts) -> str:
    """What the learning curve shows, with the verdict against the random picks."""
    found = compare(facts)
    if found is None:
        return ""
    said = f"With {counted(found.labels, 'label')} the end model reaches {score(found.value)}"
    if found.weak_only is not None:
        said += f", {moved(found.weak_only, found.value)} with weak labels alone"
    rival, harm = found.random, harm_sentence(facts)
    if rival is None:
        return f"{said}; no random pick of that size has been scored to compare it with. {harm}".rstrip()
    value, low, high = (shown(v) for v in (found.value, rival.low, rival.high))
    side = "above" if value > high else "below" if value < low else ""
    if rival.seeds == 1:
        one = f"the one random pick of the same size ({score(rival.mean)})"
        return f"{said}; that is {side or 'equal to'} {one}. {harm}".rstrip()
    picks = f"{rival.seeds} random picks of the same size ({score(rival.low)} to {score(rival.high)})"
    said = f"{said}; that is {f'{side} every one of' if side else 'within the range of'} {picks}."
    f1 = compare(facts, "macro_f1")
    if f1 and f1.random and f1.labels == found.labels:
        said += f" Macro F1 is {score(f1.value)}, against {plus_minus(f1.random)} for the random picks."
    return f"{said} {harm}".rstrip()


def harm_sentence(facts: Facts) -> str:
    """That people's labels are worth more without the labeling functions; empty where the score has no room for it.

    That is within its 95% interval, which is wide here: the two are scored on the same items.
    """
    found = compare(facts)
    if found is None or not facts.scored_items:
        return ""
    alone = measured(facts, "accuracy", found.labels, "gold_only")
    _, high = wilson(round(found.value * facts.scored_items), facts.scored_items)
    if alone is None or shown(alone) <= shown(high):
        return ""
    return (
        f"The labeling functions do harm: without weak labels the same labels reach {score(alone)}. "
        "`siftline lf report` tells which of them people's labels contradict; mend or remove those."
    )


def fair_sentence(fair: FairScore | None) -> str:
    """How right the end model was on items drawn at random; empty where too few have answers to say."""
    if fair is None or fair.items < FAIR_ITEMS:
        return ""
    low, high = wilson(fair.right, fair.items)
    last = f" Of the {count(fair.last)} answered last: {percent(fair.last_right / fair.last)}." if fair.last else ""
    if fair.commonest >= DOMINANT * fair.items:
        last += f" {count(fair.commonest)} have the same label, so this says little of other classes."
    of = f" from those of before {fair.before:%Y-%m-%d %H:%M} (UTC)" if fair.before else ""
    return (
        f"Of {count(fair.items)} items drawn at random{of} the end model had {count(fair.right)} right before people "
        f"answered: {percent(fair.right / fair.items)}, 95% interval {percent(low)} to {percent(high)}.{last}"
    )


def fair_tile(fair: FairScore | None) -> tuple[str, str] | None:
    """`fair_sentence` in short: the share, and how far a few items can be believed; None where too few have answers."""
    if fair is None or fair.items < FAIR_ITEMS:
        return None
    low, high = wilson(fair.right, fair.items)
    said = f"95% interval {percent(low)} to {percent(high)}, on {count(fair.items)} items drawn at random"
    return percent(fair.right / fair.items), said


def fair_soon(fair: FairScore | None) -> str:
    """How far it is to the first figure of the fair sample; empty where it is there, or where none is drawn."""
    if fair is None or fair.items >= FAIR_ITEMS:
        return ""
    return (
        f"{counted(fair.items, 'item')} drawn at random {'counts' if fair.items == 1 else 'count'} so far; from "
        f"{FAIR_ITEMS} on they tell how often the end model is right."
    )


def outlook_sentence(facts: Facts) -> str:
    """What more labels would bring, where the curve is long enough to say and there are so many items left.

    Nothing where one class hides the others: their labels may bring much, and accuracy hardly rises by it.
    """
    if dominant(facts.confusion) is not None:
        return ""
    points = facts.series["accuracy"].get("siftline", ())
    found = outlook({point.labels: point.mean for point in points})
    left = dict(facts.splits).get("train", 0) - facts.gold_labels
    return found.sentence() if found and found.labels <= left else ""


def curve_caption(facts: Facts, curves: Sequence[Curve]) -> str:
    """How the learning curve was measured."""
    parts: list[str] = []
    n = facts.scored_items
    found = compare(facts)
    where = f"{facts.scored_split} split"
    parts.append(f"Measured on the {where}, n = {count(n)}." if n else f"Measured on the {where}.")
    if twins := facts.also_in_train:
        parts.append(f"Of its texts {counted(twins, 'stands', 'stand')} in train too, word for word.")
    if n and found:
        low, high = wilson(round(found.value * n), n)
        parts.append(
            f"With that n, an accuracy of {score(found.value)} has a 95% interval of {score(low)} to {score(high)}."
        )
    seeds = {p.seeds for c in curves if c.key == "random" for p in c.points}
    if seeds and max(seeds) > 1:
        many = str(max(seeds)) if len(seeds) == 1 else f"{min(seeds)} to {max(seeds)}"
        parts.append(f"Random picks: mean of {many} seeds, band from the lowest to the highest.")
    parts.append("Siftline: one run.")
    return " ".join(parts)


def axis_note(curves: Sequence[Curve]) -> str:
    """What a reader must know about the vertical axis of a learning curve."""
    start = curve_ticks(curves)[0]
    note = "Figures: the last point of each curve."
    if start > 0:
        note += " The vertical axis does not start at 0."
    below = [c.label for c in curves if c.points[-1].mean < start]
    return note + (f" Ending below it: {'; '.join(below)}." if below else "")


def curves(facts: Facts, name: str) -> list[Curve]:
    """The series that were measured, in the order of the legend."""
    return [
        Curve(key=key, label=label, points=facts.series[name][key], across=key in ACROSS)
        for key, (label, _) in SERIES.items()
        if facts.series[name].get(key)
    ]


def missing_series(facts: Facts) -> list[tuple[str, str]]:
    """Series that were not measured: what they are and how to get them."""
    return [
        (f"{label} ({what})", _HOW[_AS.get(key, key)])
        for key, (label, what) in SERIES.items()
        if not facts.series["accuracy"].get(key)
    ]


def ceiling_share(facts: Facts) -> tuple[str, str] | None:
    """Share of the accuracy of all labels that was reached, and with how many of them, beside that with none.

    Nothing where one class hides the others: always saying that class is nearly all of it.
    """
    found = compare(facts) if dominant(facts.confusion) is None else None
    if found is None or found.ceiling is None or not found.ceiling.mean or not found.ceiling.labels:
        return None
    said = f"with {percent(found.labels / found.ceiling.labels)} of the labels"
    if found.weak_only is not None:  # what functions and the model had by themselves is nobody's label's worth
        said += f", {percent(found.weak_only / found.ceiling.mean)} with none"
    return percent(found.value / found.ceiling.mean), said


def pace(facts: Facts) -> str:
    """The time of a label, over the labels whose answers came with a time; empty where none did."""
    if not facts.timed_labels:
        return ""
    said = f"{facts.label_seconds / facts.timed_labels:.1f} s per label"
    if facts.timed_labels < facts.gold_labels:
        said += f", for the {count(facts.timed_labels)} of {count(facts.gold_labels)} that came with a time"
    return said


def hours_sentence(facts: Facts) -> str:
    """How much people were asked and how long it took them."""
    if not facts.batches:
        return ""
    tasks = sum(int(b["tasks"]) for b in facts.batches)
    answered = sum(int(b["answered"]) for b in facts.batches)
    batches = counted(len(facts.batches), "batch", "batches")
    said = f"{count(answered)} of {counted(tasks, 'task')} in {batches} {are(answered)} answered"
    if skipped := sum(int(b["skipped"]) for b in facts.batches):
        said += f", {count(skipped)} of them by a skip"
    if paced := pace(facts):
        said += f"; all answers took {duration(facts.seconds)}, {paced}"  # one of several people leaves a task open
    return said + "."


def timed_sentence(facts: Facts) -> str:
    """What an answer was expected to take, beside what it took."""
    found = facts.timed
    if not found["answers"]:
        return ""
    return (
        f"The median of {counted(found['answers'], 'answer')} took {found['measured']:.1f} s; "
        f"{found['expected']:.1f} s were expected when their items were selected."
    )


def functions_sentence(facts: Facts) -> str:
    """How far the labeling functions reach."""
    functions = facts.insight.functions
    if not functions:
        return ""
    judged = [(f.accuracy, f.gold_votes) for f in functions if f.accuracy is not None]
    # Its votes, not its coverage: a function that has been applied to two items may cover both.
    share = max(f.votes for f in functions) / max(dict(facts.splits).get("train", 0), 1)
    said = f"{counted(len(functions), 'function')}; the widest votes on {percent(share)} of the train split"
    if judged:
        right = sum(round(accuracy * votes) for accuracy, votes in judged)
        votes = sum(votes for _, votes in judged)
        said += (
            f"; where people answered, {count(right)} of {counted(votes, 'vote')} {are(right)} right "
            f"({percent(right / votes)})"
        )
    return " ".join(filter(None, [f"{said}.", _to_mend(functions), aside_sentence(facts.belief_in_weak_labels)]))


def _to_mend(functions: Sequence[FunctionFigures]) -> str:
    """Which function to mend first and why; empty where none stands out, as one that is only often wrong does not."""
    if off := [f for f in functions if f.switched_off]:
        first, why = off[0], "it is switched off, so that its votes do not count"
    elif wrong := [f for f in functions if (f.accuracy_high or 1) < 0.5 and f.gain is not None and f.gain <= 0]:
        first = max(wrong, key=lambda f: f.gold_votes * (1 - (f.accuracy or 0)))
        wrong_votes = f"{first.gold_votes * (1 - (first.accuracy or 0)):.0f} of {counted(first.gold_votes, 'vote')}"
        why = f"people contradict {wrong_votes}, and without it the votes are right on no fewer labelled items"
    elif failing := [f for f in functions if f.faults]:
        first = max(failing, key=lambda f: f.faults)
        why = f"it fails on {counted(first.faults, 'item')}"
    else:
        return ""
    return f"Mend '{visible(first.name)}' first: {why}."


def aside_sentence(share: float | None) -> str:
    """That the end model makes little of what the labeling functions taught it; empty where it does, or nobody knows.

    It needs people's labels only, where `harm_sentence` needs a gold file.
    """
    if share is None or share >= LEFT_ASIDE:
        return ""
    return (
        "People's labels foretell each other better without the labeling functions, so the end model leaves what these "
        "taught aside. `siftline lf report` tells which of them people contradict; mend or remove those."
    )


def unread_sentence(share: float) -> str:
    """That the encoder cannot read the texts, and what to do; empty where it can read most of them."""
    if share < MOSTLY_READ:
        return ""
    return (
        f"The encoder cannot read the texts: {share:.0%} of their word pieces are unknown to it or single letters, as "
        "with a language that it did not learn, or with ids. So vectors tell little, and labels teach little. Take "
        "another column as text, or make an encoder from a model of that language with `siftline engine distill "
        "--from` (engine/README.md)."
    )


def values_sentence(facts: Facts) -> str:
    """What the values of the last cycle look like."""
    v = facts.values
    if v is None or not v.items:
        return ""
    said = f"{counted(v.items, 'item was', 'items were')} valued for cycle {v.cycle}"
    if not v.selected:
        return said + "; none is selected by value yet."
    return said + f"; {counted(v.selected, 'of them was', 'of them were')} selected by value."


def confusion_sentence(facts: Facts, names: Sequence[str]) -> str:
    """How many items were classified rightly, and the commonest mistake."""
    matrix = facts.confusion
    n = sum(sum(row) for row in matrix)
    if not n:
        return ""
    right = sum(matrix[i][i] for i in range(len(matrix)))
    said = f"{count(right)} of {counted(n, 'item')} {are(right)} classified rightly ({score(right / n)})"
    if n == right:
        return said + "."
    cells = [(matrix[i][j], i, j) for i in range(len(matrix)) for j in range(len(matrix)) if i != j]
    most = max(wrong for wrong, _, _ in cells)
    first, *others = [f"{names[i]} read as {names[j]}" for wrong, i, j in cells if wrong == most]
    as_common = others[0] if len(others) == 1 else f"{len(others)} others"
    said += f"; the commonest mistake is {first} ({count(most)})"
    return said + (f", as often as {as_common}." if others else ".")


def measured(facts: Facts, name: str, labels: int, series: str = "siftline") -> float | None:
    """A figure with so many labels on the scored split, mean of the seeds; None where it was not measured."""
    return next((point.mean for point in facts.series[name].get(series, ()) if point.labels == labels), None)


def by_class_sentence(rows: Sequence[Mapping[str, Any]]) -> str:
    """How the classes of a multi-label project differ."""
    known = [row for row in rows if row["f1"] is not None]
    if not known:
        return "No item has a class, and none is predicted."
    worst, best = (choose(known, key=lambda row: row["f1"]) for choose in (min, max))
    if len(known) == 1:
        return f"The F1 of {best['name']} is {score(best['f1'])}; no other class is in the data or predicted."
    if shown(worst["f1"]) == shown(best["f1"]):
        return f"The {len(known)} classes that occur are found equally well (F1 {score(best['f1'])})."
    return (
        f"The class that is found best is {best['name']} (F1 {score(best['f1'])}), and the one that is found worst "
        f"{worst['name']} ({score(worst['f1'])})."
    )


def calibration_sentence(facts: Facts) -> str:
    """How far the end model of the confusion matrix can be believed."""
    error = measured(facts, "calibration_error", facts.confusion_labels)
    if error is None:
        return ""
    least = facts.calibration_by_chance
    best = "0 is a model that is as often right as it says"
    if least is not None:  # few items are right more or less often than was said of them, whatever that was
        best = f"a model that is as often right as it says has {score(least)} on so many items"
    return (
        f"Its probabilities lie {score(error)} from the shares of right answers on the mean (expected calibration "
        f"error, 15 bins; {best})."
    )


def quality_sentence(facts: Facts) -> str:
    """What became of the records that were read last."""
    if not facts.ingests:
        return ""
    last = facts.ingests[-1]
    n = {key: int(last.get(key, 0)) for key in ("read", "stored", "quarantined", "duplicate")}
    return (
        f"Of {counted(n['read'], 'record')} in the last read, {counted(n['stored'], 'was', 'were')} stored, "
        f"{count(n['quarantined'])} quarantined and {counted(n['duplicate'], 'was', 'were')} there already."
    )
