"""Commands that show the state of a project: status, queue, report, and the two that talk to the annotation service.

What several commands say of a project alike is here too.
"""

import json
import os
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from flows.cli.terminal.console import excerpt, out, print_table, safe, say
from flows.project.recovery import in_words
from flows.report.current_models import scored_without
from flows.report.rare_classes import hidden_sentence
from flows.report.text import FEW_ROWS, counted, listed
from flows.settings.settings import Settings
from flows.settings.settings_file import load_settings
from warehouse import Lake, Reader, StageResult
from warehouse.catalog.snapshots import AHEAD
from warehouse.export.formats import write_csv, write_json
from warehouse.schema.answer_views import NO_CLASS, labels_in_words
from warehouse.schema.tables import rows_in_words

if TYPE_CHECKING:
    from active.quality.label_errors import Suspect
    from flows.project.project import Project

WHOLE_SETS = "items with all classes right"
"""What accuracy is where an item may have several classes."""


def simulated_mark(reader: Reader) -> str:
    """Says beside a figure how many of the labels behind it were simulated; empty when people gave them all."""
    simulated, labels = reader.rows("SELECT count(*) FILTER (WHERE simulated), count(*) FROM gold_labels")[0]
    if not simulated:
        return ""
    return " (simulated annotator)" if simulated == labels else f" ({simulated:,} of {labels:,} labels simulated)"


def show_status(root: Path) -> None:
    """Print items, queue, learning steps and the last run of every stage."""
    settings = load_settings(root)
    place = settings.warehouse.below(root)
    with Lake(place, read_only=True) as lake, lake.read() as reader:
        mark = simulated_mark(reader)
        out.print(f"{settings.project.title or settings.project.name}: {place.words}")
        splits = reader.rows("SELECT split, count(*) FROM items GROUP BY split ORDER BY split")
        print_table(["split", "items"], [*splits, *_quarantined(reader)], title="items")
        _print_queue(reader, mark)
        models = reader.rows(
            "SELECT cycle + 1, gold_labels, trained_on, test_accuracy, split FROM cycle_summary ORDER BY cycle"
        )
        few = f", the last {FEW_ROWS} of {len(models):,}" if len(models) > FEW_ROWS else ""
        accuracy = WHOLE_SETS if settings.project.multi_label else "accuracy"
        columns = ["model", "gold labels", "trained on", accuracy, "on"]
        print_table(columns, models[-FEW_ROWS:], title=f"end models{few}{mark}")
        if without := scored_without(reader):
            out.print(without)
        if hidden := hidden_sentence(reader, settings.evaluate.split):
            out.print(hidden)
        stages = reader.rows(
            """
            SELECT stage, strftime(committed_at, '%Y-%m-%d %H:%M:%S'), seconds, rows_written FROM runs
            QUALIFY row_number() OVER (PARTITION BY stage ORDER BY committed_at DESC) = 1
            ORDER BY committed_at
            """
        )
        print_table(
            ["stage", "last commit (UTC)", "seconds", "rows"],
            [(*row[:3], rows_in_words(json.loads(row[3]))) for row in stages],
            title="stages",
        )
        if ahead := commits_ahead(reader):
            out.print(ahead)
        if off := switched_off(reader):
            out.print(f"{off}{project_hint(root)}")
        waiting = waiting_tasks(reader)
        for sentence in in_words(root.absolute() / ".siftline"):
            out.print(sentence)
        if unlearned := unlearned_answers(reader):
            out.print(f"{unlearned}{project_hint(root)}")
        if skipped := skipped_tasks(reader):
            out.print(skipped)
        if ended := why_nobody_is_asked(reader, settings):
            out.print(ended)
        if waiting:
            out.print(f"{tasks_wait(waiting)}.")
            if hint := _answer_here(root, settings):
                out.print(_answered_there(reader, root, settings) + hint)
            out.print(then_run(root))


def _print_queue(reader: Reader, mark: str) -> None:
    """The cycles, of which older ones without an open task are one row."""
    rows = reader.rows(
        "SELECT cycle, tasks, planned, sent, waiting, answered FROM queue_progress ORDER BY cycle, project"
    )
    done = [row for row in rows[:-FEW_ROWS] if row[1] == row[-1]]
    if done:
        earlier = (f"{len(done):,} earlier", *(sum(column) for column in list(zip(*done, strict=True))[1:]))
        rows = [earlier, *(row for row in rows if row not in done)]
    print_table(["cycle", "tasks", "planned", "sent", "waiting", "answered"], rows, title="queue" + mark)


def _quarantined(reader: Reader) -> list[tuple[str, int]]:
    """Records that the last read could not take, and beside them all of any read where these are others.

    The quarantine keeps what stood in files and sources that are no longer there.
    """
    ever = int(reader.scalar("SELECT count(*) FROM quarantine"))
    last = reader.scalar(
        "SELECT (detail->>'$.quarantined')::INTEGER FROM runs WHERE stage = 'ingest' ORDER BY committed_at DESC LIMIT 1"
    )
    now = ever if last is None else int(last)
    return [("quarantined", now), *([("quarantined by all reads", ever)] if ever != now else [])]


def print_refusals(collected: StageResult) -> None:
    """Say which answers were not taken, and why."""
    from active.queue.collect import refusals

    for line in refusals(collected):
        say(f"  {safe(line)}")


def print_left_files(project: "Project") -> None:
    """Say that a folder of tasks is left from before the project moved to Label Studio."""
    if project.service is not project.folder:
        files = len(list(project.folder.path.glob("*.json")))
        if files:
            say(
                f"  {project.folder.path} still has {files:,} task files from before this project moved. People answer "
                f"in {project.service.describe()}; answers in files are not read any more. Remove the folder."
            )


def skipped_tasks(reader: Reader) -> str:
    """How many of the answered tasks have no label, because people skipped them; empty for none."""
    tasks = reader.scalar(
        """
        SELECT count(*) FROM queue q SEMI JOIN current_annotations a
        ON a.item_id = q.item_id AND a.project = q.project AND a.action = 'skipped'
        WHERE q.state = 'answered' AND q.item_id NOT IN (SELECT item_id FROM opinions)
        """
    )
    return (
        f"{counted(tasks, 'task was', 'tasks were')} skipped and {'has' if tasks == 1 else 'have'} no label"
        if tasks
        else ""
    )


def commits_ahead(reader: Reader) -> str:
    """That the last commit has a time which the clock here has not reached, and what that means; empty where it has."""
    last = reader.scalar("SELECT max(committed_at) FROM runs")
    if last is None or last <= datetime.now(UTC) + AHEAD:
        return ""
    return (
        f"The last commit has the time {last.astimezone(UTC):%Y-%m-%d %H:%M} UTC, which this machine's clock has not "
        "reached. If a clock was ahead then and is right by now, nothing is lost: until that time commits follow each "
        "other by a microsecond. When each was made: siftline snapshots"
    )


def switched_off(reader: Reader) -> str:
    """Which labeling functions are switched off, up to the option of a project; empty where none is."""
    rows = reader.rows("SELECT DISTINCT lf_name FROM lf_faults WHERE fault = 'switched_off' ORDER BY lf_name")
    off = listed([f"'{name}'" for (name,) in rows], "and", more=("other function", "other functions"))
    return f"Switched off, so that its votes do not count: {off}. To see why: siftline lf report" if off else ""


def unlearned_answers(reader: Reader) -> str:
    """That answers are in the warehouse which the models do not know yet, up to the option of a project; or nothing."""
    answers = reader.scalar(
        """
        SELECT count(*) FROM current_annotations WHERE action = 'labelled' AND committed_at > coalesce(
            (SELECT max(committed_at) FROM runs WHERE stage IN ('end_model', 'value')), '-infinity'::TIMESTAMPTZ)
        """
    )
    came = counted(answers, "answer has", "answers have")
    return f"{came} come since the models last learned. To learn from them: siftline run" if answers else ""


def why_nobody_is_asked(reader: Reader, settings: Settings) -> str:
    """That no task waits and no run brings one, why, and how to go on; empty where people are asked or a run would ask.

    Near-duplicates of what is labelled or queued are not seen here: only the selection knows them.
    """
    tasks, waiting = reader.rows(
        "SELECT count(*), count(*) FILTER (WHERE state <> 'answered') FROM queue WHERE project = ?",
        [settings.project.name],
    )[0]
    budget = settings.select.budget
    if waiting or not tasks:
        return ""
    if tasks >= max(budget, 1):
        spent = f"The budget of {counted(budget, 'label')} is spent"
        return f"{spent}. To ask for more, raise budget under [select] in siftline.toml"
    left = reader.scalar(
        "SELECT EXISTS (FROM items i ANTI JOIN queue q ON q.item_id = i.item_id "
        "ANTI JOIN gold_labels g ON g.item_id = i.item_id WHERE i.split = 'train')"
    )
    return "" if left else "Every item of the train split was asked about or has a label. New records bring new tasks"


def waiting_tasks(reader: Reader) -> int:
    """How many tasks have no answer yet, sent or not."""
    return int(reader.scalar("SELECT count(*) FROM queue WHERE state <> 'answered'"))


def tasks_wait(tasks: int) -> str:
    """That so many tasks have no answer."""
    return counted(tasks, "task waits", "tasks wait") + " for annotators"


def then_run(root: Path) -> str:
    """What to do once they have been answered."""
    return f"When they have answered: siftline run{project_hint(root)}"


def project_hint(root: Path) -> str:
    """The option that names the project behind a command; empty in its own folder."""
    return "" if root.absolute() == Path.cwd() else f" --project {shlex.quote(shown_path(root.absolute()))}"


def shown_path(path: Path) -> str:
    """A path as people would type it here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def make_report(root: Path, output: Path | None) -> None:
    """Write the HTML report and print where it is."""
    from flows.report.page import write_report

    settings = load_settings(root)
    target = output or root / "report.html"
    title = settings.project.title or settings.project.name
    with Lake(settings.warehouse.below(root), read_only=True) as lake:
        say("Writing the report (its map of the items takes up to a minute)")
        written = write_report(lake, target, title=title, classes=settings.project.classes, seed=settings.select.seed)
    out.print(f"report: {shown_path(written.absolute())}")


def show_queue(root: Path, limit: int) -> None:
    """Print the states of the queue and the next tasks with their reasons."""
    settings = load_settings(root)
    with Lake(settings.warehouse.below(root), read_only=True) as lake, lake.read() as reader:
        _print_queue(reader, simulated_mark(reader))
        if skipped := skipped_tasks(reader):
            out.print(skipped)
        if ended := why_nobody_is_asked(reader, settings):
            out.print(ended)
        rows = reader.rows(
            f"""
            SELECT q.rank, nullif(q.value, 0), CASE q.state WHEN 'confirmed' THEN 'waiting' ELSE q.state END,
                   CASE WHEN q.predictions IS NULL THEN k.names[q.prediction + 1]
                        ELSE {labels_in_words("list_transform(q.predictions, lambda c: k.names[c + 1])")} END,
                   i.content, q.reason
            FROM queue q JOIN items i USING (item_id)
            CROSS JOIN (SELECT list(name ORDER BY class_id) AS names FROM classes) k
            WHERE q.state IN ('planned', 'sent', 'confirmed') ORDER BY q.value DESC, q.cycle, q.rank LIMIT ?
            """,
            [limit],
        )
        hint = _answer_here(root, settings) if rows else None
        answered = _answered_there(reader, root, settings) if hint else ""
    shown = [(*row[:4], excerpt(row[4], 60), row[5]) for row in rows]
    if not rows:
        if limit and not ended:
            say(f"No task waits. The next ones come with: siftline run{project_hint(root)}")
        return
    print_table(["rank", "value", "state", "suggested", "text", "reason"], shown, title="next tasks")
    if hint:
        say(answered + hint)


def _answer_here(root: Path, settings: Settings) -> str | None:
    """The command that answers in the terminal, where the tasks are files that this user may open."""
    elsewhere = settings.annotate.service == "label-studio" or os.environ.get("LABEL_STUDIO_URL")
    here = not elsewhere and os.access(root / settings.annotate.folder, os.R_OK | os.W_OK | os.X_OK)
    return f"To answer them here: siftline answer{project_hint(root)}" if here else None


def _answered_there(reader: Reader, root: Path, settings: Settings) -> str:
    """A line that says how many waiting tasks have an answer in the folder, which no run took in; empty for none."""
    from active.task_folder.service import TaskFolder

    if settings.annotate.annotators_per_task > 1:
        return ""  # a task that one of them answered waits for the others
    folder = TaskFolder(
        root / settings.annotate.folder, settings.project.name, multi_label=settings.project.multi_label
    )
    waiting = [item_id for (item_id,) in reader.rows("SELECT item_id FROM queue WHERE state <> 'answered'")]
    latest = {task_ids[-1] for task_ids in folder.find(waiting).values()}
    answered = sum(task.answered and task.task_id in latest for task in folder.stored())
    return f"Answered there already, for the next run to take in: {answered:,}\n" if answered else ""


def show_suspects(root: Path, limit: int, format: str = "table") -> None:
    """Print labels to look at again, the most suspicious first; people mend wrong ones where they gave them.

    Args:
        root: project folder.
        limit: how many.
        format: table, csv or json; the latter two with whole figures and texts.
    """
    from active.quality.label_errors import SUSPICIOUS, suspects
    from flows.project.project import Project

    project = Project(root, create=False)
    index = project.index()
    with project.read_lake() as lake, lake.read() as reader:
        judged = suspects(reader, index)
        texts: dict[str, str] = dict(reader.rows("SELECT item_id, content FROM items JOIN gold_labels USING (item_id)"))
        classes = reader.class_names()
        mark = simulated_mark(reader)
    found = [s for s in judged if s.suspicion > SUSPICIOUS]
    rows = [(s.suspicion, s.item_id, _given(s, classes), _rather(s, classes), texts[s.item_id]) for s in found[:limit]]
    if format == "table" and rows:
        shown = [
            (f"{suspicion:.2f}", item, ", ".join(given) or NO_CLASS, rather, excerpt(text, 70))
            for suspicion, item, given, rather, text in rows
        ]
        columns = ["suspicion", "item", "labelled", "rather", "text"]
        print_table(columns, shown, title="labels to look at again" + mark)
    elif format != "table":
        write = write_csv if format == "csv" else write_json
        several = any(s.in_question is not None for s in found)
        # As `siftline import` reads them, so that the file comes back once its labels are corrected.
        columns = ["suspicion", "item_id", "label", "rather", "text"]
        write(sys.stdout, columns, [(*row[:2], row[2] if several else row[2][0], *row[3:]) for row in rows])
    if not judged:
        say("There is no label of an embedded train item to judge yet. siftline run collects answers and embeds.")
        return
    if not (known := sum(s.suspicion > 0 for s in judged)):
        say(f"None of {len(judged):,} labels can be judged yet: that takes five of a class, and one of another.")
        return
    few = len(judged) - known
    more = f" {few:,} more cannot be judged: too few of their class." if few else ""
    if not rows:
        say(f"Model and neighbours contradict none of {known:,} labels.{more}")
    else:
        most = f"{len(found):,} of {known:,} labels are" if len(found) > 1 else f"1 of {known:,} labels is"
        shown = f"; the first {limit:,} are shown (--limit)" if len(found) > limit else ""
        say(
            f"{most} contradicted{shown}. Most of these are right where the classes are hard to tell; begin at the top."
            f"{more}"
        )


def _given(suspect: "Suspect", classes: Sequence[str]) -> list[str]:
    """The classes that an item is labelled with."""
    return [classes[c] for c in suspect.labels]


def _rather(suspect: "Suspect", classes: Sequence[str]) -> str:
    """How an item would rather be labelled; of several classes it names the one that is in question."""
    if (asked := suspect.in_question) is None:
        return classes[suspect.likely[0]]
    return f"{'with' if asked in suspect.likely else 'without'} '{classes[asked]}'"


def collect_answers(root: Path) -> None:
    """Fetch answers into the warehouse and print how many are new."""
    from flows.project.project import Project

    project = Project(root, create=False)
    with project.only_run():
        result = project.collect()
    new = sum(n for table, n in result.rows_written.items() if table == "annotations")
    out.print(f"{counted(new, 'new or changed answer')} from {project.service.describe()}")
    if new:
        out.print("To learn from them: siftline run" + project_hint(project.root))
    print_refusals(result)
    print_left_files(project)


def reconcile_queue(root: Path) -> None:
    """Mend differences between the queue and the service and print what was done."""
    from active.queue.reconcile import reconcile
    from flows.project.project import Project

    project = Project(root, create=False)
    with project.only_run():
        report = reconcile(project.lake, project.service, project.queue_config)
    for line in report.lines():
        out.print(line)
