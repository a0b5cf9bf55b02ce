"""`siftline sql`: ask the warehouse in SQL, read-only and locked down, while runs write."""

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb

from flows.cli.console import print_table, say
from flows.project import Project
from warehouse import SettingsError
from warehouse.lake import connect_locked_down

_ALLOWED = {
    duckdb.StatementType.SELECT,
    duckdb.StatementType.EXPLAIN,
    duckdb.StatementType.CREATE,  # temporary tables; the warehouse itself is attached read-only
    duckdb.StatementType.DROP,
}


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
        for statement in connection.extract_statements(query):
            if statement.type not in _ALLOWED:
                raise SettingsError(
                    f"{statement.type.name} is not for this prompt, which only reads. To write a file, print it: "
                    'siftline sql --format csv "select ..." > file.csv'
                )
        result = connection.execute(query)
        columns = [name for name, *_ in result.description or []]
        rows = result.fetchall()
    except duckdb.Error as error:
        raise SettingsError(f'{error}\nTables and views: siftline sql "show all tables"') from error
    if format == "json":
        for row in rows:
            print(json.dumps(dict(zip(columns, row, strict=True)), default=str, ensure_ascii=False))
    elif format == "csv":
        writer = csv.writer(sys.stdout)
        writer.writerow(columns)
        writer.writerows([_harmless(value) for value in row] for row in rows)
    else:
        print_table(columns, rows)


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
