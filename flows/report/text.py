"""How figures and untrusted texts are written on the page.

Every text of the data may be hostile. Jinja and `svg.element` escape what HTML would read as markup;
`flows.report.visible` does the rest.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from flows.report.visible import one_line
from warehouse import text

ELLIPSIS = "…"
FEW_ROWS = 12
"""Cycles and end models that are shown at once, also in the terminal: of months of runs they would bury all else."""
NAMED = 5
"""Classes or functions that a sentence names at most."""
OTHERS = "other class", "other classes"


def excerpt(text: str, length: int) -> str:
    """The text's beginning on one line, at most `length` characters, cut with an ellipsis."""
    # Only the beginning is looked at: a record may be a megabyte long.
    head = one_line(text[: 4 * length])
    return head if len(head) <= length and len(text) <= 4 * length else head[: length - 1].rstrip() + ELLIPSIS


def excerpts(names: Mapping[int, str], length: int) -> dict[int, str]:
    """The beginning of each of some names, as `excerpt`; of those that begin alike, also where they differ."""
    return _apart({key: one_line(name) for key, name in names.items()}, length, 0)


def _apart(names: Mapping[int, str], length: int, same: int) -> dict[int, str]:
    """Excerpts of names of which the first `same` characters are the same."""
    head = length // 3

    def shown(name: str) -> str:
        if same < length - 1:
            return excerpt(name, length)
        word = name.rfind(" ", 0, same) + 1  # from its beginning on, where that is near
        rest = name[word if same - word < head else same :]
        return name[:head].rstrip() + ELLIPSIS + excerpt(rest, length - head - 1)

    found = {key: shown(name) for key, name in names.items()}
    for words in set(found.values()):
        alike = {key: name for key, name in names.items() if found[key] == words}
        first, last = min(alike.values()), max(alike.values())
        if first != last:
            further = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
            found |= _apart(alike, length, further)
    return found


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


def listed(parts: Sequence[str], last: str, *, of: str = "", more: tuple[str, str] = OTHERS) -> str:
    """The first few of some names in words, and how many more there are, which are called by one word or its plural."""
    named = [*parts[:NAMED]]
    if left := len(parts) - len(named):
        named.append(f"{of}{counted(left, *more)}")
    return f" {last} ".join(part for part in (", ".join(named[:-1]), *named[-1:]) if part)


def score(value: float | None) -> str:
    """A share between 0 and 1 with three decimals, more where nearly all would be 1.000; or a dash."""
    return "–" if value is None else text.three_decimals(value)


def percent(value: float | None) -> str:
    """A share as a percentage, or a dash."""
    return "–" if value is None else text.percent(value)


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
