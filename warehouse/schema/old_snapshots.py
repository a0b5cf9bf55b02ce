"""Snapshots of an older schema, as this code's questions want them: temporary views in the place of what came later.

A snapshot reads as it was written, views included. That is right for a person's own SQL, but a saved question names
columns of today. So it is asked of views that live as long as the connection and change nothing.
"""

import duckdb

from warehouse.schema.migrations import REACH_IN_SCHEMA_1, schema_version, views_version
from warehouse.schema.tables import SCHEMA_VERSION, TABLES, Table
from warehouse.schema.views import VIEWS, VIEWS_VERSION

_THEN = {("items", "changed_at"): "committed_at"}
"""Columns whose emptiness would mean something: which items had been changed was not kept, so any may have been."""


def stand_in(connection: duckdb.DuckDBPyConnection) -> str:
    """Put today's columns and views over those of an older snapshot: columns and tables that came later are empty.

    Args:
        connection: reads the warehouse `lake` at the snapshot.

    Returns:
        A sentence on what was done, for whoever reads the answers; "" where nothing had to be.
    """
    found = schema_version(connection)
    if found == SCHEMA_VERSION and views_version(connection) >= VIEWS_VERSION:
        return ""
    present: dict[str, set[str]] = {}
    for table, column in connection.execute(
        "SELECT table_name, column_name FROM duckdb_columns() WHERE database_name = 'lake'"
    ).fetchall():
        present.setdefault(table, set()).add(column)
    for table in TABLES:
        if sql := _stand_in(table, present.get(table.name, set()), found):
            connection.execute(f'CREATE TEMP VIEW "{table.name}" AS {sql}')
    for view in VIEWS:
        connection.execute(f"CREATE TEMP VIEW {view.name} AS {view.sql}")
    return (
        f"The snapshot has schema {found}; it was asked with the views of today, and columns that came with schema "
        f"{found + 1} or later are empty."
        if found < SCHEMA_VERSION
        else "The snapshot has older views; it was asked with those of today."
    )


def _stand_in(table: Table, present: set[str], schema: int) -> str:
    """SQL of the table as it would be today; "" where it is so already."""
    missing = [
        f'{_THEN.get((table.name, c.name), f"NULL::{c.type}")} AS "{c.name}"'
        for c in table.all_columns
        if c.name not in present
    ]
    if schema == 1 and table.name in REACH_IN_SCHEMA_1:
        return REACH_IN_SCHEMA_1[table.name]
    if not present:
        return f"SELECT {', '.join(missing)} WHERE false"
    if table.name == "lf_votes" and schema == 1:  # which kept abstains as votes
        return f"SELECT {', '.join(['*', *missing])} FROM lake.lf_votes WHERE vote >= 0"
    return f'SELECT *, {", ".join(missing)} FROM lake."{table.name}"' if missing else ""
