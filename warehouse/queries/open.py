"""Opening the warehouse to read it at one snapshot: the newest, a numbered one, or the one in force at a time.

This is the door for data scientists. What it gives is a `Reader`: one snapshot however long it stays open, beside a
pipeline that writes.
"""

import os
import re
from functools import partial
from pathlib import Path

import duckdb

from warehouse.catalog.location import Location, folder_of, locate
from warehouse.catalog.reader_locks import Hold
from warehouse.catalog.snapshots import At
from warehouse.errors import SettingsError, WarehouseNotFound
from warehouse.queries.reader import Reader
from warehouse.queries.sandbox import connect_locked_down, refuse_reaching_out
from warehouse.schema.migrations import connect_checked
from warehouse.session.expression import expression_tree, loose_arrow, unstable

# EXPLAIN is left out, since EXPLAIN ANALYZE runs what it explains, even a COPY.
_ALLOWED = {duckdb.StatementType.SELECT, duckdb.StatementType.CREATE}
# CREATE makes secrets and macros too. A PIVOT is one that DuckDB made, without a text.
_TEMPORARY = re.compile(
    r"(\s|--[^\r\n]*[\r\n])*+(create\s+(or\s+replace\s+)?temp(orary)?\s+(table|view)\b|$)", re.IGNORECASE
)


def connect(path: Path | str | Location, *, read_only: bool = True, at: At = None) -> Reader:
    """Open a warehouse for reading at one snapshot. Use the result as a context manager, or close it.

    Args:
        path: folder of the warehouse, the one that holds `catalog.sqlite`, or its `Location`.
        read_only: always True; it stands here because people who know `duckdb.connect` look for it.
        at: snapshot number or time; the newest when left out.

    Raises:
        WarehouseNotFound: there is no warehouse at this place.
        SnapshotNotFound: the snapshot does not exist, lies in the future or has been expired.
        SettingsError: `path` is no path, `at` cannot be read, or `read_only` is False.
        SchemaTooNew, SchemaTooOld: another Siftline wrote it.
    """
    if not read_only:
        raise SettingsError(
            "connect() only reads. What writes is a stage, in one commit: Lake(path).stage(...).commit(...); see "
            "warehouse/README.md."
        )
    place = _folder(path)
    again = partial(_finds_frames, place)
    return Reader(again(at), again=again, hold=Hold.on(locate(place)))


def _finds_frames(place: Path | Location, at: At) -> duckdb.DuckDBPyConnection:
    """A connection whose queries find the frames of whoever calls the reader by the names of their variables."""
    connection = connect_checked(place, at=at)
    connection.execute("SET python_scan_all_frames = true")
    return connection


def attached(path: Path | str | Location) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection with the warehouse attached as `lake`, read-only, and in use: for tools that take one.

    Each query sees the newest snapshot; between `BEGIN` and `COMMIT` all see the same one. Its cursors have to say
    `USE lake`. Close it before a process is forked.

    Raises:
        WarehouseNotFound: there is no warehouse at this place.
        SettingsError: `path` is no path.
        SchemaTooNew, SchemaTooOld: another Siftline wrote it.
    """
    return connect_checked(_folder(path))


def connect_for_people(path: Path | Location, *, at: At = None) -> duckdb.DuckDBPyConnection:
    """A locked-down connection at a snapshot, for SQL that a person types; raises as `connect` does."""
    return connect_locked_down(_folder(path), at=at)


def reading_statements(connection: duckdb.DuckDBPyConnection, query: str) -> list[duckdb.Statement]:
    """The statements of a person's query, all of which only read.

    Raises:
        SettingsError: one of them would write or leave the warehouse.
        duckdb.Error: the query cannot be parsed.
    """
    statements = connection.extract_statements(query)
    refuse_reaching_out(query)
    for statement in statements:
        if statement.type not in _ALLOWED:
            raise SettingsError(
                f"This {statement.type.name} is not for this prompt, which only reads. To write a file, name it: "
                'siftline sql --output file.csv "select ..."'
            )
        if statement.type == duckdb.StatementType.CREATE and not _TEMPORARY.match(statement.query):
            raise SettingsError("Of CREATE, only CREATE TEMP TABLE and CREATE TEMP VIEW are for this prompt.")
    return statements


def check_condition(connection: duckdb.DuckDBPyConnection, where: str) -> None:
    """Refuse a person's condition that is not one expression, is not the same each time, or leaves the warehouse.

    Raises:
        SettingsError: it is blank, cannot be parsed, holds more than one expression, draws or asks the clock, or names
            what `refuse_reaching_out` refuses, or takes a key out of a truth value.
    """
    if not where.strip():
        raise SettingsError("The condition is empty; leave --where out for all rows.")
    refuse_reaching_out(where)
    try:
        tree = expression_tree(connection, where)
    except SettingsError as error:
        raise SettingsError(f"{where!r} is no condition: {error}.") from error
    if loose := loose_arrow(tree):
        raise SettingsError(f"{where!r} is no condition: {loose}.")
    if drawn := next(unstable(connection, tree), ""):
        raise SettingsError(
            f"The condition has {drawn}, which is another one each time. For a part that stays the same, such as "
            'half of the items: --where "hash(item_id) % 10 < 5"'
        )


def _folder(path: Path | str | Location) -> Path | Location:
    """The folder as an absolute path; a project's folder is told apart from its warehouse's."""
    if isinstance(path, Location):
        return path
    folder = folder_of(path).absolute()
    inside = folder / "lake"
    # os.path, as pathlib raises at a folder that this user may not look into, which is told when it is opened.
    if not os.path.isfile(folder / "catalog.sqlite") and os.path.isfile(inside / "catalog.sqlite"):
        raise WarehouseNotFound(f"{folder} is not a warehouse, but the folder {inside} in it is; name that one.")
    return folder
