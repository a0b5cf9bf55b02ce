"""The few things a plot needs from SVG: escaped elements, a linear scale, round ticks, text that fits.

Colours are never written here. Elements carry class names and `report.css` colours them, so one picture serves the
light page, the dark page and paper. There are no `style` attributes: the page's content policy forbids them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from flows.report.visible import visible

Attributes = Mapping[str, str | float | int | None]


def element(tag: str, attributes: Attributes, *children: str) -> Markup:
    """One element. Children that are `Markup` are kept, every other text is made visible and escaped.

    Args:
        attributes: numbers are rounded to a tenth; None leaves the attribute out.
    """
    parts = [f"<{tag}"]
    for name, value in attributes.items():
        if value is None:
            continue
        text = number(value) if isinstance(value, float) else visible(str(value))
        parts.append(f' {name}="{escape(text)}"')
    inner = "".join(child if isinstance(child, Markup) else escape(visible(child)) for child in children)
    parts.append(f">{inner}</{tag}>" if inner else "/>")
    return Markup("".join(parts))  # noqa: S704 - every part above is escaped


def picture(width: int, height: int, name: str, label: str, children: Sequence[str]) -> Markup:
    """An `<svg>` that screen readers announce with `label`.

    Args:
        name: class of the picture.
        label: what one sees, in a sentence.
    """
    attributes: Attributes = {
        "class": name,
        "viewBox": f"0 0 {width} {height}",
        "width": width,
        "height": height,
        "role": "img",
        "aria-label": label,
    }
    return element("svg", attributes, *children)


def text(x: float, y: float, content: str, name: str = "", anchor: str = "start") -> Markup:
    """A line of text; `anchor` is start, middle or end."""
    return element("text", {"x": x, "y": y, "class": name or None, "text-anchor": anchor}, content)


def line(x1: float, y1: float, x2: float, y2: float, name: str) -> Markup:
    """A straight line."""
    return element("line", {"x1": x1, "y1": y1, "x2": x2, "y2": y2, "class": name})


def rect(x: float, y: float, width: float, height: float, name: str, tip: str | None = None) -> Markup:
    """A rectangle; `tip` is shown beside the pointer."""
    attributes: Attributes = {"x": x, "y": y, "width": width, "height": height, "class": name, "data-tip": tip}
    return element("rect", attributes)


def path(points: Sequence[tuple[float, float]], name: str, *, closed: bool = False) -> Markup:
    """A line through points, or the area inside it."""
    steps = "L".join(f"{number(x)} {number(y)}" for x, y in points)
    return element("path", {"d": f"M{steps}{'Z' if closed else ''}", "class": name})


def number(value: float) -> str:
    """A coordinate with one decimal at most."""
    shown = f"{value:.1f}"
    return shown.removesuffix(".0") if shown != "-0.0" else "0"


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """A linear map from values [low, high] to pixels [start, end]."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Pixel of a value; values outside land outside."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def ticks(low: float, high: float, about: int, *, least_step: float = 0.0) -> list[float]:
    """Round numbers (steps of 1, 2, 2.5 or 5 times a power of ten) that cover [low, high].

    Args:
        about: how many are wanted; the nearest possible count is given.
        least_step: smallest distance that means something, 1 for counts; steps are whole multiples of it.

    Returns:
        At least two numbers; the first is at most `low`, the last at least `high`.
    """
    if high <= low:
        high = low + (abs(low) or 1.0) * 0.1
    raw = (high - low) / max(1, about - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    steps = [m * power for m in (1, 2, 2.5, 5, 10) if not least_step or (m * power / least_step).is_integer()]
    step = min(steps or [least_step], key=lambda s: abs(math.log(s / raw)))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 10) for k in range(first, last + 1)]


def tick_labels(values: Sequence[float]) -> list[str]:
    """The values with as many decimals as tell them apart, and no more."""
    for decimals in range(7):
        labels = [f"{v:,.{decimals}f}" for v in values]
        if all(abs(float(label.replace(",", "")) - v) < 1e-9 for label, v in zip(labels, values, strict=True)):
            return labels
    return [f"{v:g}" for v in values]


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places near the wanted ones, at least `gap` apart and inside [low, high] as far as there is room.

    Returns:
        One place per wanted place, in the given order.
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    places = [0.0] * len(wanted)
    at = low - gap
    for i in order:
        at = max(wanted[i], at + gap)
        places[i] = at
    at = high + gap
    for i in reversed(order):
        at = min(places[i], at - gap)
        places[i] = at
    return places
