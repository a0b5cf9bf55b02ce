"""Cron lines, checked when the settings are read: a wrong one must not wait for a server to be found.

Prefect checks them again when a deployment is made. Here only what every cron knows is allowed: five fields of numbers,
names, lists, ranges and steps.
"""

import re

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of the month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("day of the week", 0, 7, _DAYS),
)
_LONG = (1, 3, 5, 7, 8, 10, 12)
_PART = re.compile(r"(?:\*|(\w+)(?:-(\w+))?)(?:/(\d+))?")


def check_cron(line: str) -> str:
    """Check a cron line.

    Args:
        line: five fields; the day of the week is 0 to 7, where 0 and 7 are Sunday.

    Returns:
        The line with single spaces.

    Raises:
        ValueError: it is not one; the message names the field.
    """
    fields = line.split()
    if len(fields) != len(_FIELDS):
        raise ValueError(
            f"needs five fields (minute hour day month weekday), such as '0 * * * *' for every hour, and has "
            f"{len(fields)}"
        )
    for text, (name, low, high, words) in zip(fields, _FIELDS, strict=True):
        for part in text.split(","):
            _check_part(part, name, low, high, words)
    _check_day(fields[2], fields[3])
    return " ".join(fields)


def _check_day(days: str, months: str) -> None:
    """Refuse a day that none of the months has; Prefect's server would note an error every minute, and run nothing.

    Also beside a weekday, which cron itself would go by.
    """
    first = min(_meant(days, *_FIELDS[2][1:]))
    longest = max(29 if month == 2 else 30 + (month in _LONG) for month in _meant(months, *_FIELDS[3][1:]))
    if first > longest:
        raise ValueError(f"there is no day {days} in the month {months}, so it would never run")


def _meant(field: str, low: int, high: int, words: tuple[str, ...]) -> set[int]:
    """The numbers that a checked field stands for."""
    meant: set[int] = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        first, _, last = span.replace("*", f"{low}-{high}").partition("-")
        begin = _number(first, low, words) or low
        end = (_number(last, low, words) or begin) if last else (high if step else begin)
        meant.update(range(begin, end + 1, int(step or 1)))
    return meant


def _check_part(part: str, name: str, low: int, high: int, words: tuple[str, ...]) -> None:
    found = _PART.fullmatch(part)
    wrong = ValueError(f"'{part}' is no {name}: use {low} to {high}, '*', a list, a range or a step such as '*/10'")
    if found is None:
        raise wrong
    ends = [_number(word, low, words) for word in found.group(1, 2) if word is not None]
    if any(end is None or not low <= end <= high for end in ends) or int(found.group(3) or 1) == 0:
        raise wrong
    if len(ends) == 2 and (ends[0] or 0) > (ends[1] or 0):
        raise ValueError(f"'{part}' is no {name}: the range begins after its end")


def _number(word: str, low: int, words: tuple[str, ...]) -> int | None:
    if word.isdecimal():
        return int(word)
    return words.index(word.lower()) + low if word.lower() in words else None
