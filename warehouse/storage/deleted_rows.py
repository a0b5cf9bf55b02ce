"""Rows that were deleted and still lie in their files, which a reader of the warehouse never sees.

DuckLake notes beside a file which of its rows are gone; the file keeps their bytes until it is written anew. Where a
text had to go, that is not gone. So an upkeep that is told a number of days writes anew what holds rows deleted before
them. That also leaves out all that was deleted since, so with days to keep no file is written anew every night.
"""

import duckdb

from warehouse.catalog.object_store import METADATA


def tables_with_rows_deleted(cursor: duckdb.DuckDBPyConnection, before: str) -> list[str]:
    """Tables of which a file holds rows that were deleted before a time.

    Args:
        cursor: of the warehouse.
        before: the time, as an SQL expression.
    """
    # A file has one note of its deletions, with the snapshot of the first of them.
    found = cursor.execute(
        f"SELECT DISTINCT t.table_name FROM {METADATA}.ducklake_delete_file d "
        f"JOIN {METADATA}.ducklake_data_file f USING (data_file_id) "
        f"JOIN {METADATA}.ducklake_table t ON t.table_id = d.table_id "
        "WHERE f.end_snapshot IS NULL AND t.end_snapshot IS NULL AND NOT d.begin_snapshot >= coalesce("
        f"(SELECT min(snapshot_id) FROM ducklake_snapshots('lake') WHERE snapshot_time >= {before}), {2**62}) "
        "ORDER BY 1"
    ).fetchall()
    return [str(name) for (name,) in found]
