"""`siftline lf`: try labeling functions before they vote, look at those that do, and get suggestions for more."""

import shlex
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from functools import partial
from pathlib import Path

from features.embedding.stage import encode_texts
from features.ingest.stage import ingest
from flows.cli.status import project_hint, shown_path, simulated_mark
from flows.cli.terminal.console import excerpt, out, print_table, safe, say
from flows.project.project import Project
from flows.report.text import counted, listed
from warehouse import Lake, SettingsError, WarehouseNotFound
from warehouse.queries.open import check_condition
from warehouse.queries.reader import Reader
from warehouse.queries.sandbox import connect_locked_down
from warehouse.text import percent
from weak_labels.analysis.lf_report import FunctionFigures, Report, lf_report
from weak_labels.analysis.preview import preview
from weak_labels.analysis.suggest import SuggestConfig, suggest, write
from weak_labels.applying.stage import VoteConfig
from weak_labels.functions.loader import load_functions


def preview_functions(root: Path, file: Path | None, items: int | None, *, ask: bool) -> int:
    """Print what every function of a file hits on some items (None: on all).

    Returns:
        0, or 2 where a function has more faults than a run accepts.

    Raises:
        SettingsError: the file does not exist; or what `load_functions` raises.
    """
    if file is not None and not file.is_file():
        raise SettingsError(f"There is no file {file.absolute()}. Name a file of labeling functions, or leave it out.")
    project = Project(root)
    functions = load_functions(file, project.classes) if file else project.functions
    asking = [function.name for function in functions if function.kind == "prompt"]
    if asking and not ask:
        say(f"Left out, because each answer is paid for: {', '.join(asking)}. Add --ask to try them too.")
        functions = [function for function in functions if function.kind != "prompt"]
    # Starting the encoder takes longer than all the rest.
    needs_encoder = any(function.uses_vectors for function in functions)
    config = project.vote_config if needs_encoder else VoteConfig(classes=project.classes, encoder_id="")
    client = project.prompt_client if ask else None
    with _lake_with_items(project) as lake:
        with redirect_stdout(sys.stderr):  # what functions print must not mix with the table
            previews = preview(
                lake,
                functions,
                config,
                items=items,
                encode=partial(encode_texts, project.encoder) if needs_encoder else None,
                ask=client.ask if client is not None else None,
            )
        empty = "" if any(p.items for p in previews) else _why_no_items(lake)
        missed = [safe(p.name) for p in previews if p.items and not p.hits]
        may_be_old = bool(missed) and _ran(lake)
    rows = [
        (
            p.name,
            p.items,
            p.hits,
            p.coverage,
            ", ".join(p.polarity),
            p.faults,
            p.first_fault or " | ".join(excerpt(e.text, 60) for e in p.examples),
        )
        for p in previews
    ]
    called = "all items" if items is None else counted(max((p.items for p in previews), default=0), "item")
    title = f"{called} of the train split"
    print_table(["function", "items", "hits", "coverage", "votes for", "faults", "examples"], rows, title=title)
    if client is not None and asking and (asked := client.account()):
        say(asked)
    if empty:
        say(empty + project_hint(root))
    elif any(f.uses_vectors and not p.items for f, p in zip(functions, previews, strict=True)):
        say("Functions with 0 items look at vectors, and these items have none yet: siftline run" + project_hint(root))
    if may_be_old:
        say(
            f"No hit by {listed(missed, 'and')}. Records and columns of metadata that came since the last run are seen "
            f"after the next: siftline run{project_hint(root)}"
        )
    accepted = project.settings.weak_labels.max_fault_frac
    failing = [f"{safe(p.name)} ({p.faults:,} of {p.items:,})" for p in previews if p.faults > accepted * p.items]
    if failing:
        say(
            f"Mend what fails on more than {percent(accepted)} of the items: {', '.join(failing)}. A run switches such "
            "functions off (max_fault_frac)."
        )
    return 2 if failing else 0


def _ran(lake: Lake) -> bool:
    """Whether its items are those of a run, and not read for this preview."""
    with lake.read() as reader:
        return bool(reader.scalar("SELECT EXISTS (FROM runs WHERE stage <> 'ingest')"))


def _why_no_items(lake: Lake) -> str:
    """What became of the records where no function was tried on any; empty where there are items to try them on."""
    with lake.read() as reader:
        train, others = reader.rows("SELECT count(*) FILTER (split = 'train'), count(*) FROM items")[0]
        refused, example = reader.rows("SELECT count(*), arg_min(detail, position) FROM quarantine")[0]
    if train:
        return ""
    why = f"; refused: {refused:,}, the first: {example}" if refused else ""
    return (
        f"No record is in the train split, {others:,} in others{why}. Mend the file or [[sources]] in siftline.toml, "
        "then: siftline lf preview"
    )


@contextmanager
def _lake_with_items(project: Project) -> Generator[Lake]:
    """The project's warehouse; as long as it has no item, a passing one with those of the sources."""
    with ExitStack() as stack:
        lake = None
        with suppress(WarehouseNotFound):
            lake = stack.enter_context(project.read_lake())
        if lake is None or not _has_items(lake):
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            lake = stack.enter_context(Lake(Path(folder) / "lake"))
            ingest(lake, project.ingest_config)
        yield lake


def _has_items(lake: Lake) -> bool:
    with lake.read() as reader:
        return bool(reader.scalar("SELECT EXISTS (FROM items)"))


def _locked_down(lake: Lake, where: str) -> Reader:
    """A condition that somebody typed sees the warehouse and nothing else of this machine."""
    connection = connect_locked_down(lake.location)
    check_condition(connection, where)
    return Reader(connection)


def report_functions(root: Path, where: str | None, examples: int) -> None:
    """Print the figures of every function on the train split or a slice of it."""
    project = Project(root)
    with ExitStack() as stack:
        lake = stack.enter_context(project.read_lake())
        reader = stack.enter_context(lake.read() if where is None else _locked_down(lake, where))
        found = lf_report(reader, where=where, examples=examples)
        mark = simulated_mark(reader)
    if where is not None and not found.items:
        say(
            f"No item of the train split is one where {safe(where)}. Functions are looked at on the train split, since "
            "people label that one only; on all of it: siftline lf report" + project_hint(root)
        )
        return
    _print_figures(found, "labeling functions" + ("" if where is None else f" where {where}") + mark)
    if not found.functions:
        path = shown_path(project.root / project.settings.weak_labels.functions)
        out.print(f"No function has voted yet. Write some in {path}, then: siftline run" + project_hint(root))
        return
    if found.pairs:
        columns = ["function", "says the same as", "both vote on", "agree", "overlap"]
        pairs = [(p.left, p.right, p.items, p.agreement, p.overlap) for p in found.pairs]
        print_table(columns, pairs, title="pairs that say the same")
    if found.disagreements:
        rows = [
            (
                d.against,
                d.item_id,
                ", ".join(f"{name}: {label}" for name, label in d.votes.items()),
                d.predicted or "-",
                d.gold or "-",
                excerpt(d.text, 80),
            )
            for d in found.disagreements
        ]
        columns = ["disagree with", "item", "votes", "model", "people", "text"]
        print_table(columns, rows, title="items where functions disagree")


def _print_figures(found: Report, title: str) -> None:
    def interval(f: FunctionFigures) -> str:
        return "-" if f.accuracy_low is None else f"{f.accuracy_low:.2f}-{f.accuracy_high:.2f}"

    rows: Sequence[Sequence[object]] = [
        (
            f.name,
            ", ".join(f.polarity),
            f.applied_to,
            f.coverage,
            f.overlap,
            f.conflict,
            f.alone,
            f.gold_votes,
            f.accuracy,
            interval(f),
            f.estimated_accuracy,
            f.gain,
            f.faults,
        )
        for f in found.functions
    ]
    columns = ["function", "votes for", "items", "coverage", "overlap", "conflict", "alone"]
    columns += ["gold", "accuracy", "95% interval", "estimate", "gain", "faults"]
    well = not any(f.faults for f in found.functions)
    if well and out.is_terminal:  # a narrow one would show a part of this column alone
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    print_table(columns, rows, title=title)
    if any(f.conflict is None for f in found.functions):
        out.print("no conflict and no gain: where an item may have several classes, no vote contradicts another")
    for f in found.functions:
        if f.switched_off:
            out.print(f"{safe(f.name)} is switched off, its votes do not count: {safe(f.why_off)}")
    out.print(
        f"{counted(found.items, 'item')}, {percent(found.covered)} with a vote, {found.gold:,} labelled by people"
        + ("; no faults" if well else "")
    )
    if found.selected:
        out.print(
            f"{found.selected:,} of the labelled items were selected, mostly as hard ones. On all items functions are "
            "mostly right more often, so a low accuracy or gain alone is no reason to remove one."
        )
    if found.label_model:
        out.print(f"label model of the estimates: {safe(found.label_model)}")


def suggest_functions(root: Path, output: Path | None, *, force: bool) -> None:
    """Write candidate functions to a file and print their figures."""
    project = Project(root)
    path = output or project.root / "suggested_functions.py"
    with project.read_lake() as lake, lake.read() as reader:
        suggestions = suggest(reader, SuggestConfig(encoder_id=project.encoder.encoder_id))
    write(suggestions, path, replace=force)
    rows = [(s.name, s.label, s.precision, s.hits, s.coverage, s.code) for s in suggestions.found]
    if not suggestions.found:
        say(f"{path} holds no function. {suggestions.missing}{project_hint(root)}")
        return
    print_table(["candidate", "votes for", "precision", "gold", "coverage", "function"], rows, title=str(path))
    found = len(suggestions.found)
    some, them = ("candidate", "it") if found == 1 else ("candidates", "them")
    try_them = f"siftline lf preview {shlex.quote(str(path))}{project_hint(root)}"
    say(f"{found} {some} from {counted(suggestions.gold, 'label')}. Edit {them}, then: {try_them}")
