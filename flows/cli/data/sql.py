"""`siftline sql`: ask the warehouse in SQL, read-only and locked down, while runs write, now or as it was."""

import contextlib
import importlib
import os
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, cast

import duckdb

from flows.cli.status import project_hint
from flows.cli.terminal.console import Shown, out, print_table, say
from flows.settings.settings_file import warehouse_of
from warehouse import SettingsError
from warehouse.catalog.connection import READS_AS_ONE, attach_statement
from warehouse.catalog.object_store import secret_statement
from warehouse.export.formats import new_file, write_csv, write_json, write_parquet
from warehouse.files.disk_space import temporary_fault
from warehouse.queries.open import connect, connect_for_people, reading_statements
from warehouse.queries.sandbox import limited_process_memory
from warehouse.session.expression import loose_arrow_in
from warehouse.session.interrupt import stopped_with_us, stream
from warehouse.session.server_errors import server_fault

_FETCH_ROWS = 1000
MOST_SHOWN = 500
"""Rows of a table in a terminal; 7,674 with their texts took minutes and were 16 MB."""
BY_SUFFIX = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
_LEAVE = ("exit", "quit", "\\q")


def run_sql(
    root: Path,
    query: str,
    command: str,
    format: str,
    *,
    at: str | None = None,
    output: Path | None = None,
    force: bool = False,
) -> None:
    """Run one query, or read queries from a prompt or a pipe until the input ends."""
    if query and command:
        raise SettingsError("There are two queries, one as an argument and one with -c; give one of them.")
    query, format = query or command, form_of(format, output)
    with limited_process_memory(), contextlib.closing(connect_for_people(warehouse_of(root), at=at)) as connection:
        if not query and (output is not None or format == "parquet"):
            query = sys.stdin.read()  # one file holds one result, so there is nothing to prompt for
        if output is not None:
            with new_file(output, force=force) as file:
                show(connection, query, format, file, root)
        elif query:
            show(connection, query, format, None, root)
        else:
            _prompt(connection, format, root)


def form_of(format: str, output: Path | None) -> str:
    """The form to write: the one that was asked for, and for a file without one that of its suffix.

    Raises:
        SettingsError: a file is named, and neither says what it is to hold, or both do and differ.
    """
    if output is None:
        return format
    if format != "table":
        if (form := BY_SUFFIX.get(output.suffix.lower())) not in (None, format):
            raise SettingsError(
                f"{output.name} is a file of {form} by its suffix, and --format says {format}; leave --format out, or "
                "give the file another suffix."
            )
        return format
    return form_by_suffix(output, "A table is for the terminal; give --format csv, json or parquet, or")


def form_by_suffix(output: Path, way_out: str = "Name") -> str:
    """The form that a file's suffix says: csv, json or parquet.

    Args:
        output: the file.
        way_out: how the sentence begins that ends in the suffixes.

    Raises:
        SettingsError: it says none.
    """
    if form := BY_SUFFIX.get(output.suffix.lower()):
        return form
    raise SettingsError(f"{way_out} a file with the suffix {', '.join(BY_SUFFIX)} instead of {output.name}.")


def print_attach(root: Path, at: str | None, *, nothing_else: bool) -> None:
    """Print the lines that open this project's warehouse in any DuckDB client.

    Raises:
        SettingsError: something else is asked in the same breath.
    """
    if not nothing_else:
        raise SettingsError("--attach prints lines and asks nothing; leave the query, --format and --output out.")
    place = warehouse_of(root)
    with connect(place, at=at) as reader:
        number = None if at is None else reader.snapshot()
    if place.on_s3:  # the names stand for what they name, which is not printed
        token = "<AWS_SESSION_TOKEN>" if os.environ.get("AWS_SESSION_TOKEN") else ""
        print(secret_statement(place, "<AWS_ACCESS_KEY_ID>", "<AWS_SECRET_ACCESS_KEY>", token) + ";")
    print(attach_statement(place, read_only=True, at=number) + ";")
    print("USE lake;")
    if place.dsn is None:
        print(READS_AS_ONE + ";")


def show(connection: duckdb.DuckDBPyConnection, query: str, format: str, file: Path | None, root: Path) -> None:
    """Run the statements of a query and write their results to a file, or to standard output where it is None.

    Args:
        connection: to the project's warehouse.
        query: the statements.
        format: table, csv, json or parquet.
        file: where the result goes.
        root: the project, which the ways out name.

    Raises:
        SettingsError: a statement is wrong or would write, or the form does not hold what came out.
        ServerAway: a server of the warehouse's does not answer.
        DiskFull: the temporary folder has no room for what memory does not hold.
    """
    try:
        statements = reading_statements(connection, query)
        results = sum(statement.type == duckdb.StatementType.SELECT for statement in statements)
        if results != 1 and (format == "parquet" or file is not None):
            raise SettingsError(f"One file holds one result, and this asks for {results}; give exactly one SELECT.")
        for statement in statements:
            with stopped_with_us(connection):
                result = connection.execute(statement)
                if statement.type == duckdb.StatementType.SELECT:
                    _write(connection, result, format, file)
    except duckdb.Error as error:
        if known := server_fault(str(error)) or temporary_fault(str(error)):
            raise known from error
        raise SettingsError(f"{error}\n{_way_out(query, str(error), project_hint(root))}") from error


def _way_out(query: str, error: str, project: str) -> str:
    if "file system operations are disabled" in error:
        return (
            "This prompt reads no file but the warehouse's. Join your own from Python, with warehouse.connect, or from "
            f"another DuckDB client: siftline sql --attach{project}"
        )
    if "No snapshot found" in error:
        return f"The snapshots that are kept: siftline snapshots{project}"
    if "Cannot open file" in error:
        return f"If a file of the warehouse is missing, or not for you to read, this names it: siftline verify{project}"
    return loose_arrow_in(query) or f'Tables and views: siftline sql{project} "show all tables"'


def _write(
    connection: duckdb.DuckDBPyConnection, result: duckdb.DuckDBPyConnection, format: str, file: Path | None
) -> None:
    columns = [name for name, *_ in result.description or []]
    if format == "parquet":
        if file is None and sys.stdout.isatty():
            raise SettingsError("Parquet is not for a terminal; name a file with --output.")
        write_parquet(file or sys.stdout.buffer, stream(connection, result, rows=_FETCH_ROWS))
        return
    with _text(file) as target:
        if format == "json":
            write_json(target, columns, _rows(result))
        elif format == "csv":
            write_csv(target, columns, _rows(result))
        elif out.is_terminal:
            rows = result.fetchmany(MOST_SHOWN + 1)
            print_table(columns, rows[:MOST_SHOWN])
            if len(rows) > MOST_SHOWN:
                say(f"These are the first {MOST_SHOWN} rows. All of them: --output FILE, or --format csv")
        else:
            print_table(columns, _rows(result))


@contextmanager
def _text(file: Path | None) -> Generator[TextIO]:
    if file is None:
        yield cast("TextIO", Shown()) if sys.stdout.isatty() else sys.stdout
        return
    with file.open("w", encoding="utf-8", newline="") as target:
        yield target


def _rows(result: duckdb.DuckDBPyConnection) -> Iterator[Sequence[Any]]:
    while rows := result.fetchmany(_FETCH_ROWS):
        yield from rows


def _prompt(connection: duckdb.DuckDBPyConnection, format: str, root: Path) -> None:
    """Read queries line by line until the input ends; a person may correct, recall and give up lines."""
    if not sys.stdin.isatty():
        _script(connection, format, root)
        return
    with contextlib.suppress(ImportError):  # some builds of Python lack it
        importlib.import_module("readline")  # from then on `input` edits lines and recalls earlier ones
    say("Read-only. End a query with a semicolon; Ctrl-C gives it up, Ctrl-D leaves. Tables: show all tables;")
    lines: list[str] = []
    while True:
        try:
            lines.append(input("     ... " if lines else "siftline> "))
            if len(lines) == 1 and lines[0].strip().rstrip(";").lower() in _LEAVE:
                return
            if _is_whole("\n".join(lines)):
                query, lines = "\n".join(lines), []
                show(connection, query, format, None, root)
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()
            lines = []
        except SettingsError as error:
            say(str(error))
        except RuntimeError as error:
            if "Query interrupted" not in str(error):  # DuckDB's word when a signal reaches it in a query
                raise
            say("interrupted")


def _is_whole(text: str) -> bool:
    """Whether a query ends here: with a semicolon that stands in no text and no comment; a wrong one ends too."""
    if not text.rstrip().endswith(";"):
        return False
    try:
        count = len(duckdb.extract_statements(text))
    except duckdb.Error as error:
        return "unterminated" not in str(error)
    try:
        return len(duckdb.extract_statements(f"{text}\nSELECT 1")) > count
    except duckdb.Error:
        return False


def _script(connection: duckdb.DuckDBPyConnection, format: str, root: Path) -> None:
    """Run the queries of a pipe, each as soon as it is whole; the first wrong one ends it."""
    lines: list[str] = []
    for line in sys.stdin:
        lines.append(line)
        if _is_whole("".join(lines)):
            show(connection, "".join(lines), format, None, root)
            lines = []
    if "".join(lines).strip():
        show(connection, "".join(lines), format, None, root)
