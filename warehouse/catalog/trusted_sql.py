"""SQL that a warehouse brings along: what its views may do, whoever made them.

Our own questions run over the views in the catalogue, with the rights of whoever asks. A view may call functions that
read or write any file, and a macro may take the name of a function that we call. So a warehouse
opens only where its views read nothing but its own tables, and where it holds no macro.
"""

import re
from collections.abc import Iterator

import duckdb

from warehouse.catalog.object_store import METADATA
from warehouse.errors import WarehouseError

_HARMLESS = frozenset({"generate_series", "json_each", "json_tree", "range", "unnest"})
_ITSELF = frozenset({"", "lake", "main"})
# Of the JSON that DuckDB makes of a statement. Within a text of the statement each quote has a backslash before it.
_CALLED = re.compile(r'"type":"TABLE_FUNCTION".*?"function_name":"((?:[^"\\]|\\.)*)"', re.DOTALL)
_TABLE = re.compile(r'"table_name":"((?:[^"\\]|\\.)*)"')
_PLACE = re.compile(r'"(?:schema|catalog)_name":"((?:[^"\\]|\\.)*)"')


def refuse_foreign_sql(connection: duckdb.DuckDBPyConnection, place: str, *, at: int | None = None) -> None:
    """Refuse a warehouse whose views read anything but its tables, or which holds a macro.

    Args:
        connection: has it attached as `lake`; none of its views was read yet.
        place: the warehouse, as a person knows it.
        at: number of the snapshot that will be read; the newest when left out.

    Raises:
        WarehouseError: there is one; the message names it.
    """
    live = "end_snapshot IS NULL" if at is None else f"begin_snapshot <= {at} AND coalesce(end_snapshot > {at}, true)"
    found = connection.execute(
        f"""
        SELECT 'view', view_name, json_serialize_sql(sql) FROM {METADATA}.ducklake_view WHERE {live}
        UNION ALL SELECT 'macro', macro_name, NULL FROM {METADATA}.ducklake_macro WHERE {live}
        """
    ).fetchall()
    for kind, name, parsed in found:
        for fault in ("it could take the place of a function",) if parsed is None else _faults(parsed):
            raise WarehouseError(
                f"The warehouse at {place} holds the {kind} {name!r}, which is not Siftline's: {fault}. Nothing was "
                f"read by it. If the warehouse is from somebody else, do not use it. If the {kind} is yours, attach it "
                f"in a DuckDB of your own without READ_ONLY, and DROP {kind.upper()} there."
            )


def _faults(parsed: str) -> Iterator[str]:
    """What a view reads beside tables of its warehouse, in words."""
    if not parsed.startswith('{"error":false'):
        yield "it is no plain SELECT"
    yield from (f"it calls {name}" for name in _CALLED.findall(parsed) if name.lower() not in _HARMLESS)
    yield from (f"it reads {name}" for name in _TABLE.findall(parsed) if "." in name)
    yield from (f"it reads from {name}" for name in _PLACE.findall(parsed) if name.lower() not in _ITSELF)
