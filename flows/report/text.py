"""How figures and untrusted texts are written on the page.

Every text of the data may be hostile. Jinja and `svg.element` escape what HTML would read as markup;
`flows.visible` does the rest.
"""

import json
from datetime import datetime
from typing import Any

from flows.visible import one_line, three_decimals

ELLIPSIS = "…"


def excerpt(text: str, length: int) -> str:
    """The text's beginning on one line, at most `length` characters, cut with an ellipsis."""
    # Only the beginning is looked at: a record may be a megabyte long.
    head = one_line(text[: 4 * length])
    return head if len(head) <= length and len(text) <= 4 * length else head[: length - 1].rstrip() + ELLIPSIS


def script_json(value: Any) -> str:
    """A value as JSON that is safe inside a `<script>` element, whatever its texts hold."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def count(n: float) -> str:
    """A whole number with thousands separators: 5,485."""
    return f"{int(n):,}"


def counted(n: float, noun: str, plural: str | None = None) -> str:
    """A count with its noun: `1 label`, `128 labels`."""
    return f"{count(n)} {noun if n == 1 else plural or noun + 's'}"


def score(value: float | None) -> str:
    """A share between 0 and 1 with three decimals, more where nearly all would be 1.000; or a dash."""
    return "–" if value is None else three_decimals(value)


def percent(value: float | None) -> str:
    """A share as a percentage: 12%, 3.4%, 0.05%; nearly all is never 100%, and hardly any never 0%. A dash for none."""
    if value is None:
        return "–"
    shown = round(100 * value, 9)  # an interval from 0 on begins at 1e-18
    if 99 < shown < 100:
        return f"{min(shown, 99.9):.1f}%"
    if 0 < shown < 0.005:
        return "<0.01%"
    if shown == 0 or shown >= 9.95:
        return f"{shown:.0f}%"
    return f"{shown:.1f}%" if shown >= 0.095 else f"{shown:.2f}%"


def duration(seconds: float) -> str:
    """A duration in the unit a person would use: 45 ms, 4.2 s, 53 min, 1.4 hours."""
    if seconds < 0.995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 99.5:
        return f"{seconds:.1f} s"
    if seconds < 3570:
        return f"{seconds / 60:.0f} min"
    hours = f"{seconds / 3600:,.1f}"
    return f"{hours} hour" if hours == "1.0" else f"{hours} hours"


def moment(value: datetime) -> str:
    """A moment in UTC as people write it: 25 Nov 2026, 01:30 UTC."""
    return f"{value.day} {value:%b %Y, %H:%M} UTC"
