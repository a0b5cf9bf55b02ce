"""How rows lie in their files, chosen by measured queries: order, row groups, compression and statistics.

A look-up by id reads one row group of each file whose range holds the id. Ids that are content hashes have no order, so
without a sort every row group of every file may hold it. Questions over all items pay for decompressing ids and hashes,
so the compression is the one that is fastest to undo (docs/decisions/files-sorted-by-item.md). The layout is no
part of the schema: files written before it read as well, and `maintain` brings it to an older warehouse.
"""

import duckdb

from warehouse.catalog.object_store import METADATA

SORTED_BY = {"items": ("item_id",), "predictions": ("end_model_id", "item_id")}
"""Those of the latest model are asked for again and again, and each cycle adds the rows of another model."""
OFTEN_EMPTY: tuple[str, ...] = ("annotations", "annotator_skills", "asked_before", "lf_faults", "metrics", "quarantine")

FILE_OPTIONS: tuple[tuple[str, str, str], ...] = (
    ("", "parquet_compression", "lz4_raw"),
    ("items", "parquet_row_group_size", "20480"),
    ("items", "parquet_version", "2"),  # the lengths of texts stand apart from their letters
    ("lf_votes", "parquet_version", "2"),
    ("predictions", "parquet_row_group_size", "20480"),
    ("vectors", "parquet_version", "2"),  # the bytes of numbers stand apart: those of like bits compress
    ("vectors", "parquet_compression", "zstd"),
)
"""Table (empty: all of them), DuckLake's option and its value."""


def sort_tables(cursor: duckdb.DuckDBPyConnection) -> list[str]:
    """Give tables their order for files written from now on, in the caller's transaction; returns which had another."""
    known = cursor.execute(
        "SELECT t.table_name, list(trim(e.expression, '\"') ORDER BY e.sort_key_index) "
        f"FROM {METADATA}.ducklake_sort_info s JOIN {METADATA}.ducklake_table t USING (table_id) "
        f"JOIN {METADATA}.ducklake_sort_expression e USING (sort_id) "
        "WHERE s.end_snapshot IS NULL AND t.end_snapshot IS NULL GROUP BY ALL"
    ).fetchall()
    orders = {str(name): tuple(columns) for name, columns in known}
    lacking = sorted(name for name, columns in SORTED_BY.items() if orders.get(name) != columns)
    for name in lacking:
        columns = ", ".join(f'"{column}"' for column in SORTED_BY[name])
        cursor.execute(f'ALTER TABLE "{name}" SET SORTED BY ({columns})')
    return lacking


def give_statistics(cursor: duckdb.DuckDBPyConnection) -> list[str]:
    """Give tables that may stay empty for long statistics, in the caller's transaction; returns which had none.

    DuckLake asks the catalogue for the statistics of a table again and again, in one query, as long as there are none.
    A row that comes and goes in one transaction makes them, and no snapshot holds it.
    """
    known = cursor.execute(
        f"SELECT t.table_name FROM {METADATA}.ducklake_table_stats JOIN {METADATA}.ducklake_table t USING (table_id) "
        "WHERE t.end_snapshot IS NULL"
    ).fetchall()
    lacking = sorted(set(OFTEN_EMPTY) - {str(name) for (name,) in known})
    for name in lacking:
        cursor.execute(f'INSERT INTO "{name}" (run_id) VALUES (NULL)')
        cursor.execute(f'DELETE FROM "{name}"')
    return lacking


def set_file_options(cursor: duckdb.DuckDBPyConnection) -> None:
    """Set those of `FILE_OPTIONS` that were never set; tables are committed, DuckLake keeps it outside transactions."""
    known = cursor.execute(
        f"SELECT coalesce(t.table_name, ''), m.key FROM {METADATA}.ducklake_metadata m "
        f"LEFT JOIN {METADATA}.ducklake_table t ON t.table_id = m.scope_id AND t.end_snapshot IS NULL "
        "WHERE m.scope IS NULL OR m.scope = 'table'"
    ).fetchall()
    for table, option, value in FILE_OPTIONS:
        if (table, option) not in known:
            place = f", table_name => '{table}'" if table else ""
            cursor.execute(f"CALL ducklake_set_option('lake', '{option}', '{value}'{place})")
