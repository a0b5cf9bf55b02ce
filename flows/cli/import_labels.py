"""`siftline import`: labels that people gave elsewhere come into the warehouse, after the records they are about."""

from pathlib import Path

from flows.cli.console import out
from flows.cli.look import project_hint


def import_file(root: Path, file: Path, annotator: str) -> None:
    """Store the labels of a file and print how many are new and what was left out."""
    from active.import_labels import HELD_OUT, NO_ITEM, UNLABELLED, import_labels
    from features.ingest import ingest
    from flows.project import Project

    project = Project(root)
    with project.only_run():
        ingest(project.lake, project.ingest_config)  # so that it can be the first thing after `siftline init`
        result = import_labels(project.lake, file, project.queue_config, annotator=annotator)
    new = result.rows_written.get("annotations", 0)
    out.print(f"{new:,} new or changed labels from {file}")
    why = {
        NO_ITEM: "; import the file again once their records are there",
        HELD_OUT: ", from which nobody learns; as `gold` under [evaluate] the file scores with them",
        UNLABELLED: "",
    }
    for what, reason in why.items():
        if count := result.detail.get(what):
            out.print(f"Left out, {what}: {count:,}{reason}")
    if new:
        out.print("To learn from them: siftline run" + project_hint(project.root))
