"""The data dictionary: every table, view and column in words, made from the comments in `schema.py`.

`python -m warehouse.schema.dictionary` writes `docs/data-dictionary.md`; a test says when it is not current.
"""

import re
from pathlib import Path

from warehouse.schema.tables import SCHEMA_VERSION, TABLES, Table
from warehouse.schema.views import VIEWS, View
from warehouse.session.extensions import open_duckdb

_COMPUTED = {
    "label": "Name of the class; in a multi-label project all names, such as `grain, wheat`, or `(none)`.",
    "labels": "Names of the classes in a list: one, or in a multi-label project any number.",
    "class_ids": "The classes in a list, ascending: one, or in a multi-label project any number.",
    "label_source": "gold (people) or predicted (the end model).",
    "confidence": "Probability of the label; in a multi-label project of the least sure yes or no of its classes.",
    "seconds": "Seconds people spent on the item in all.",
    "updated_at": "When the latest of these answers was saved.",
    "annotations": "Answers in force for this item.",
    "agreeing": "Those of them that gave this label.",
    "decided_by": "single or unanimous; where answers differ reviewer (one of `[annotate] reviewers` said it), skill "
    "(weighted by `annotator_skills`) or majority.",
    "opinions": "Who said what.",
    "labelled": "Labels that were not withdrawn, also of items edited since, which `gold_labels` leaves out.",
    "skipped": "Tasks skipped.",
    "median_seconds": "Median seconds per label, of those whose time is known.",
    "labels_per_hour": "3600 / median_seconds.",
    "agreement": "On the items that others answered too, the mean share of those others who gave the same label.",
    "accuracy": "Estimated share of right labels; see `annotator_skills`.",
    "weight": "By how much an opinion counts; see `annotator_skills`.",
    "weight_no": "By how much a no counts in a multi-label project; see `annotator_skills`.",
    "sensitivity": "Estimated share of the classes an item has that are named; see `annotator_skills`.",
    "applied_to": "Items of the train split it was applied to, faults left out; 0 where it is switched off.",
    "polarity": "Classes it votes for.",
    "coverage": "votes / applied_to.",
    "overlap": "Share of those items where another function votes too.",
    "conflict": "Share of those items where another function votes for another class; empty in a multi-label project.",
    "gold_votes": "Its votes on items with people's labels.",
    "gold_accuracy": "Share of gold_votes that people's labels confirm.",
    "faults": "Items of the train split that it failed on.",
    "switched_off": "It failed too often and its votes do not count. It is tried again once it is changed or there is "
    "new input; one by `prompt` by every run.",
    "tasks": "Tasks chosen in this cycle.",
    "planned": "Chosen, not sent yet.",
    "sent": "Sent, not confirmed by the service yet.",
    "waiting": "Confirmed, waiting for an answer.",
    "answered": "Answered.",
    "lowest_value": "Value of the least valuable task; 0 where one was drawn at random or is of an imported label.",
    "highest_value": "Value of the most valuable task.",
    "trained_on": "Items the model learned from.",
    "test_accuracy": "Accuracy that this model was scored with, on the split that is scored: test or what [evaluate] "
    "split names. Where it never was (`replayed`), that of a model of now with as many gold labels, if one was scored "
    "since.",
    "replayed": "`test_accuracy` is not of this model: it was not scored before the next one had learned.",
    "random_accuracy": "Mean accuracy with as many labels picked at random, and the weak labels of now.",
    "voted": "Classes that functions voted for.",
    "votes": "Votes of functions.",
    "predicted": "The end model's label.",
    "gold": "People's label.",
    "end_model_id": "Fitted end model.",
}
"""Columns of views that no table has; the others mean what they mean in their table."""

_IN_VIEW = {
    ("opinions", "updated_at"): "When this answer was saved.",
    ("opinions", "seconds"): "Seconds people spent on the item in all, the same beside each opinion on it; what one "
    "person spent is in `current_annotations`.",
    ("opinions", "class_id"): "The class; -1 in a multi-label project.",
    ("opinions", "class_ids"): "Multi-label projects: the chosen classes; NULL elsewhere.",
    ("gold_labels", "class_id"): "The class; -1 in a multi-label project.",
    ("latest_predictions", "class_id"): "Most probable class.",
    ("annotators", "updated_at"): _COMPUTED["updated_at"],
    ("training_set", "probs"): "The end model's probabilities, also where people gave the label: then `label` may be "
    "another class. NULL where people gave one and the model none.",
    ("lf_applied", "vote"): "class_id; -1 where it abstained.",
    ("lf_summary", "votes"): "Its votes on items of the train split.",
    ("cycle_summary", "split"): "Split that the accuracies are of; NULL where not scored.",
    ("cycle_summary", "cycle"): "How many end models came before this one: its `sequence` in `models` less 1; "
    "not the `cycle` of `queue`.",
    ("disagreements", "confidence"): "The end model's, of what it predicted.",
    (
        "training_set",
        "confidence",
    ): "How sure the end model is of its label, which may be more or less than it is right "
    "(`siftline questions calibration`); 1 where people gave the label, and where they disagree what `gold_labels` "
    "has. In a multi-label project of the least sure yes or no of its classes, so all of them are right less often.",
}
"""Columns of views that share their name with one of a table they read, and mean something else."""

PAGE = Path("docs") / "data-dictionary.md"


def page() -> str:
    """The page as Markdown."""
    parts = [
        "# Data dictionary",
        f"Tables and views of schema {SCHEMA_VERSION}, made from `tables.py` and `views.py` in `warehouse/schema` by\n"
        "`python -m warehouse.schema.dictionary`. The words on tables' columns stand in the warehouse too,\n"
        "`select table_name, column_name, comment from duckdb_columns() where comment is not null`, and so does what\n"
        "a view is, `select view_name, comment from duckdb_views() where comment is not null`. How to ask:\n"
        "[querying.md](querying.md); questions that are answered already: `siftline questions`.",
        "An empty text is `''` and an empty list `[]`. What is not known, or does not apply, is NULL unless a column\n"
        "says otherwise. SQL counts lists from 1: the probability of a class is `probs[class_id + 1]`.",
        "## Views, for people",
        *_views(),
        "## Tables",
        "Every table ends with the two columns of its commit: "
        + " ".join(f"`{c.name}` ({c.type}): {c.comment}" for c in TABLES[0].all_columns[len(TABLES[0].columns) :]),
        *(part for table in TABLES for part in _table(table)),
    ]
    return "\n\n".join(parts) + "\n"


def _table(table: Table) -> list[str]:
    key = f" Key: {', '.join(f'`{k}`' for k in table.key)}." if table.key else " Rows are only added."
    rows = [f"| `{c.name}` | {c.type} | {_cell(c.comment)} |" for c in table.columns]
    return [
        f"### {table.name}",
        table.comment + key,
        "\n".join(["| column | type | meaning |", "|---|---|---|", *rows]),
    ]


def _views() -> list[str]:
    """Name, meaning and columns of every view, as DuckDB itself resolves them on empty tables."""
    connection = open_duckdb()
    try:
        for table in TABLES:
            columns = ", ".join(f'"{c.name}" {c.type}' for c in table.all_columns)
            connection.execute(f'CREATE TABLE "{table.name}" ({columns})')
        parts: list[str] = []
        for view in VIEWS:
            connection.execute(f"CREATE VIEW {view.name} AS {view.sql}")
            columns = connection.execute(f"SELECT column_name, column_type FROM (DESCRIBE {view.name})").fetchall()
            rows = [f"| `{name}` | {kind} | {_cell(_meaning(name, view))} |" for name, kind in columns]
            head = ["| column | type | meaning |", "|---|---|---|"]
            parts += [f"### {view.name}", view.comment, "\n".join([*head, *rows])]
        return parts
    finally:
        connection.close()


def _meaning(column: str, view: View) -> str:
    """Words for a column of a view: its own, else those of a table that it reads, else ours, else those of any table.

    Raises:
        KeyError: neither a table nor this file explains it.
    """
    if words := _IN_VIEW.get((view.name, column)):
        return words
    read = [table for table in TABLES if re.search(rf"\b(FROM|JOIN)\s+{table.name}\b", view.sql)]
    own = {c.name: c.comment for table in reversed(read) for c in table.all_columns}
    anywhere = {c.name: c.comment for table in reversed(TABLES) for c in table.all_columns}
    for words in (own, _COMPUTED):
        if column in words:
            return words[column]
    return anywhere[column]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
