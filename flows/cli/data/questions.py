"""`siftline questions`: list the saved questions, or answer one."""

import textwrap
from pathlib import Path

from flows.cli.data.sql import form_of, show
from flows.cli.terminal.console import out, print_table, say
from flows.settings.settings_file import warehouse_of
from warehouse import SettingsError
from warehouse.export.formats import new_file
from warehouse.queries.open import connect_for_people
from warehouse.queries.saved_questions import question, questions
from warehouse.schema.old_snapshots import stand_in

WIDEST = 116
"""Characters of a line; longer ones are hard to read."""


def list_questions() -> None:
    """Print the names and questions."""
    print_table(["name", "question"], [[q.name, q.question] for q in questions()])


def answer_question(
    root: Path, name: str, format: str, *, at: str | None, output: Path | None, force: bool, sql: bool
) -> None:
    """Print the answer; in a table with the words on how to read it. `sql` prints the query instead.

    Without a name all questions are listed.

    Raises:
        SettingsError: there is no such question, or none is named and something is to be done with its answer.
    """
    if not name:
        if at or output or sql or format != "table":
            raise SettingsError("Which question? Name one; without a name they are only listed: siftline questions")
        list_questions()
        return
    asked = question(name)
    if sql:
        print(asked.sql)
        return
    format = form_of(format, output)
    connection = connect_for_people(warehouse_of(root), at=at)
    try:
        if words := stand_in(connection):
            say(words)
        if output is not None:
            with new_file(output, force=force) as file:
                show(connection, asked.sql, format, file, root)
            return
        if format == "table":
            out.print(asked.question, style="bold")
        show(connection, asked.sql, format, None, root)
        if format == "table":
            width = min(WIDEST, out.width) if out.is_terminal else WIDEST
            out.print("\n".join(textwrap.wrap(f"How to read: {asked.reading}", width)))
    finally:
        connection.close()
