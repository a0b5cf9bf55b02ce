"""The report's pictures as inline SVG. Each is drawn for a wide and a narrow page, so that text keeps its size.

Letters: N items, C classes. Every function takes plain values and returns markup; none reads the warehouse.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from flows.report.facts import Point, Quantiles, Values
from flows.report.svg import Scale, element, line, number, path, picture, rect, spread, text, tick_labels, ticks
from flows.report.text import count, score

WIDE, NARROW = 880, 358
FEW_DOTS = 400  # fewer dots are drawn larger
COLOURS = 10  # colours of report.css; classes 11 to 20 repeat them with squares, later ones are grey
STYLES = 2 * COLOURS


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One series of a learning curve.

    Attributes:
        key: class name of its colour.
        across: draw one horizontal line at its only value instead of a line over labels.
    """

    key: str
    label: str
    points: Sequence[Point]
    across: bool = False


def both(draw: Callable[[int], Markup]) -> Markup:
    """A picture, drawn for a width in pixels, in two widths; the style sheet shows the one that fits."""
    wide = element("div", {"class": "wide"}, draw(WIDE))
    return wide + element("div", {"class": "narrow"}, draw(NARROW))


def curve_range(curves: Sequence[Curve]) -> tuple[float, float]:
    """Least and greatest value that the axis must show.

    The rivals on equal terms (all but the curves without weak labels and the label model) are always inside. A curve
    far below them may leave at the bottom rather than press the others together.
    """
    main = [c for c in curves if c.key in ("siftline", "random", "all_gold")] or list(curves)
    values = [v for c in main for p in c.points for v in (p.low, p.high)]
    low, high = min(values), max(values)
    room = max(1.2 * (high - low), 0.04)
    ends = [c.points[-1].mean for c in curves if c not in main]
    return min([low, *(v for v in ends if v >= low - room)]), max([high, *(c.points[-1].high for c in curves)])


def curve_ticks(curves: Sequence[Curve], most: int = 6) -> list[float]:
    """Marks of the vertical axis, which begins at the first and ends at the last."""
    low, high = curve_range(curves)
    if low == high:  # room below: above 1 there is nothing
        low = max(0.0, high - 0.04)
    return ticks(low, min(high, 1.0), most)


def learning_curve(curves: Sequence[Curve], name: str, width: int) -> Markup:
    """Score over gold labels.

    Args:
        curves: at least one with at least one point.
        name: of the score, for the axis.
        width: of the picture in pixels.
    """
    named = width >= WIDE
    height = 400 if named else 300
    left, right, top, bottom = 52, width - (214 if named else 10), 28, height - 48
    y_ticks = curve_ticks(curves, 6 if named else 5)
    y = Scale(low=y_ticks[0], high=y_ticks[-1], start=bottom, end=top)
    counts = sorted({p.labels for c in curves if not c.across for p in c.points})
    last = max(counts, default=1) or 1
    x = Scale(low=0, high=last, start=left + 8, end=right - 8)
    parts: list[str] = [text(0, 14, name, "axis-name")]
    for value, shown in zip(y_ticks, tick_labels(y_ticks), strict=True):
        parts += [line(left, y(value), right, y(value), "grid"), text(left - 8, y(value) + 4, shown, "tick", "end")]
    x_ticks = counts if 1 < len(counts) <= (9 if named else 5) else ticks(0, last, 6 if named else 4, least_step=1)
    for value in x_ticks:
        if value <= last:
            parts.append(line(x(value), bottom, x(value), bottom + 5, "tick-mark"))
            parts.append(text(x(value), bottom + 20, count(value), "tick", "middle"))
    parts.append(text((left + right) / 2, height - 6, "labels from people", "axis-name", "middle"))
    for curve in curves:
        parts += _curve(curve, x, y, (left, right), bottom)
    if named:
        parts += _end_labels(curves, x, y, right, (top, bottom))
    label = f"Learning curve, {name}: " + "; ".join(
        f"{c.label} {score(c.points[-1].mean)} with {count(c.points[-1].labels)} labels" for c in curves
    )
    return picture(width, height, "plot curve", label, parts)


def _curve(curve: Curve, x: Scale, y: Scale, across: tuple[float, float], bottom: float) -> list[str]:
    parts: list[str] = []
    inside = [p for p in curve.points if y(p.mean) <= bottom + 0.5]
    if curve.across:
        return [line(across[0], y(p.mean), across[1], y(p.mean), f"series s-{curve.key}") for p in inside]
    if any(p.seeds > 1 for p in inside):
        band = [(x(p.labels), min(y(p.low), bottom)) for p in inside]
        band += [(x(p.labels), y(p.high)) for p in reversed(inside)]
        parts.append(path(band, f"band s-{curve.key}", closed=True))
    # Runs of neighbouring points inside the axis; a gap is never bridged.
    run: list[tuple[float, float]] = []
    runs = [run]
    for p in curve.points:
        if p in inside:
            run.append((x(p.labels), y(p.mean)))
        elif run:
            run = []
            runs.append(run)
    parts += [path(r, f"series s-{curve.key}") for r in runs if len(r) > 1]
    for p in inside:
        seeds = f", {p.seeds} seeds: {score(p.low)} to {score(p.high)}" if p.seeds > 1 else ""
        tip = f"{curve.label}\n{count(p.labels)} labels: {score(p.mean)}{seeds}"
        dot = {"cx": x(p.labels), "cy": y(p.mean), "r": 4.5 if curve.key == "siftline" else 3.0, "data-tip": tip}
        parts.append(element("circle", {**dot, "class": f"dot s-{curve.key}"}))
    return parts


def _end_labels(curves: Sequence[Curve], x: Scale, y: Scale, right: float, edges: tuple[float, float]) -> list[str]:
    curves = sorted(curves, key=lambda c: -c.points[-1].mean)
    wanted = [min(y(c.points[-1].mean), edges[1] - 4) for c in curves]
    places = spread(wanted, 17, edges[0] + 4, edges[1] - 4)
    parts: list[str] = []
    for curve, at, place in zip(curves, wanted, places, strict=True):
        below = y(curve.points[-1].mean) > edges[1] + 0.5
        if not below:
            start = right if curve.across else x(curve.points[-1].labels) + 6
            parts.append(path([(start, at), (right + 4, at), (right + 14, place)], f"leader s-{curve.key}"))
        figure = element("tspan", {"class": "figure"}, f"{'↓ ' if below else ''}{score(curve.points[-1].mean)} ")
        name = f"end s-{curve.key}"
        parts.append(element("text", {"x": right + 18, "y": place + 4, "class": name}, figure, curve.label))
    return parts


def histogram(values: Values, width: int) -> Markup:
    """How many items have which value, and above it the share that was selected."""
    height, left, right, top, bottom = 250, 52, width - 16, 28, 200
    filled = [b for b in values.bins if b[1]]
    low, high = filled[0][0], filled[-1][0] + values.bin_width
    x_ticks = ticks(low, high, 8 if width >= WIDE else 5)
    x = Scale(low=min(low, x_ticks[0]), high=max(high, x_ticks[-1]), start=left, end=right)
    most = max(n for _, n, _ in filled)
    y_ticks = ticks(0, most, 4, least_step=1)
    y = Scale(low=0, high=y_ticks[-1], start=bottom, end=top)
    parts: list[str] = [text(0, 14, "items", "axis-name")]
    for value, shown in zip(y_ticks, tick_labels(y_ticks), strict=True):
        parts += [line(left, y(value), right, y(value), "grid"), text(left - 8, y(value) + 4, shown, "tick", "end")]
    for value, shown in zip(x_ticks, tick_labels(x_ticks), strict=True):
        parts.append(text(x(value), bottom + 34, shown, "tick", "middle"))
    for edge, n, chosen in filled:
        bar_left, bar_width = x(edge) + 0.75, max(1.0, x(edge + values.bin_width) - x(edge) - 1.5)
        tip = f"value {edge:.3f} to {edge + values.bin_width:.3f}\n{count(n)} items, {count(chosen)} of them selected"
        parts.append(rect(bar_left, y(n), bar_width, bottom - y(n), "bar", tip))
        if chosen:
            # Selected items are few among many: a mark below the axis is seen where a slice of the bar is not.
            reach = 4 + 10 * math.sqrt(chosen / max(c for _, _, c in filled))
            parts.append(rect(bar_left, bottom + 3, bar_width, reach, "mark", tip))
    parts.append(line(left, bottom, right, bottom, "axis"))
    parts.append(text((left + right) / 2, height - 2, "value of a label", "axis-name", "middle"))
    label = f"Histogram of the values of {count(values.items)} items for cycle {values.cycle}"
    return picture(width, height, "plot", label, parts)


def components(rows: Sequence[Quantiles], width: int) -> Markup:
    """Where the middle half and the middle nine tenths of each component lie, for all and for selected items."""
    named = width >= WIDE
    left, right, step = (170 if named else 10), width - 24, (46 if named else 62)
    offset = 0 if named else 18
    height = 12 + step * len(rows) + 26
    x = Scale(low=0, high=1, start=left, end=right)
    parts: list[str] = []
    bottom = height - 24
    for value in (0, 0.25, 0.5, 0.75, 1):
        parts.append(line(x(value), 4, x(value), bottom, "grid"))
        parts.append(text(x(value), height - 6, f"{value:g}", "tick", "middle" if value else "start"))
    for i, row in enumerate(rows):
        at = 8 + i * step + offset
        place = (left - 16, at + 20, "end") if named else (left, at - 3, "start")
        parts.append(text(place[0], place[1], row.name, "row-name", place[2]))
        for lane, (name, q) in enumerate((("all", row.everything), ("chosen", row.selected))):
            if q is None:
                continue
            middle = at + 8 + 15 * lane if row.selected else at + 15.5
            tip = f"{row.name}, {'selected' if lane else 'all'} items\n"
            tip += f"median {q[2]:.2f}, half of them {q[1]:.2f} to {q[3]:.2f}"
            parts.append(line(x(q[0]), middle, x(q[4]), middle, f"whisker q-{name}"))
            parts.append(rect(x(q[1]), middle - 4.5, max(1.5, x(q[3]) - x(q[1])), 9, f"box q-{name}", tip))
            parts.append(line(x(q[2]), middle - 6.5, x(q[2]), middle + 6.5, f"median q-{name}"))
    label = "Components of the value, selected items against all: " + "; ".join(
        f"{r.name} median {r.everything[2]:.2f}" + (f" against {r.selected[2]:.2f} selected" if r.selected else "")
        for r in rows
    )
    return picture(width, height, "plot components", label, parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class MapPoints:
    """The map's items: places [N, 2] from 0 to 1, class of each (-1 none), cycle of each (0 not selected)."""

    places: npt.NDArray[np.float64]
    classes: Sequence[int]
    cycles: Sequence[int]
    names: Mapping[int, str]


def class_style(rank: int) -> str:
    """Class name of the colour and shape of the class with this rank by size; `none` beyond `STYLES`."""
    return f"k{rank % COLOURS}{' square' if rank >= COLOURS else ''}" if 0 <= rank < STYLES else "none"


def item_map(points: MapPoints, ranks: Mapping[int, int], width: int) -> Markup:
    """Items on a plane: a dot each, selected ones ringed and numbered by their cycle.

    Args:
        ranks: rank of each class by size, which decides its colour.
        width: of the picture in pixels.
    """
    height = round(width * (0.64 if width >= WIDE else 1.0))
    margin = 14
    x = Scale(low=0, high=1, start=margin, end=width - margin)
    y = Scale(low=0, high=1, start=height - margin, end=margin)
    spots = [(x(float(a)), y(float(b))) for a, b in points.places]
    few = " few" if len(spots) < FEW_DOTS else ""
    parts: list[str] = []
    for class_id in sorted(set(points.classes), key=lambda c: ranks.get(c, 10**6)):
        dots = "".join(
            f"M{number(spots[i][0])} {number(spots[i][1])}h0" for i, c in enumerate(points.classes) if c == class_id
        )
        style = class_style(ranks.get(class_id, -1))
        parts.append(element("path", {"d": dots, "class": f"cloud {style}{few}", "data-class": class_id}))
    parts += _class_names(points, ranks, spots, (width, height))
    numbered = width >= WIDE
    radius = 7.5 if numbered else 3.5
    for i, cycle in enumerate(points.cycles):
        if cycle:
            ring = {"cx": spots[i][0], "cy": spots[i][1], "r": radius}
            style = class_style(ranks.get(points.classes[i], -1))
            parts.append(element("circle", {**ring, "class": f"ring {style}", "data-class": points.classes[i]}))
            if numbered:
                parts.append(text(spots[i][0], spots[i][1] + 3, str(cycle), "ring-number", "middle"))
    parts.append(element("circle", {"class": "here", "r": radius + 3, "cx": -99.0, "cy": -99.0}))
    chosen = sum(1 for c in points.cycles if c)
    label = f"Map of {count(len(spots))} items coloured by predicted class; {count(chosen)} selected items are ringed"
    return picture(width, height, "plot map", label, parts)


def _class_names(
    points: MapPoints, ranks: Mapping[int, int], spots: Sequence[tuple[float, float]], size: tuple[int, int]
) -> list[str]:
    """Names of the classes among their items, largest class first, where they cover no other name and fewest rings.

    Rings are drawn above the names, so that no selected item is hidden where there is no free place. A name stands on
    one of the half of its items that is nearest to their median: on an item, since a class may have several groups.
    With one place alone a large class could be left without its name, and a smaller one have it.
    """
    rings = np.asarray([spots[i] for i, cycle in enumerate(points.cycles) if cycle]).reshape(-1, 2)
    placed: list[tuple[float, float, float]] = []
    parts: list[str] = []
    for class_id, _ in sorted(ranks.items(), key=lambda pair: pair[1]):
        own = np.asarray([spots[i] for i, c in enumerate(points.classes) if c == class_id])
        if len(own) < 3:
            continue
        half = 4.2 * len(points.names[class_id]) + 4
        nearest = np.argsort(((own - np.median(own, axis=0)) ** 2).sum(axis=1), kind="stable")[: -(-len(own) // 2)]
        free = [
            (x, y)
            for x, y in np.clip(own[nearest], (half, 18), (size[0] - half, size[1] - 8)).tolist()
            if not any(abs(x - px) < half + ph and abs(y - py) < 18 for px, py, ph in placed)
        ]
        if free:
            covered = [(np.abs(rings - at) < (half, 16)).all(axis=1).sum() for at in free]
            x, y = free[int(np.argmin(covered))]
            placed.append((x, y, half))
            parts.append(text(x, y + 4, points.names[class_id], "class-name", "middle"))
    return parts


def share_bar(value: float, tip: str, name: str = "share") -> Markup:
    """A bar in a table cell for a share between 0 and 1."""
    parts = [rect(0, 3, 32, 8, "track"), rect(0, 3, max(0.0, min(1.0, value)) * 32, 8, name)]
    return picture(32, 14, "mini", tip, parts)


def interval_mark(value: float, low: float, high: float, tip: str) -> Markup:
    """A dot with its interval in a table cell, from 0 to 1."""
    x = Scale(low=0, high=1, start=4, end=60)
    parts = [
        line(x(0), 7, x(1), 7, "track-line"),
        line(x(low), 7, x(high), 7, "interval"),
        element("circle", {"cx": x(value), "cy": 7, "r": 3.5, "class": "interval-dot"}),
    ]
    return picture(64, 14, "mini", tip, parts)


def stacked_bar(parts_of: Sequence[tuple[str, str, int]], width: int) -> Markup:
    """Counts as parts of one bar; each is (class name, label, count)."""
    total = sum(n for _, _, n in parts_of) or 1
    at = 0.0
    shapes: list[str] = []
    for name, label, n in parts_of:
        # A part that exists is never invisible, however small its share is.
        length = max(3.0, (width - 9) * n / total) if n else 0.0
        shapes.append(rect(at, 2, length, 16, f"part p-{name}", f"{label}: {count(n)}"))
        at += length
    scale = f"{sum(n for _, _, n in parts_of):,} records: " + ", ".join(
        f"{count(n)} {label}" for _, label, n in parts_of
    )
    return picture(width, 20, "plot stack", scale, shapes)


def swatch(key: str) -> Markup:
    """A piece of a series' line for a legend."""
    parts = [line(1, 7, 27, 7, f"series s-{key}")]
    if key not in ("all_gold", "label_model"):
        parts.append(element("circle", {"cx": 14, "cy": 7, "r": 3.5, "class": f"dot s-{key}"}))
    return element("svg", {"class": "swatch", "width": 28, "height": 14, "aria-hidden": "true"}, *parts)
