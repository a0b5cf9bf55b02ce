"""The gold curve as a picture: weak then gold beside gold alone and weak alone, with the size at which they cross."""

import math
from typing import Any

from markupsafe import Markup

from flows.report.svg import Scale, element, line, path, text, tick_labels, ticks

WIDTH, PANEL, GAP, LEFT, TOP, BOTTOM = 980, 400, 90, 56, 46, 260
ROW = 330
# A picture of its own has no page to colour it; GitHub shows it on light and on dark.
STYLE = """
svg { font: 13px system-ui, sans-serif; background: #fff; }
text { fill: #1f2328; }
.title { font-weight: 600; }
.tick { fill: #59636e; font-size: 12px; }
.grid { stroke: #d1d9e0; }
.both { fill: none; stroke: #0969da; stroke-width: 2; }
.gold { fill: none; stroke: #cf222e; stroke-width: 2; }
.weak { stroke: #59636e; stroke-dasharray: 5 4; }
.cross { stroke: #9a6700; stroke-dasharray: 2 3; }
@media (prefers-color-scheme: dark) {
  svg { background: #0d1117; }
  text { fill: #f0f6fc; }
  .tick { fill: #9198a1; }
  .grid { stroke: #3d444d; }
  .both { stroke: #4493f8; }
  .gold { stroke: #f85149; }
  .weak { stroke: #9198a1; }
  .cross { stroke: #d29922; }
}
"""


def crossover(sizes: dict[str, Any]) -> float | None:
    """Gold labels at which gold alone draws level, between two sizes by their logarithms; None if at no size."""
    before: tuple[float, float] | None = None
    for size, found in sizes.items():
        place, ahead = math.log(int(size)), found["weak_then_gold"]["mean"] - found["gold_only"]["mean"]
        if ahead <= 0:
            if before is None:
                return float(size)
            return math.exp(before[0] + (place - before[0]) * before[1] / (before[1] - ahead))
        before = (place, ahead)
    return None


def curve(sets: dict[str, Any]) -> str:
    """The picture as an SVG file, one panel a set; `sets` is the part "gold" of the benchmark's JSON."""
    parts: list[Markup] = [element("style", {}, Markup(STYLE))]
    told: list[str] = []
    for place, (name, found) in enumerate(sets.items()):
        parts += _panel(name, found["figures"], LEFT + (place % 2) * (PANEL + GAP), (place // 2) * ROW)
        at = crossover(found["figures"]["sizes"])
        told.append(f"{name}: gold alone draws level " + (f"at {at:.0f} labels" if at else "at none of the sizes"))
    height = ROW * math.ceil(len(sets) / 2)
    attributes = {
        "xmlns": "http://www.w3.org/2000/svg",
        "viewBox": f"0 0 {WIDTH} {height}",
        "width": WIDTH,
        "height": height,
        "role": "img",
        "aria-label": "Test figure by gold labels. " + "; ".join(told),
    }
    return element("svg", attributes, *parts) + "\n"


def _panel(name: str, found: dict[str, Any], left: float, down: float) -> list[Markup]:
    sizes = found["sizes"]
    means = {kind: [f[kind]["mean"] for f in sizes.values()] for kind in ("weak_then_gold", "gold_only")}
    logs = [math.log(int(size)) for size in sizes]
    shown = [*means["weak_then_gold"], *means["gold_only"], found["weak_only"]]
    y_ticks = ticks(min(shown), max(shown), 6)
    y = Scale(low=y_ticks[0], high=y_ticks[-1], start=down + BOTTOM, end=down + TOP)
    x = Scale(low=logs[0], high=max(logs[-1], logs[0] + 1), start=left, end=left + PANEL)  # a small set has one size
    parts = [text(left - 44, down + 20, f"{name}, {found['measure']} by gold labels", "title")]
    for at, label in zip(y_ticks, tick_labels(y_ticks), strict=True):
        parts += [line(left, y(at), left + PANEL, y(at), "grid"), text(left - 8, y(at) + 4, label, "tick", "end")]
    for size, at in zip(sizes, logs, strict=True):
        parts.append(text(x(at), down + BOTTOM + 20, size, "tick", "middle"))
    parts.append(line(left, y(found["weak_only"]), left + PANEL, y(found["weak_only"]), "weak"))
    for kind, style in (("weak_then_gold", "both"), ("gold_only", "gold")):
        parts.append(path([(x(at), y(mean)) for at, mean in zip(logs, means[kind], strict=True)], style))
    if (crossed := crossover(sizes)) is not None:
        at = x(math.log(crossed))
        parts += [line(at, down + TOP, at, down + BOTTOM, "cross")]
        parts.append(text(at - 5, down + BOTTOM - 8, f"level at {crossed:.0f}", "tick", "end"))
    legend = [("both", "weak then gold"), ("gold", "gold alone"), ("weak", "weak alone")]
    for place, (style, label) in enumerate(legend):
        start = left + place * 135
        parts += [line(start, down + 300, start + 22, down + 300, style), text(start + 28, down + 304, label, "tick")]
    return parts
