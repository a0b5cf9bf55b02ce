"""`siftline import`: labels that people gave elsewhere come into the warehouse, after the records they are about."""

from pathlib import Path

from flows.cli.status import project_hint
from flows.cli.terminal.console import out, say
from flows.report.text import counted

_ASK = (
    "To have them as one, set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY of the server that the file is from, and "
    "import it again."
)


def import_file(root: Path, file: Path, annotator: str, *, withdraw: bool = False) -> None:
    """Store the labels of a file, or take them back, and print how many and what was left out."""
    from active.queue.import_labels import (
        ACCOUNTS,
        HELD_OUT,
        MOVED,
        NO_ITEM,
        NO_TEXT,
        NOT_ASKED,
        NUMBERS,
        UNLABELLED,
        UNNAMED,
        import_labels,
    )
    from features.ingest.stage import ingest
    from flows.project.project import Project

    project = Project(root)
    with project.only_run():
        read = ingest(project.lake, project.ingest_config)  # so that it can be the first thing after `siftline init`
        if refused := read.detail["quarantined"]:
            where = f"siftline questions what-was-not-read{project_hint(project.root)}"
            say(f"Records of the sources that were not read, and get no label: {refused:,}. Which, and why: {where}")
        result = import_labels(
            project.lake,
            file,
            project.queue_config,
            annotator=annotator,
            **project.label_file_columns,
            withdraw=withdraw,
            accounts=project.accounts,
        )
    moved = result.detail.get(MOVED, 0)
    new = result.rows_written.get("annotations", 0) - moved
    out.print(
        f"{counted(new, 'label')} taken back, of those in {file}"
        if withdraw
        else f"{counted(new, 'new or changed label')} from {file}"
    )
    why = {
        NO_ITEM: "; import the file again once their records are there",
        NO_TEXT: "; import the file again once their records are there, or without its texts where its ids are yours",
        HELD_OUT: ", from which nobody learns; a file of their labels can be `gold` under [evaluate]",
        UNLABELLED: "",
        UNNAMED: "",
    }
    for what, reason in why.items():
        if count := result.detail.get(what):
            out.print(f"Left out, {what}: {count:,}{reason}")
    if count := result.detail.get(ACCOUNTS):
        out.print(f"Annotators named by their e-mail in Label Studio: {count:,}")
    if moved:
        out.print(f"Labels that were here by the number of an account, and are theirs now: {moved:,}")
    if numbers := result.detail.get(NUMBERS):
        not_asked = result.detail.get(NOT_ASKED)
        way = f"Label Studio could not be asked who they are: {not_asked}" if not_asked else _ASK
        out.print(
            f"Annotators named by a number, as in the file: {numbers}. Answers collected from Label Studio have their "
            f"e-mail, so who also answers there counts as two people. {way}"
        )
    if new:
        out.print("To learn from them: siftline run" + project_hint(project.root))
