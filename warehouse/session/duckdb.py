"""The one door to DuckDB: what it says of a time does not depend on its machine, and where it spills is its own.

DuckDB takes the time zone of the machine for casts between text and time, for the day of a time and for what Python and
Arrow get. A setting made on a connection holds for that connection and not for its cursors, hence the global one.
"""

from collections.abc import Mapping

import duckdb

from warehouse.files.spill import spill_place

Config = Mapping[str, str | bool | int | float | list[str]]


def open_in_utc(config: Config | None = None, *, locked: bool = False) -> duckdb.DuckDBPyConnection:
    """A new DuckDB in memory that, with all its cursors, has UTC for its time zone.

    Args:
        config: as `duckdb.connect` takes it; DuckDB refuses the time zone there, and nothing more once it is locked.
        locked: no setting can be changed afterwards, and it draws no progress.
    """
    given = dict(config or {})
    if "temp_directory" not in given and given.get("enable_external_access") != "false":  # DuckDB refuses both at once
        given["temp_directory"] = spill_place()
    connection = duckdb.connect(config=given)
    connection.execute("SET GLOBAL TimeZone = 'UTC'")
    if locked:
        # DuckDB takes some of our processes for a person's session, into whose words it draws a bar after two seconds.
        connection.execute("PRAGMA disable_progress_bar")  # SET fails in a notebook that has no ipywidgets
        connection.execute("SET lock_configuration = true")
    return connection
