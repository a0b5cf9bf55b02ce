"""How rows lie in their files, chosen by measured queries: sorted by item, in small row groups for one item.

A look-up by id reads one row group of each file whose range holds the id. Ids that are content hashes have no order, so
without a sort every row group of every file may hold it (docs/decisions/0038). The layout is no part of the schema:
files written before it read as well, and `maintain` brings it to an older warehouse.
"""

import duckdb

SORTED_BY = {"items": "item_id", "predictions": "item_id"}
ROW_GROUP_ROWS = {"items": 20_480, "predictions": 20_480}
_METADATA = "__ducklake_metadata_lake"


def sort_tables(cursor: duckdb.DuckDBPyConnection) -> list[str]:
    """Give tables their order for files written from now on, in the caller's transaction; returns which had none."""
    known = cursor.execute(
        f"SELECT t.table_name FROM {_METADATA}.ducklake_sort_info s JOIN {_METADATA}.ducklake_table t USING (table_id) "
        "WHERE s.end_snapshot IS NULL AND t.end_snapshot IS NULL"
    ).fetchall()
    lacking = sorted(SORTED_BY.keys() - {str(name) for (name,) in known})
    for name in lacking:
        cursor.execute(f'ALTER TABLE "{name}" SET SORTED BY ("{SORTED_BY[name]}")')
    return lacking


def size_row_groups(cursor: duckdb.DuckDBPyConnection) -> None:
    """Set the rows per row group of tables that are committed; DuckLake keeps it outside transactions."""
    for name, rows in ROW_GROUP_ROWS.items():
        cursor.execute(f"CALL ducklake_set_option('lake', 'parquet_row_group_size', {rows}, table_name => '{name}')")
