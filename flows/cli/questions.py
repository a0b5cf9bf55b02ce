"""`siftline questions`: list the saved questions, or answer one."""

import textwrap
from pathlib import Path

from flows.cli.console import out, print_table, say
from flows.cli.sql import form_of, show
from flows.settings import warehouse_of
from warehouse.formats import new_file
from warehouse.past import stand_in
from warehouse.questions import question, questions
from warehouse.read import connect_for_people


def list_questions() -> None:
    """Print the names and questions."""
    print_table(["name", "question"], [[q.name, q.question] for q in questions()])


def answer_question(
    root: Path, name: str, format: str, *, at: str | None, output: Path | None, force: bool, sql: bool
) -> None:
    """Print the answer; in a table with the words on how to read it. `sql` prints the query instead."""
    asked = question(name)
    if sql:
        print(asked.sql)
        return
    format = form_of(format, output)
    connection = connect_for_people(warehouse_of(root), at=at)
    try:
        words = stand_in(connection) if at is not None else ""
        if words:
            say(words)
        if output is not None:
            with new_file(output, force=force) as file:
                show(connection, asked.sql, format, file)
            return
        if format == "table":
            out.print(asked.question, style="bold")
        show(connection, asked.sql, format, None)
        if format == "table":
            out.print("\n".join(textwrap.wrap(f"How to read: {asked.reading}", 116)))
    finally:
        connection.close()
