"""Saved questions: SQL that answers what data scientists ask of every project, with words on how to read the answer.

They are files, `warehouse/queries/saved/*.sql`. Each opens
with its question and its reading, and is one SELECT over tables and views of this schema.
"""

from dataclasses import dataclass
from importlib.resources import files

from warehouse.errors import SettingsError
from warehouse.text import perhaps_meant

_QUESTION = "-- Question:"
_READING = "-- How to read:"


@dataclass(frozen=True, slots=True)
class Question:
    """One saved question: the file's name, the question and how to read the answer in words, and the SQL."""

    name: str
    question: str
    reading: str
    sql: str


def questions() -> list[Question]:
    """All saved questions by name."""
    found = [f for f in (files("warehouse.queries") / "saved").iterdir() if f.name.endswith(".sql")]
    return [
        parse(file.name.removesuffix(".sql"), file.read_text("utf-8")) for file in sorted(found, key=lambda f: f.name)
    ]


def question(name: str) -> Question:
    """The saved question of a name.

    Raises:
        SettingsError: there is none.
    """
    by_name = {q.name: q for q in questions()}
    if name not in by_name:
        near = perhaps_meant(name, by_name)
        raise SettingsError(f"There is no question '{name}'{near}. `siftline questions` lists all {len(by_name)}.")
    return by_name[name]


def parse(name: str, text: str) -> Question:
    """A question from its file."""
    head = [line for line in text.splitlines() if line.startswith("--")]
    words = " ".join(
        line.removeprefix("--").strip() if not line.startswith((_QUESTION, _READING)) else line for line in head
    )
    assert words.startswith(_QUESTION), f"{name}.sql opens with '{_QUESTION}'"
    assert _READING in words, f"{name}.sql says how to read its answer, after '{_READING}'"
    asked, reading = words.removeprefix(_QUESTION).split(_READING, 1)
    sql = "\n".join(line for line in text.splitlines() if not line.startswith("--"))
    return Question(name, asked.strip(), reading.strip(), sql.strip())
