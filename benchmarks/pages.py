"""Pages and pictures from the figures of a benchmark: a template of `templates/` for each page, one kind of chart."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from benchmarks.harness import EARLIER, Figures, earlier, write_json
from flows.report.svg import Scale, element, line, path, spread, text, tick_labels, ticks

TEMPLATES = Path(__file__).with_name("templates")
Pages = Callable[[Figures], dict[str, str]]
"""Makes the files beside a JSON, by what stands in place of ".json" in their names."""


def render(name: str, figures: Figures, **more: Any) -> str:
    """A template filled with the figures and what was computed from them."""
    lines = _TEMPLATES.get_template(name).render(**{**figures, **more}).strip().split("\n")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in lines)) + "\n"


def keep(figures: Figures, output: Path | None, pages: Pages) -> None:
    """Write the figures and what is made of them; without an output nothing."""
    if output is not None:
        write_json(figures, output)
        write_pages(figures, output, pages)


def write_pages(figures: Figures, output: Path, pages: Pages) -> None:
    """Write pages and pictures beside the JSON."""
    for ending, content in pages(figures).items():
        output.with_name(output.stem + ending).write_text(content, "utf-8")


def between(document: str, mark: str, content: str) -> str:
    """A document whose figures between "<!-- MARK figures ..." and "<!-- end -->" are replaced.

    Raises:
        ValueError: it has no such marks.
    """
    before, start, rest = document.partition(f"<!-- {mark} figures: python -m benchmarks.readme -->")
    _, end, after = rest.partition("<!-- end -->")
    if not end:
        raise ValueError(f"The document has no marks for {mark} figures.")
    return f"{before}{start}\n\n{content.strip()}\n\n{end}{after}"


def listed(words: Sequence[object], joined: str = " and ") -> str:
    """Words with commas between them, and "and" before the last."""
    *first, last = map(str, words) if words else ["none"]
    return joined.join([", ".join(first), last] if first else [last])


def machine(on: Mapping[str, Any], *packages: str, memory: bool = False) -> str:
    """What figures were measured on, in words."""
    words = [f"{on['cores']} cores", on["processor"], *([f"{on['memory_gib']:g} GiB"] if memory else [])]
    words += [f"Python {on['python']}", *(f"{name} {on['versions'][name]}" for name in packages)]
    return ", ".join([*words, commit(on)])


def commit(on: Mapping[str, Any], *, routed: bool = False) -> str:
    """The commit of figures, whether it had changes and, where asked, that its routed encoder is an earlier one."""
    changed = " with uncommitted changes" if on["uncommitted_changes"] else ""
    return f"commit {on['commit'][:12]}{changed}" + (f", {EARLIER}" if routed and earlier(on) else "")


def _rule(columns: int) -> str:
    """The line under a table's head: names on the left, figures on the right."""
    return "|---|" + "---:|" * (columns - 1)


_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(TEMPLATES),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_TEMPLATES.filters |= {"f": format, "listed": listed}
_TEMPLATES.globals |= {"machine": machine, "commit_of": commit, "rule": _rule, "earlier": earlier, "EARLIER": EARLIER}
_TEMPLATES.globals |= {"min": min, "max": max, "zip": zip, "len": len}

# A picture of its own has no page to colour it; GitHub shows it on light and on dark.
STYLE = """
svg { font: 13px system-ui, sans-serif; background: #fff; }
text { fill: #1f2328; } .title { font-weight: 600; } .tick { fill: #59636e; font-size: 12px; }
path { fill: none; stroke-width: 2; } .grid { stroke: #d1d9e0; } .thin { stroke: #59636e; stroke-width: 0.7; }
.blue { stroke: #0969da; stroke-width: 3; } .red { stroke: #cf222e; } .green { stroke: #1a7f37; }
.brown { stroke: #9a6700; } .purple { stroke: #8250df; } .grey { stroke: #59636e; }
.dashed { stroke-dasharray: 5 4; } .point { fill: #fff; stroke-width: 2; }
@media (prefers-color-scheme: dark) {
  svg { background: #0d1117; } text { fill: #f0f6fc; } .tick { fill: #9198a1; } .grid { stroke: #3d444d; }
  .blue { stroke: #4493f8; } .red { stroke: #f85149; } .green { stroke: #3fb950; }
  .brown { stroke: #d29922; } .purple { stroke: #ab7df8; } .grey, .thin { stroke: #9198a1; } .point { fill: #0d1117; }
}
"""
HEIGHT = 330
"""Of a row of panels."""


class Panel:
    """One chart: axes, and whatever is drawn between them.

    Args:
        title: above it.
        at: left edge, upper edge and width in pixels.
        x_ticks: labels of the x axis by their places.
        values: all that must lie on the y axis.
    """

    def __init__(
        self, title: str, at: tuple[float, float, float], x_ticks: Mapping[float, str], values: Sequence[float]
    ):
        left, self.top, width = at[0], at[1] + 40, at[2]
        self.right, self.bottom = left + width, at[1] + 260
        levels = ticks(min(values), max(values), 6)
        self.y = Scale(low=levels[0], high=levels[-1], start=self.bottom, end=self.top)
        ends = min(x_ticks), max(x_ticks)
        self.x = Scale(low=ends[0], high=max(ends[1], ends[0] + 1e-9), start=left, end=self.right)
        self.parts: list[Markup] = [text(left - 44, at[1] + 20, title, "title")]
        for level, label in zip(levels, tick_labels(levels), strict=True):
            self.level(level, "grid")
            self.parts.append(text(left - 8, self.y(level) + 4, label, "tick", "end"))
        self.parts += [text(self.x(x), self.bottom + 20, label, "tick", "middle") for x, label in x_ticks.items()]

    def level(self, y: float, style: str) -> None:
        """A line across."""
        self.parts.append(line(self.x.start, self.y(y), self.right, self.y(y), style))

    def upright(self, x: float, style: str, words: str) -> None:
        """A line from bottom to top with words beside it."""
        self.parts.append(line(self.x(x), self.bottom, self.x(x), self.top, style))
        self.parts.append(text(self.x(x) - 5, self.bottom - 8, words, "tick", "end"))

    def curve(self, points: Sequence[tuple[float, float]], style: str) -> None:
        """A line through points."""
        self.parts.append(path([(self.x(x), self.y(y)) for x, y in points], style))

    def point(self, x: float, y: float, style: str, words: str = "") -> None:
        """A dot, with words above it."""
        self.parts.append(element("circle", {"cx": self.x(x), "cy": self.y(y), "r": 4.5, "class": f"point {style}"}))
        self.parts.append(text(self.x(x) - 7, self.y(y) - 5, words, "tick", "end"))

    def names(self, ends: Sequence[tuple[float, float, str, str]]) -> None:
        """Names right of the chart, each led to its x and y: x, y, name and style."""
        places = spread([self.y(y) for _, y, _, _ in ends], 15, self.top, self.bottom)
        for (x, y, name, style), place in zip(ends, places, strict=True):
            self.parts.append(path([(self.x(x), self.y(y)), (self.right + 8, place)], "thin"))
            self.parts.append(line(self.right + 8, place, self.right + 24, place, style))
            self.parts.append(text(self.right + 30, place + 4, name, "tick"))

    def legend(self, styles: Mapping[str, str]) -> None:
        """Names of the lines below the chart, by style."""
        for place, (style, name) in enumerate(styles.items()):
            start, down = self.x.start + place * 135, self.bottom + 40
            self.parts += [line(start, down, start + 22, down, style), text(start + 28, down + 4, name, "tick")]


def picture(width: int, height: int, told: str, panels: Sequence[Panel]) -> str:
    """An SVG file; `told` is what one sees, for those who do not."""
    size = {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {width} {height}", "width": width, "height": height}
    parts = [element("style", {}, Markup(STYLE)), *(part for panel in panels for part in panel.parts)]
    return element("svg", {**size, "role": "img", "aria-label": told}, *parts) + "\n"
