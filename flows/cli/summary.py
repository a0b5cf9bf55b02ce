"""What `siftline run` prints at its end: the figures, what the run did, and where the project stands."""

from collections.abc import Iterator
from typing import Any

from active.pool.pool import UNTAUGHT
from active.quality.label_errors import FOLDS
from active.selection.exploration import score_fair_sample
from active.selection.stage import NOTHING_LEFT
from active.task_folder.service import TaskFolder
from flows.cli.status import (
    WHOLE_SETS,
    print_left_files,
    print_refusals,
    project_hint,
    shown_path,
    simulated_mark,
    skipped_tasks,
    switched_off,
    tasks_wait,
    then_run,
    unlearned_answers,
    waiting_tasks,
    why_nobody_is_asked,
)
from flows.cli.terminal.console import out, print_table
from flows.pipelines.stages import UNKNOWN, RunSummary
from flows.project.project import Project
from flows.report.current_models import belief_in_weak_labels, scored_before, unread_share
from flows.report.narrative import SCORED_BEFORE, aside_sentence, fair_sentence, fair_soon, unread_sentence
from flows.report.rare_classes import finds_few, hidden_sentence, hides, latest_confusion
from flows.report.text import counted, duration, listed
from warehouse import Reader
from warehouse.schema.lf_counts import TRAIN
from warehouse.text import percent, three_decimals
from weak_labels.analysis.lf_report import wilson

TELLING = 3.0
"""Times its class's share that a function is right, from which it says much however often it is wrong."""
_SERIES = ["labels", "siftline", "random pick", "+-", "same labels, no weak labels", "random, no weak labels", "+-"]


def print_summary(project: Project, summary: RunSummary, *, seconds: float) -> None:
    """Print what a run did and where the project stands."""
    with project.lake.read() as reader:
        _print_scores(reader, project)
        out.print(_what_was_done(reader, summary, seconds))
        for line in (*_about_learning(reader, project, summary), *_about_labels(reader, project, summary)):
            out.print(line)
        waiting = waiting_tasks(reader)
    if collected := summary.last("collect"):
        print_refusals(collected)
    print_left_files(project)
    if waiting:
        _print_waiting(project, summary, waiting)


def _print_scores(reader: Reader, project: Project) -> None:
    """The scores by number of labels; where nothing is scored, how often the model was right on a fair sample."""
    split = project.settings.evaluate.split
    confusion, hidden = latest_confusion(reader, split), hidden_sentence(reader, split)
    scores = {
        WHOLE_SETS if project.multi_label else "accuracy": _scores(reader, "accuracy", split),
        "micro F1": _scores(reader, "micro_f1", split),  # of sets only
    }
    if hides(confusion) or (project.multi_label and hidden):
        scores["macro F1"] = _scores(reader, "macro_f1", split)
    if not any(rows for rows, _ in scores.values()):
        fair = score_fair_sample(reader, project.settings.select.seed)
        if said := fair_sentence(fair) or fair_soon(fair):
            out.print(said)
        return
    for name, (rows, all_gold) in scores.items():
        if rows:
            print_table(_SERIES, rows, title=f"{name} on {split}{simulated_mark(reader)}")
        for count, value in all_gold:
            out.print(f"all {count:,} gold labels: {three_decimals(value)}")
    if hidden:
        out.print(hidden)
    if finds_few(confusion) and not project.settings.end_model.balanced:
        out.print("To find more of them at the price of more false alarms: balanced = true under [end_model]")
    if scored_before(reader, split):
        out.print(SCORED_BEFORE)


def _what_was_done(reader: Reader, summary: RunSummary, seconds: float) -> str:
    spent_s, timed, answers = reader.rows(
        "SELECT coalesce(sum(seconds), 0), count(*) FILTER (WHERE seconds > 0), count(*) FROM current_annotations "
        "WHERE action <> 'deleted'"
    )[0]
    labels = reader.scalar("SELECT count(*) FROM gold_labels")
    return (
        f"{counted(summary.passes, 'pass', 'passes')} in {seconds:.1f} s, {counted(summary.rows_written, 'row')} "
        f"written; {counted(labels, 'gold label')}{_annotation(spent_s, timed, answers)}{simulated_mark(reader)}"
    )


def _about_learning(reader: Reader, project: Project, summary: RunSummary) -> Iterator[str]:
    """What keeps functions and models from saying more."""
    hint = project_hint(project.root)
    path = shown_path(project.root / project.settings.weak_labels.functions)
    if reader.scalar("SELECT EXISTS (FROM lf_reach WHERE items > 0) AND NOT EXISTS (FROM lf_votes)"):
        yield f"No labeling function votes on any item. Edit {path}, then: siftline lf preview{hint}"
    told = summary.last("vote")
    if (off := switched_off(reader)) and not (told and told.committed):  # a run that switches one off says so itself
        yield off + hint
    if untaught := _untaught(reader):
        yield (
            f"Neither a vote nor a label says {untaught}, so the end model does not learn it. Edit {path}, then: "
            f"siftline lf preview{hint}"
        )
    if late := _older_than_their_classes(reader):
        yield late
    if unread := unread_sentence(unread_share(reader)):
        yield unread.replace("`", "")
    if aside := aside_sentence(belief_in_weak_labels(reader)):
        yield aside.replace("`", "")
    if contradicted := _contradicted(reader):
        yield f"People contradict most votes of {contradicted}. Look at them: siftline lf report{hint}"
    alike = reader.scalar(
        "SELECT CASE WHEN count(DISTINCT label) = 1 AND NOT EXISTS (FROM latest_predictions) "
        "THEN any_value(label) END FROM gold_labels"
    )
    if alike:
        yield (
            f"So far all labels are '{alike}'. The end model learns once one is another, and says nothing before. "
            f"Where you know items of another class: siftline import labels.csv{hint}"
        )


def _about_labels(reader: Reader, project: Project, summary: RunSummary) -> Iterator[str]:
    """Which labels and answers go unused, and why nobody is asked for more."""
    if unused := int(summary.last_detail("end_model").get("gold_labels_left_out", 0)):
        verb = "is of an item" if unused == 1 else "are of items"
        yield f"{unused:,} of the gold labels {verb} outside the train split, and no model learns from that"
    if why := summary.last_detail("evaluate").get("unscored"):
        yield f"Nothing is scored: {why}"
    if unlearned := unlearned_answers(reader):
        yield unlearned + project_hint(project.root)
    if skipped := skipped_tasks(reader):
        yield skipped
    if project.prompt_client is not None and (asked := project.prompt_client.account()):
        yield asked
    if done := why_nobody_is_asked(reader, project.settings):
        yield done
    elif summary.last_detail("select").get("reason") == NOTHING_LEFT:
        yield (
            "No item of the train split is left that is neither labelled, in the queue nor a near-duplicate of one "
            "that is"
        )


def _print_waiting(project: Project, summary: RunSummary, waiting: int) -> None:
    out.print(f"{tasks_wait(waiting)} in {project.service.describe()}")
    if unknown := summary.last_detail("annotate").get(UNKNOWN):
        gold = shown_path(project.root / (project.settings.annotate.gold or ""))
        out.print(f"The simulated annotator cannot answer {unknown:,} of them: {gold} has no label for these items")
    if isinstance(project.service, TaskFolder):
        out.print("To answer them here: siftline answer" + project_hint(project.root))
    out.print(then_run(project.root))


def _scores(reader: Reader, name: str, split: str) -> tuple[list[tuple[Any, ...]], list[tuple[int, float]]]:
    """A metric by number of labels, in the columns `_SERIES`, and with all labels there are."""
    rows = reader.rows(
        """
        SELECT m.labels, max(m.value) FILTER (WHERE series = 'siftline'),
               avg(m.value) FILTER (WHERE series = 'random'), stddev_samp(m.value) FILTER (WHERE series = 'random'),
               max(m.value) FILTER (WHERE series = 'gold_only'),
               avg(m.value) FILTER (WHERE series = 'random_gold_only'),
               stddev_samp(m.value) FILTER (WHERE series = 'random_gold_only')
        FROM metrics m WHERE m.name = ? AND m.split = ? AND series NOT IN ('all_gold', 'end_model')
        GROUP BY m.labels ORDER BY m.labels
        """,
        [name, split],
    )
    rows = [row for row in rows if any(value is not None for value in row[1:])]  # only votes were scored
    all_gold = reader.rows(
        "SELECT labels, value FROM metrics WHERE name = ? AND split = ? AND series = 'all_gold'", [name, split]
    )
    return rows, all_gold


def _contradicted(reader: Reader) -> str:
    """The labeling functions that, where people answered, are wrong more often than right beyond chance.

    People answer what was selected as hard, where a good function may be mostly wrong: on the demo one that is right on
    77% of its votes is on 2 of 13. So what the end model says of all its votes stands beside it. One for a rare class
    that is right many times as often as the class is there says much, though it is mostly wrong, and is not named.
    Votes are those of the train split, as in the report of functions that the line leads to.
    """
    rows = reader.rows(
        f"""
        SELECT v.lf_name, count(*), count(*) FILTER (WHERE NOT list_contains(g.class_ids, v.vote)) AS wrong,
               coalesce(avg(s.share), 1)
        FROM lf_votes v JOIN gold_labels g USING (item_id) JOIN ({TRAIN}) t USING (item_id)
        LEFT JOIN (
            SELECT c.class_id, avg(p.probs[c.class_id + 1]) AS share
            FROM latest_predictions p, classes c GROUP BY c.class_id
        ) s ON s.class_id = v.vote
        GROUP BY v.lf_name ORDER BY wrong DESC, v.lf_name
        """
    )
    found = {
        name: f"{wrong} of {votes}"
        for name, votes, wrong, share in rows
        if wilson(wrong, votes)[0] > 0.5 and votes - wrong < TELLING * share * votes
    }
    if found:
        doubted = reader.rows(
            "SELECT v.lf_name, avg((NOT list_contains(p.class_ids, v.vote))::INTEGER) FROM lf_votes v "
            f"JOIN latest_predictions p USING (item_id) JOIN ({TRAIN}) t USING (item_id) "
            "WHERE v.lf_name IN (SELECT unnest(?)) GROUP BY v.lf_name",
            [list(found)],
        )
        found |= {name: f"{found[name]}; the end model contradicts {percent(share)} of all" for name, share in doubted}
    parts = [f"'{name}' ({said})" for name, said in found.items()]
    return listed(parts, "and", more=("other function", "other functions"))


def _untaught(reader: Reader) -> str:
    """The classes that neither votes nor labels name, where votes tell others apart: of several classes one may."""
    rows = reader.rows(
        f"SELECT name FROM classes WHERE class_id IN ({UNTAUGHT}) AND (SELECT count(DISTINCT vote) FROM lf_votes) > "
        "(SELECT if(bool_or(multi_label), 0, 1) FROM classes) ORDER BY class_id"
    )
    return listed([f"'{name}'" for (name,) in rows], "or")


def _older_than_their_classes(reader: Reader) -> str:
    """The labels from before a class was added, as long as too few have it to tell which of them are of it."""
    rows = reader.rows(
        """
        SELECT c.name, coalesce(c.multi_label, false),
               count(*) FILTER (WHERE g.updated_at < c.committed_at AND NOT has) AS before
        FROM classes c CROSS JOIN gold_labels g, (SELECT list_contains(g.class_ids, c.class_id) AS has)
        WHERE c.committed_at > (SELECT min(committed_at) FROM classes)
        GROUP BY c.class_id, c.name, c.multi_label
        HAVING before > 0 AND count(*) FILTER (WHERE has) < ?
        ORDER BY c.class_id
        """,
        [FOLDS],
    )
    if not rows:
        return ""
    names = listed([f"'{name}'" for name, _, _ in rows], "or")
    several, count = rows[0][1], max(before for _, _, before in rows)
    what = f"count{'s' if count == 1 else ''} as a no to it" if several else "may be of it"
    return (
        f"{counted(count, 'label')} from before {names} was a class {what}. Once {FOLDS} records have it, siftline "
        "suspects lists those to look at again. More on that: siftline docs label-studio 'Other classes'"
    )


def _annotation(spent_s: float, timed: int, answers: int) -> str:
    """The time that answers took; empty where none tells it."""
    if not spent_s:
        return ""
    whose = "" if timed == answers else f" (told by {timed:,} of {answers:,} answers)"
    return f" in {duration(spent_s)} of annotation{whose}"
