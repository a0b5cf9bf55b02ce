"""Figures as people read them, in the report, a terminal, a reason: short, and never better than they are."""

from collections.abc import Iterable
from difflib import get_close_matches


def three_decimals(value: float) -> str:
    """A figure with three decimals, and with more where these would make 1 of one that is less: 0.9995."""
    if 0.9995 <= value < 1 - 1e-9:  # a mean of ones may miss 1 by a rounding
        return f"{1 - float(f'{1 - value:.1g}'):.10g}"
    return f"{value:.3f}"


def percent(value: float) -> str:
    """A share as a percentage: 12%, 3.4%, 0.05%; nearly all is never 100%, and hardly any never 0%."""
    shown = round(100 * value, 9)  # an interval from 0 on begins at 1e-18
    if 99 < shown < 100:
        return f"{min(shown, 99.9):.1f}%"
    if 0 < shown < 0.005:
        return "<0.01%"
    if shown == 0 or shown >= 9.95:
        return f"{shown:.0f}%"
    return f"{shown:.1f}%" if shown >= 0.095 else f"{shown:.2f}%"


def perhaps_meant(name: str, known: Iterable[str]) -> str:
    """Words behind a name that is not known: the known one that is nearest; empty where none is near."""
    folded = {one.casefold(): one for one in known}
    close = get_close_matches(name.casefold(), folded, n=1)
    return f", perhaps meant as {folded[close[0]]!r}" if close else ""


def quote(text: object) -> str:
    """A text as a SQL literal."""
    return "'" + str(text).replace("'", "''") + "'"
