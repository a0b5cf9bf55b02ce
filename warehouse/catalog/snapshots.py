"""Which snapshot a number or a time means: the one that is kept and was in force then, or a refusal in words.

The past is part of the warehouse until its snapshots are expired on purpose. Whatever is no longer kept is said so:
reading a neighbouring snapshot instead would be a wrong answer without a sign.
"""

import operator
import re
from datetime import UTC, date, datetime, timedelta

import duckdb

from warehouse.errors import SettingsError, SnapshotNotFound

At = int | str | date | None
"""A snapshot number, a time (ISO text, datetime, or date for its midnight; UTC unless it names its zone), or None."""

AHEAD = timedelta(minutes=10)
"""A time to come that is further away is that of a clock that was wrong: a team's clocks may differ by so much."""
_NUMBER = re.compile(r"-?[0-9]+")

Kept = list[tuple[int, datetime]]
"""Number and time of every snapshot that is kept, the oldest first."""


def parse_at(at: At) -> int | datetime | None:
    """A snapshot number or a time with its zone from what a person wrote; None for the newest.

    Raises:
        SettingsError: it is neither, or empty.
    """
    if isinstance(at, str):
        text = at.strip()
        if not text:
            raise SettingsError(
                "The snapshot is given as an empty text; is a shell variable unset? Write 42, 2026-11-24 or "
                "2026-11-24T09:30+01:00, or leave it out for the newest; `siftline snapshots` lists them."
            )
        if _NUMBER.fullmatch(text):
            return int(text)
        try:
            at = datetime.fromisoformat(text)
        except ValueError as error:
            raise SettingsError(
                f"'{at}' is neither a snapshot number nor a time. Write 42, 2026-11-24 or 2026-11-24T09:30+01:00; "
                "`siftline snapshots` lists both."
            ) from error
    if isinstance(at, datetime):
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at
    if isinstance(at, date):
        return datetime(at.year, at.month, at.day, tzinfo=UTC)
    try:
        return None if at is None else operator.index(at)  # an integer of numpy's too
    except TypeError as error:
        raise SettingsError(
            f"{at!r} is neither a snapshot number nor a time; `siftline snapshots` lists both."
        ) from error


def kept_snapshots(connection: duckdb.DuckDBPyConnection) -> Kept:
    """The snapshots of the attached warehouse `lake` that hold its tables."""
    # Schema version 0 is the empty catalogue from before the first table.
    rows = connection.execute(
        "SELECT snapshot_id, snapshot_time FROM ducklake_snapshots('lake') WHERE schema_version > 0 ORDER BY 1"
    ).fetchall()
    return [(int(number), time) for number, time in rows]


def find_snapshot(wanted: int | datetime, kept: Kept) -> int:
    """Number of the kept snapshot that a number or a time means.

    Raises:
        SnapshotNotFound: there is none, or it cannot be told: its neighbours were expired, or the clock went back.
    """
    return _numbered(wanted, kept) if isinstance(wanted, int) else _in_force(wanted, kept)


def _numbered(number: int, kept: Kept) -> int:
    numbers = [n for n, _ in kept]
    newest = numbers[-1]
    if number < 0:
        raise SnapshotNotFound(
            f"There is no snapshot {number}; the oldest that can be read is {numbers[0]}, the newest {newest}. "
            "`siftline snapshots` lists them."
        )
    if number > newest:
        raise SnapshotNotFound(
            f"There is no snapshot {number} yet; the newest is {newest}. `siftline snapshots` lists them."
        )
    if number < numbers[0]:
        raise SnapshotNotFound(
            f"Snapshot {number} was expired or is older than the first table; the oldest that can be read is "
            f"{numbers[0]}. `siftline snapshots` lists them."
        )
    if number not in numbers:
        raise SnapshotNotFound(
            f"Snapshot {number} was expired and cannot be read any more; the nearest kept are "
            f"{max(n for n in numbers if n < number)} and {min(n for n in numbers if n > number)}. "
            "`siftline snapshots` lists them."
        )
    return number


def _in_force(time: datetime, kept: Kept) -> int:
    now = datetime.now(UTC)
    if time > now:
        raise SnapshotNotFound(
            f"{time.isoformat()} lies in the future; the newest snapshot is {kept[-1][0]} of "
            f"{kept[-1][1].isoformat()}. Leave the time out to read it."
        )
    # Of a snapshot with a time to come nobody knows when it was made, but that it was between its neighbours.
    told = [(n, t) for n, t in kept if t <= now + AHEAD]
    before = [n for n, t in told if t <= time]
    after = [n for n, t in told if t > time]
    if not before:
        raise SnapshotNotFound(
            f"No snapshot of {time.isoformat()} is kept; the oldest is {kept[0][0]} of {kept[0][1].isoformat()}. "
            "`siftline snapshots` lists them."
        )
    ahead = [n for n, t in kept if t > now + AHEAD and before[-1] < n < (after[0] if after else n + 1)]
    if ahead or (after and after[0] != before[-1] + 1):
        first, second = sorted((before[-1], after[0] if after else ahead[-1]))
        why = "those between {} and {} were expired" if before[-1] == first else "the clock went back between {} and {}"
        if ahead:
            why = "between {} and {} a clock was ahead"
        raise SnapshotNotFound(
            f"Which snapshot was in force at {time.isoformat()} cannot be told: {why.format(first, second)}. Name one "
            "of the two by its number."
        )
    return before[-1]
