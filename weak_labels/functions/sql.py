"""`sql`: a labeling function that is one SQL expression over an item's columns, for people who think in DuckDB.

The expression is typed by a person and runs inside the vote stage, so it gets a DuckDB of its own: in memory, without
extensions, files, network or settings to change, and with the batch as its only table. It may look at one item at a
time and must give the same answer every time: subqueries, aggregates, windows and functions such as random() or now()
are refused when the function is made.
"""

import re
import threading
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from warehouse import SettingsError
from warehouse.session.duckdb import open_in_utc
from warehouse.session.expression import called, expression_tree, loose_arrow, unstable, walk_macros
from weak_labels.functions import arguments
from weak_labels.functions.call import NotAVote, TimeLimit
from weak_labels.functions.types import ABSTAIN, ItemBatch, LabelingFunction
from weak_labels.functions.version import fingerprint

MEMORY = "1GB"
MOST_FAILED = 250
"""Items of a batch on which an expression may fail; each costs some ten queries to find, so beyond that it fails as a
whole."""
_COLUMNS = "item_id, content, text, metadata"
# In an expression only the scalar function of a name can be meant; aggregates look at other items. Functions whose
# result is as long as a number says are left out: DuckDB does not hold them to its memory limit (measured).
_OF_ONE_ITEM = """
    SELECT function_name FROM duckdb_functions() GROUP BY function_name
    HAVING bool_or(function_type IN ('scalar', 'macro')) AND NOT bool_or(function_type = 'aggregate')
    AND function_name NOT IN ('range', 'generate_series', 'repeat', 'lpad', 'rpad', 'list_resize', 'array_resize')
"""
_NO_COLUMN = re.compile('Referenced column (".*") not found')
_FURTHER = "Further columns of a source are values of metadata, if siftline.toml names them there: metadata->>'desk'."
_WAY_OUT = (
    f"Write the class, then one expression over the columns {_COLUMNS}, such as: "
    "text ILIKE '%refund%' AND length(text) < 200"
)


def sql(
    label: str | None,
    expression: str,
    *,
    name: str | None = None,
    description: str = "",
    timeout_s: float | None = None,
) -> LabelingFunction:
    """Vote by a SQL expression over `item_id`, `content`, `text` (the same) and `metadata` (JSON).

    Args:
        label: class to vote for where the expression is true (NULL abstains). With None the expression gives the
            class's name itself, or NULL to abstain: `CASE WHEN metadata->>'desk' = 'x' THEN 'trade' END`.
        expression: in DuckDB's dialect, about one item; no SELECT.
        name: name of the function; the variable's when left out.
        description: what it says about the items; the expression when left out.
        timeout_s: seconds for one batch; the project's when left out.

    Raises:
        SettingsError: it is no such expression; the message says why and what to write.

    Source: https://duckdb.org/docs/stable/sql/expressions/overview
    """
    where = f"sql({label!r}, {expression!r})"
    _check(arguments.text(expression, f"{where}: the expression"), where, wants=None if label is None else "BOOLEAN")

    def rule(batch: ItemBatch) -> Any:
        with _connect() as connection:
            values, failed = _run(connection, expression, batch)
        if label is None:
            return [ABSTAIN if value is None else value for value in values]
        votes = np.where(np.array([v is True for v in values]), np.int32(batch.class_id(label)), np.int32(ABSTAIN))
        if not failed:
            return votes
        return [v if isinstance(v, NotAVote) else vote for v, vote in zip(values, votes.tolist(), strict=True)]

    return LabelingFunction(
        name=name or "",
        kind="sql",
        version=fingerprint("sql", label, expression, "UTC"),
        rule=rule,
        description=description or expression,
        labels=() if label is None else (label,),
        timeout_s=timeout_s,
    )


def _connect() -> duckdb.DuckDBPyConnection:
    return open_in_utc(
        {
            "enable_external_access": "false",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "python_enable_replacements": "false",
            "memory_limit": MEMORY,
            "max_temp_directory_size": "0B",
            "threads": "1",
        },
        locked=True,
    )


def _run(connection: duckdb.DuckDBPyConnection, expression: str, batch: ItemBatch) -> tuple[list[Any], int]:
    """The expression's value for each item, a `NotAVote` where it fails, and on how many it fails.

    Raises:
        NotAVote: it fails on more than `MOST_FAILED` items.
        TimeLimit: it takes longer than the batch may.
    """
    late = threading.Event()

    def stop() -> None:
        late.set()
        connection.interrupt()

    timer = threading.Timer(batch.limit_s, stop) if batch.limit_s > 0 else None
    if timer is not None:
        timer.start()
    values: list[Any] = []
    failed = 0
    columns = {"item_id": batch.id_array, "content": batch.text_array, "metadata": batch.metadata_array}
    parts = [pa.table(columns)]
    try:
        while parts:
            part = parts.pop()
            connection.register("batch", part)
            try:
                values += connection.execute(_select(expression)).to_arrow_table().column(0).to_pylist()
            except duckdb.Error as error:
                if late.is_set():
                    raise TimeLimit from error
                if part.num_rows > 1:  # DuckDB does not say which item it was: halve until that one stands alone
                    half = part.num_rows // 2
                    parts += [part.slice(half), part.slice(0, half)]
                    continue
                failed += 1
                values.append(NotAVote("raised", f"{type(error).__name__}: {error}"))
                if failed > MOST_FAILED:
                    raise values[-1] from error
    finally:
        if timer is not None:
            timer.cancel()
    return values, failed


def _select(expression: str) -> str:
    # On a line of its own, so that a comment at its end does not swallow the bracket.
    return (
        f"SELECT ({expression}\n) AS vote FROM "
        "(SELECT item_id, content, content AS text, metadata::JSON AS metadata FROM batch)"
    )


def _check(expression: str, where: str, *, wants: str | None) -> None:
    with _connect() as connection:
        try:
            tree = expression_tree(connection, expression)
        except SettingsError as error:
            raise SettingsError(f"{where}: {error}. {_WAY_OUT}") from error
        if loose := loose_arrow(tree):
            raise SettingsError(f"{where}: {loose}. {_WAY_OUT}")
        if drawn := next(unstable(connection, tree), ""):
            raise SettingsError(f"{where}: {drawn} gives another answer each time. {_WAY_OUT}")
        of_one_item = {name for (name,) in connection.execute(_OF_ONE_ITEM).fetchall()}
        for macro, node in walk_macros(connection, tree):
            kind, name = node.get("class"), called(node)
            if kind in ("SUBQUERY", "WINDOW", "STAR", "PARAMETER", "DEFAULT"):
                raise SettingsError(f"{where}: {kind.lower()} is not possible in a labeling function. {_WAY_OUT}")
            if name and name not in of_one_item:
                raise SettingsError(
                    f"{where}: {macro or name}() is unknown, or looks at more than one item, or gives a result of any "
                    f"length. {_WAY_OUT}"
                )
        empty = pa.table({name: pa.array([], pa.string()) for name in ("item_id", "content", "metadata")})
        connection.register("batch", empty)
        try:
            found = str(connection.execute("DESCRIBE " + _select(expression)).fetchall()[0][1])
        except duckdb.Error as error:
            said = str(error).partition("\n")[0].rstrip("!.")  # DuckDB goes on with candidates and its own query
            hint = (
                'Texts stand in single quotes; in "double" ones stand names of columns. ' if '"' in expression else ""
            )
            if column := _NO_COLUMN.search(said):
                said = f"there is no column {column[1]}"
                hint += f"{_FURTHER} "
            raise SettingsError(f"{where}: {said}. {hint}{_WAY_OUT}") from error
        if wants is not None and found not in (wants, '"NULL"'):
            raise SettingsError(f"{where}: it gives {found} where a truth value is expected. {_WAY_OUT}")
        if wants is None and found not in ("VARCHAR", "INTEGER", "BIGINT", '"NULL"'):
            raise SettingsError(f"{where}: it gives {found} where a class name or NULL is expected. {_WAY_OUT}")
