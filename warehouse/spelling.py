"""Names that somebody typed: the known one that is nearest, for the message about one that is not known."""

from collections.abc import Iterable
from difflib import get_close_matches


def perhaps_meant(name: str, known: Iterable[str]) -> str:
    """Words behind a name that is not known: the known one that is nearest; empty where none is near."""
    folded = {one.casefold(): one for one in known}
    close = get_close_matches(name.casefold(), folded, n=1)
    return f", perhaps meant as {folded[close[0]]!r}" if close else ""
