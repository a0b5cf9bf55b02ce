"""What earlier models said of items that nobody was asked about: most of a warehouse after months, and no longer read.

Each label model and end model writes a row for every item, and each selection a value. The views read the latest; what
was said of items that people were asked about stays for ever, since accuracy before the answer and the worth of what
was chosen are told from it.
"""

import duckdb

_OLD_MODELS = """
    SELECT model_id FROM models WHERE stage = '{stage}' AND committed_at < {before}
    AND sequence < (SELECT max(sequence) FROM models WHERE stage = '{stage}')
"""
_OLD_CYCLES = """
    SELECT cycle FROM "values" GROUP BY cycle HAVING max(committed_at) < {before}
    AND cycle < (SELECT max(cycle) FROM "values")
"""


def delete_superseded(cursor: duckdb.DuckDBPyConnection, before: str) -> int:
    """Delete, in the transaction that is open, what models and selections of before a time said.

    Args:
        cursor: of the warehouse.
        before: the time, as an SQL expression.

    Returns:
        Rows deleted from `weak_labels`, `predictions` and `values`; 0 where nothing was.
    """
    deleted = 0
    for table, key, old in (
        ("weak_labels", "label_model_id", _OLD_MODELS.format(stage="label_model", before=before)),
        ("predictions", "end_model_id", _OLD_MODELS.format(stage="end_model", before=before)),
        ('"values"', "cycle", _OLD_CYCLES.format(before=before)),
    ):
        where = f"{key} IN ({old}) AND item_id NOT IN (SELECT item_id FROM queue UNION SELECT item_id FROM annotations)"
        # A deletion that finds nothing would still make a snapshot.
        if cursor.execute(f"SELECT 1 FROM {table} WHERE {where} LIMIT 1").fetchone() is not None:
            row = cursor.execute(f"DELETE FROM {table} WHERE {where}").fetchone()
            deleted += int(row[0]) if row else 0
    return deleted
