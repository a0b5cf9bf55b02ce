"""`siftline report`: the page itself, put together from facts, sentences and pictures, and written in one step."""

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FunctionLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from features.readers.record import REASONS
from flows.report import narrative, plots, text
from flows.report.embedding_map import lay_out
from flows.report.facts import Facts, read_facts
from flows.report.rare_classes import rare_sentence
from flows.report.sample import MapItems, Row
from flows.report.visible import visible
from warehouse import Lake, siftline_version
from warehouse.files.atomic_file import replaced_file
from warehouse.schema.answer_views import NO_CLASS
from warehouse.schema.tables import rows_in_words
from weak_labels.analysis.lf_report import FunctionFigures, wilson

_MAP_NAME = 24
_MAP_TEXT = 110
_MAP_REASON = 160
_NONE_FITS = -2
"""In place of a class on the map, where the model says that none fits."""
_QUEUE_TEXT = 260
_NEIGHBOURS = 3
_MATRIX_CLASSES = 60
_FUNCTIONS = 60
_NAMED_COLUMNS = 12
"""Classes of a matrix, up to which its columns have their names; of more they have the numbers that the rows tell."""


def write_report(lake: Lake, out: Path, *, title: str, classes: Sequence[str], seed: int = 0) -> Path:
    """Write the report of a project: one HTML page that needs no network.

    The page is drawn from one snapshot of the warehouse; a part that has nothing to show yet says so. The file is
    replaced in one step, so a reader never sees half a page. It holds texts of the data, so like the warehouse it is
    readable by its owner alone until somebody shares it.

    Args:
        lake: the warehouse; it is only read.
        out: file to write; its folder is made.
        title: of the project.
        classes: names by class_id, for a warehouse that has none yet.
        seed: `[select] seed`, by which the fair sample is drawn.

    Returns:
        `out`.
    """
    with lake.read() as reader:
        facts = read_facts(reader, seed=seed)
        classes = reader.class_names() or classes
    item_map = _map(facts.map, classes) if facts.map else None
    page = _render(facts, item_map, title=title, classes=classes)
    place = out.absolute()
    place.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(place) as file:
        file.write_text(page, "utf-8", newline="\n")
    return out


def class_name(classes: Sequence[str], class_id: int | None) -> str:
    """Name of a class; a dash for none."""
    if class_id is None or class_id < 0:
        return "–"
    return classes[class_id] if class_id < len(classes) else f"class {class_id}"


def _render(facts: Facts, item_map: Mapping[str, Any] | None, *, title: str, classes: Sequence[str]) -> str:
    name_of = partial(class_name, classes)
    style, script = _resource("report.css"), _resource("report.js")
    names = [name_of(i) for i in range(len(facts.confusion))]
    apart = [_apart(name) for name in names]
    by_class = [_class_row(name_of(number), *counts) for number, counts in enumerate(facts.by_class)]
    return _template().render(
        facts=facts,
        title=title,
        written=datetime.now(UTC),
        version=siftline_version(),
        policy=_policy(style, script),
        style=Markup(style),  # noqa: S704 - our own file
        script=Markup(script),  # noqa: S704 - our own file
        story=narrative,
        name_of=name_of,
        curve_plots=_curve_plots(facts),
        swatch=plots.swatch,
        share_bar=plots.share_bar,
        accuracy_mark=_accuracy_mark,
        values_plot=_values_plot(facts),
        components_plot=_components_plot(facts),
        rare=_named(rare_sentence(facts.confusion, apart)),
        confusion=_confusion(facts, names),
        confusion_sentence=_named(narrative.confusion_sentence(facts, apart)),
        functions=_functions(facts.insight.functions),
        by_class=by_class,
        by_class_sentence=_named(
            narrative.by_class_sentence([{**row, "name": _apart(row["name"])} for row in by_class])
        ),
        item_map=item_map,
        quality_plot=_quality_plot(facts),
        queue_text=_QUEUE_TEXT,
        few_rows=text.FEW_ROWS,
        reason_words=REASONS,
        neighbours=neighbours(facts),
        suggestion=partial(suggestion, classes),
        suggested=any(suggestion(classes, row) for row in facts.queue),
    )


def neighbours(facts: Facts) -> dict[str, list[dict[str, Any]]]:
    """The nearest ones of the map's items to each queued one, with the class a label or the end model gave them."""
    if facts.map is None:
        return {}
    place = {row["item_id"]: number for number, row in enumerate(facts.map.rows)}
    found: dict[str, list[dict[str, Any]]] = {}
    for queued in facts.queue:
        own = place.get(queued["item_id"])
        if own is None:
            continue
        cosine = facts.map.vectors @ facts.map.vectors[own]
        near = [int(n) for n in np.argsort(-cosine, kind="stable")[: _NEIGHBOURS + 1] if n != own][:_NEIGHBOURS]
        found[queued["item_id"]] = [
            {
                "cosine": round(float(cosine[n]), 6),  # that of equal vectors misses 1 by the rounding of 32 bits
                "said": facts.map.rows[n]["gold_label"],
                "guessed": facts.map.rows[n]["label"],
                "content": text.excerpt(facts.map.rows[n]["content"], _MAP_TEXT),
            }
            for n in near
        ]
    return found


def suggestion(classes: Sequence[str], row: Mapping[str, Any]) -> str | None:
    """The class, or in a multi-label project the classes, that a task of the queue suggests; None without any."""
    if row["predictions"] is not None:
        return ", ".join(class_name(classes, c) for c in row["predictions"]) or NO_CLASS
    return class_name(classes, row["prediction"]) if row["prediction"] is not None and row["prediction"] >= 0 else None


@cache
def _template() -> Template:
    """The page's template, which takes a second to compile."""
    environment = Environment(
        autoescape=True,
        loader=FunctionLoader(_resource),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) or not isinstance(value, str) else visible(value),
    )
    for name in ("count", "counted", "score", "percent", "duration", "moment", "excerpt"):
        environment.filters[name] = getattr(text, name)
    environment.filters["rows_in_words"] = rows_in_words
    environment.filters["breakable"] = _breakable
    environment.filters["commands"] = _commands
    return environment.get_template("report.html.j2")


def _breakable(name: str) -> Markup:
    """A name that may break after an underscore."""
    return Markup("_<wbr>").join(visible(name).split("_"))


def _commands(sentence: str) -> Markup:
    """A sentence of ours with its parts between backticks as code."""
    parts = [Markup("<code>{}</code>").format(p) if i % 2 else escape(p) for i, p in enumerate(sentence.split("`"))]
    return Markup("").join(parts)


def _apart(name: str) -> str:
    """A name for a sentence that `_named` shows: between marks that no name has, as `visible` takes them out."""
    return f"\u2068{visible(name)}\u2069"


def _named(sentence: str) -> Markup:
    """A sentence with its names of classes in `<bdi>`: a figure behind one that is read from the right stays behind."""
    parts = re.split("[\u2068\u2069]", sentence)
    return Markup("").join(Markup("<bdi>{}</bdi>").format(p) if i % 2 else escape(p) for i, p in enumerate(parts))


def _policy(style: str, script: str) -> str:
    """The content policy: nothing from anywhere, and only this style sheet and this script."""

    def source(content: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; script-src {source(script)}; style-src {source(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _curve_plots(facts: Facts) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = []
    names = {"accuracy": "Accuracy", "micro_f1": "Micro F1", "macro_f1": "Macro F1"}
    for name, label in names.items():
        curves = narrative.curves(facts, name)
        if curves:
            plot = plots.both(partial(plots.learning_curve, curves, label))
            shown.append({"name": name, "label": label, "plot": plot, "curves": curves})
    return shown


def _values_plot(facts: Facts) -> Markup | None:
    values = facts.values
    if values is None or not values.items:
        return None
    return plots.both(partial(plots.histogram, values))


def _components_plot(facts: Facts) -> Markup | None:
    rows = facts.values.components if facts.values else []
    return plots.both(partial(plots.components, rows)) if rows else None


def _quality_plot(facts: Facts) -> Markup | None:
    if not facts.ingests:
        return None
    parts = [(key, key, int(facts.ingests[-1].get(key, 0))) for key in ("stored", "duplicate", "quarantined")]
    return plots.both(partial(plots.stacked_bar, parts))


def _accuracy_mark(share: float, votes: int) -> dict[str, Any]:
    low, high = wilson(round(share * votes), votes)
    tip = f"{text.percent(share)} of {text.counted(votes, 'vote')}"
    tip += f", 95% interval {text.percent(low)} to {text.percent(high)}"
    return {"plot": plots.interval_mark(share, low, high, tip), "low": low, "high": high}


def _functions(functions: Sequence[FunctionFigures]) -> tuple[Sequence[FunctionFigures], Sequence[FunctionFigures]]:
    """Those to look at, and the rest, since 1,000 fill 40 pages; what fails or is contradicted is looked at."""

    def well(f: FunctionFigures) -> bool:
        return not f.switched_off and not f.faults and (f.accuracy_high is None or f.accuracy_high >= 0.5)

    first = {f.name for f in sorted(functions, key=well)[:_FUNCTIONS]}
    return [f for f in functions if f.name in first], [f for f in functions if f.name not in first]


def _class_row(name: str, hit: int, missed: int, wrong: int) -> dict[str, Any]:
    """A class of a multi-label project: counts of items and the shares that follow from them, None where nothing is."""

    def share(of: float) -> float | None:
        return hit / of if of else None

    shares = {"recall": share(hit + missed), "precision": share(hit + wrong), "f1": share(hit + (missed + wrong) / 2)}
    return {"name": name, "has": hit + missed, "given": hit + wrong, "both": hit, **shares}


def _confusion(facts: Facts, names: Sequence[str]) -> dict[str, Any] | None:
    """Rows of the heat table; the shade of a cell grows with the root of its share of the true class.

    Of many classes those with the most mistakes are shown. Totals, recall and precision are over all classes.
    """
    matrix = facts.confusion
    if not matrix:
        return None
    columns = [sum(row[j] for row in matrix) for j in range(len(matrix))]
    mistakes = [sum(row) + columns[i] - 2 * row[i] for i, row in enumerate(matrix)]
    kept = sorted(sorted(range(len(matrix)), key=lambda i: (-mistakes[i], i))[:_MATRIX_CLASSES])
    rows: list[dict[str, Any]] = []
    for i in kept:
        row, total = matrix[i], sum(matrix[i])
        cells = [
            {
                "n": n,
                "shade": f"{'hit' if i == j else 'miss'} h{round(10 * (n / total) ** 0.5)}" if n else "zero",
                "share": n / total if total else None,
            }
            for j, n in ((j, row[j]) for j in kept)
        ]
        rows.append({"name": names[i], "cells": cells, "total": total, "recall": row[i] / total if total else None})
    return {
        "names": [names[j] for j in kept],
        "numbered": len(kept) > _NAMED_COLUMNS,
        "rows": rows,
        "columns": [columns[j] for j in kept],
        "precision": [matrix[j][j] / columns[j] if columns[j] else None for j in kept],
        "total": sum(columns),
        "classes": len(matrix),
    }


def _map(items: MapItems, classes: Sequence[str]) -> dict[str, Any]:
    places, method = lay_out(items.vectors)
    predicted = [_colour(row) for row in items.rows]
    cycles = [int(row["cycle"] or 0) for row in items.rows]
    sizes = Counter(c for c in predicted if c >= 0)
    ranks = {c: rank for rank, (c, _) in enumerate(sorted(sizes.items(), key=lambda pair: (-pair[1], pair[0])))}
    names = {c: class_name(classes, c) for c in ranks}
    if _NONE_FITS in predicted:
        names[_NONE_FITS] = NO_CLASS
    full = {c: text.excerpt(name, _MAP_TEXT) for c, name in names.items()}
    points = plots.MapPoints(places=places, classes=predicted, cycles=cycles, names=text.excerpts(names, _MAP_NAME))
    data = [
        [
            round(1000 * float(x), 1),
            round(1000 * float(y), 1),
            class_id,
            cycle,
            text.excerpt(row["content"], _MAP_TEXT),
            text.excerpt(row["reason"], _MAP_REASON),
        ]
        for (x, y), class_id, cycle, row in zip(places, predicted, cycles, items.rows, strict=True)
    ]
    legend = [(c, class_name(classes, c), plots.class_style(rank), sizes[c]) for c, rank in ranks.items()]
    if _NONE_FITS in predicted:
        legend.append((_NONE_FITS, NO_CLASS, "none", predicted.count(_NONE_FITS)))
    if -1 in predicted:
        legend.append((-1, "no prediction yet", "none", predicted.count(-1)))
    return {
        "plot": plots.both(partial(plots.item_map, points, ranks)),
        "json": Markup(text.script_json({"points": data, "names": full})),  # noqa: S704 - escaped by script_json
        "legend": legend,
        "grey": max(0, len(ranks) - plots.STYLES),
        "shown": len(data),
        "embedded": items.embedded,
        "selected": sum(1 for c in cycles if c),
        "all_selected": items.selected,
        "cycles": len({c for c in cycles if c}),
        "method": method,
        "encoder_id": items.encoder_id,
        "list": sorted((row for row in items.rows if row["cycle"]), key=lambda row: (row["cycle"], row["item_id"])),
    }


def _colour(row: Row) -> int:
    """The class whose colour an item has: of several the most probable; `_NONE_FITS` for none, -1 if unpredicted."""
    if row["class_id"] is None:
        return -1
    return int(row["class_id"]) if row["class_ids"] else _NONE_FITS


def _resource(name: str) -> str:
    return (files("flows.report") / name).read_text("utf-8")
