"""The frontier as a picture: quality over the share of the layer parameters that works, routed encoder and controls."""

from collections.abc import Callable, Sequence

from markupsafe import Markup

from benchmarks.engine_bars import COSINE, STS_SHARE, Figures, lowest_sts, parts_of, percent
from flows.report.svg import Scale, element, line, path, spread, text, tick_labels, ticks

HEIGHT = 340
PANEL, GAP = 300, 225  # names of controls stand right of a panel
LEFT, TOP, BOTTOM = 52, 46, 286
NAME_WIDTH = 24
WIDTH = LEFT + 2 * (PANEL + GAP) - 44
AXIS = "share of the parent's layer parameters that works; at the points, the routed encoder's budget (active)"
# A picture of its own has no page to colour it; GitHub shows it on light and on dark.
STYLE = """
svg { font: 13px system-ui, sans-serif; background: #fff; }
text { fill: #1f2328; }
.title { font-weight: 600; }
.tick, .axis-name { fill: #59636e; font-size: 12px; }
.grid { stroke: #d1d9e0; }
.bar { stroke: #9a6700; stroke-dasharray: 5 4; }
.series { fill: none; stroke: #0969da; stroke-width: 2; }
.routed { fill: #0969da; }
.routed-name { fill: #0969da; font-size: 12px; }
.control { fill: #cf222e; }
.control-name { fill: #cf222e; font-size: 12px; }
.leader { fill: none; stroke: #cf222e; stroke-width: 0.7; }
.dense { fill: #1f2328; }
@media (prefers-color-scheme: dark) {
  svg { background: #0d1117; }
  text, .dense { fill: #f0f6fc; }
  .tick, .axis-name { fill: #9198a1; }
  .grid { stroke: #3d444d; }
  .bar { stroke: #d29922; }
  .series { stroke: #4493f8; }
  .routed, .routed-name { fill: #4493f8; }
  .control, .control-name { fill: #f85149; }
  .leader { stroke: #f85149; }
}
"""


def frontier(figures: Figures) -> str:
    """The picture as an SVG file; controls at their main budgets. Args: figures hold the part "quality"."""
    files: dict[str, Figures] = {"routed": figures["encoder"], **figures["controls"]}
    points: list[Figures] = [
        {**p, "main": p["encoder"] in files and p["active"] == files[p["encoder"]]["main_budget"]}
        for p in parts_of(figures)["quality"]["points"]
    ]
    sets = ", ".join(parts_of(figures)["quality"]["pairs"])
    panels = [
        _panel(points, lowest_sts, f"Spearman on {sets}, share of the parent's", STS_SHARE, LEFT),
        _panel(
            points,
            lambda p: float(p["cosine"]["mean"]),
            "mean cosine to the parent's vectors",
            COSINE,
            LEFT + PANEL + GAP,
        ),
    ]
    told = [
        f"{p['encoder']} at {percent(p['layer_share'])}: {percent(lowest_sts(p))}, {p['cosine']['mean']:.3f}"
        for p in points
    ]
    label = "Quality over the share of the parent's layer parameters that works. " + "; ".join(told)
    attributes = {
        "xmlns": "http://www.w3.org/2000/svg",
        "viewBox": f"0 0 {WIDTH} {HEIGHT}",
        "width": WIDTH,
        "height": HEIGHT,
        "role": "img",
        "aria-label": label,
    }
    parts = [element("style", {}, Markup(STYLE)), *(part for panel in panels for part in panel)]
    parts.append(text(WIDTH / 2, HEIGHT - 8, AXIS, "axis-name", "middle"))
    return element("svg", attributes, *parts) + "\n"


def _panel(
    points: Sequence[Figures], value: Callable[[Figures], float], name: str, bar: float, left: float
) -> list[Markup]:
    values = [value(p) for p in points]
    y_ticks = ticks(min([*values, bar]), max([*values, 1.0]), 6)
    y = Scale(low=y_ticks[0], high=y_ticks[-1], start=BOTTOM, end=TOP)
    x = Scale(low=0, high=1, start=left, end=left + PANEL)
    parts: list[Markup] = [text(left - 44, 18, f"{name}; the bar is {bar:g}", "title")]
    for at, shown in zip(y_ticks, tick_labels(y_ticks), strict=True):
        parts += [line(left, y(at), x(1), y(at), "grid"), text(left - 8, y(at) + 4, shown, "tick", "end")]
    for at in (0, 0.2, 0.4, 0.6, 0.8, 1.0):
        parts += [
            line(x(at), BOTTOM, x(at), BOTTOM + 5, "grid"),
            text(x(at), BOTTOM + 20, f"{at:.0%}", "tick", "middle"),
        ]
    parts.append(line(left, y(bar), x(1), y(bar), "bar"))
    routed = sorted((p for p in points if p["encoder"] == "routed"), key=lambda p: p["layer_share"])
    if len(routed) > 1:
        parts.append(path([(x(p["layer_share"]), y(value(p))) for p in routed], "series"))
    names: list[tuple[float, float, str]] = []  # one for points so near each other that theirs would overlap
    for p in routed:
        place = (x(p["layer_share"]), y(value(p)))
        parts.append(element("circle", {"cx": place[0], "cy": place[1], "r": 4.5, "class": "routed"}))
        if names and place[0] - names[-1][0] < NAME_WIDTH:
            names[-1] = (*names[-1][:2], f"{names[-1][2]}, {p['active']:g}")
        else:
            names.append((*place, f"{p['active']:g}"))
    parts += [text(at - 7, height - 5, name, "routed-name", "end") for at, height, name in names]
    controls = [p for p in points if p["encoder"] not in ("routed", "dense") and p["main"]]
    heights = spread([y(value(p)) for p in controls], 15, TOP + 8, BOTTOM - 8)
    for p, height in zip(controls, heights, strict=True):
        cx, cy = x(p["layer_share"]), y(value(p))
        parts.append(element("rect", {"x": cx - 4, "y": cy - 4, "width": 8, "height": 8, "class": "control"}))
        parts.append(path([(cx + 4, cy), (x(1) + 8, height)], "leader"))
        parts.append(text(x(1) + 12, height + 4, f"{p['encoder']} {p['active']:g}", "control-name"))
    for p in points:
        if p["encoder"] == "dense":
            parts.append(element("circle", {"cx": x(p["layer_share"]), "cy": y(value(p)), "r": 4.5, "class": "dense"}))
            parts.append(text(x(p["layer_share"]) - 8, y(value(p)) - 6, "dense parent", "tick", "end"))
    return parts
