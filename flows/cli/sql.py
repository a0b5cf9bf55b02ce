"""`siftline sql`: ask the warehouse in SQL, read-only and locked down, while runs write."""

import csv
import json
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb

from flows.cli.console import print_table, say
from flows.project import Project
from warehouse import SettingsError
from warehouse.lake import connect_locked_down

# CREATE makes temporary tables, also for PIVOT; the warehouse itself is attached read-only. EXPLAIN is left out, since
# EXPLAIN ANALYZE runs what it explains, even a COPY.
_ALLOWED = {duckdb.StatementType.SELECT, duckdb.StatementType.CREATE}


# DuckLake's functions that remove files or snapshots run in a SELECT, even where the warehouse is attached read-only.
_MAINTENANCE = re.compile(r"ducklake_(cleanup|delete|expire|merge|rewrite|flush|set|add)", re.IGNORECASE)


def run_sql(root: Path, query: str, format: str) -> None:
    """Run one query, or read queries from a prompt until the input ends."""
    project = Project(root)
    connection = connect_locked_down(project.lake_path)
    try:
        if query:
            _print(connection, query, format)
        else:
            _prompt(connection, format)
    finally:
        connection.close()


def _print(connection: duckdb.DuckDBPyConnection, query: str, format: str) -> None:
    try:
        statements = connection.extract_statements(query)
        for statement in statements:
            if statement.type not in _ALLOWED or _MAINTENANCE.search(query):
                raise SettingsError(
                    f"This {statement.type.name} is not for this prompt, which only reads. To write a file, print it: "
                    'siftline sql --format csv "select ..." > file.csv'
                )
        for statement in statements:
            result = connection.execute(statement)
            columns = [name for name, *_ in result.description or []]
            if statement.type == duckdb.StatementType.SELECT:
                _print_rows(columns, result.fetchall(), format)
    except duckdb.Error as error:
        raise SettingsError(f'{error}\nTables and views: siftline sql "show all tables"') from error


def _print_rows(columns: Sequence[str], rows: Sequence[Sequence[Any]], format: str) -> None:
    if format == "json":
        for row in rows:
            print(json.dumps(_plain(dict(zip(columns, row, strict=True))), ensure_ascii=False))
    elif format == "csv":
        writer = csv.writer(sys.stdout)
        writer.writerow(columns)
        writer.writerows([_cell(value) for value in row] for row in rows)
    else:
        print_table(columns, rows)


def _plain(value: Any) -> Any:
    """A value as JSON has it: what is no number becomes null, what JSON does not know becomes text."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, bytes):
        return value.hex()
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _cell(value: Any) -> Any:
    if isinstance(value, dict | list | tuple | bytes):
        return json.dumps(_plain(value), ensure_ascii=False)
    return _harmless(value)


def _harmless(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _prompt(connection: duckdb.DuckDBPyConnection, format: str) -> None:
    if sys.stdin.isatty():
        say("Read-only. End a query with a semicolon, leave with Ctrl-D. Tables: show all tables;")
    lines: list[str] = []
    while True:
        try:
            lines.append(input(_mark(lines)))
        except EOFError:
            break
        if lines[-1].rstrip().endswith(";"):
            try:
                _print(connection, "\n".join(lines), format)
            except SettingsError as error:
                say(str(error))
            lines = []
    if "".join(lines).strip():
        _print(connection, "\n".join(lines), format)


def _mark(lines: Sequence[str]) -> str:
    if not sys.stdin.isatty():
        return ""
    return "     ... " if lines else "siftline> "
