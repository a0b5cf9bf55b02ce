"""Commands over the warehouse's history: `snapshots`, `diff`, `export training-set`."""

import shlex
from pathlib import Path

import pyarrow as pa

from flows.cli.data.sql import BY_SUFFIX, form_by_suffix
from flows.cli.status import project_hint
from flows.cli.terminal.console import out, print_table, say
from flows.report.text import counted
from flows.settings.settings_file import warehouse_of
from warehouse import SettingsError, connect
from warehouse.commits.history import compare, snapshots
from warehouse.export.formats import new_file, write_csv, write_json, write_parquet
from warehouse.export.training_set import Format, export_training_set
from warehouse.numeric import pc


def list_snapshots(root: Path, limit: int) -> None:
    """Print the kept snapshots, the newest first."""
    with connect(warehouse_of(root)) as reader:
        found = snapshots(reader, limit=limit + 1)
    rows = [[s.number, s.time.strftime("%Y-%m-%d %H:%M:%S"), s.author, s.message, sum(s.rows.values())] for s in found]
    print_table(["snapshot", "time (UTC)", "author", "message", "rows"], rows[:limit])
    if len(found) > limit:
        say(f"There are older ones; --limit {10 * limit} shows more.")


def show_diff(root: Path, before: str, after: str | None, limit: int, output: Path | None, *, force: bool) -> None:
    """Print which labels changed between two snapshots and why; `output` takes all of them."""
    form = None if output is None else form_by_suffix(output)
    found = compare(warehouse_of(root), before, after)
    changed = found.changes.num_rows - found.confirmed - found.left_alone
    out.print(
        f"snapshot {found.before} to {found.after}: {counted(changed, 'label')} changed, "
        f"{counted(found.confirmed, 'prediction was', 'predictions were')} confirmed by people"
        + (f", {found.left_alone:,} of people's labels only predicted now" if found.left_alone else "")
    )
    if output is not None:
        with new_file(output, force=force) as file:
            if form == "parquet":
                write_parquet(file, found.changes.to_reader())
            else:
                write = write_csv if form == "csv" else write_json
                with file.open("w", encoding="utf-8", newline="") as target:
                    write(target, found.changes.column_names, zip(*found.changes.to_pydict().values(), strict=True))
        out.print(f"all changes: {output}")
    print_table(["cause", "labels"], found.causes(), title="why")
    if found.classes:
        print_table(["class_id", "name before", "name after"], found.classes, title="classes")
    if found.models:
        print_table(["model", "before", "gold labels", "after", "gold labels"], found.models, title="models")
    if found.functions:
        print_table(["function", "version before", "version after"], found.functions, title="labeling functions")
    columns = ["item_id", "label_before", "label_after", "cause", "reason"]
    rarest = pa.array([cause for cause, _ in reversed(found.causes())], pa.string())
    order = pc.sort_indices(pc.index_in(found.changes.column("cause"), value_set=rarest))
    shown = found.changes.select(columns).take(order.slice(0, limit))
    title = f"labels ({shown.num_rows:,} of {found.changes.num_rows:,}, the rarest causes first)"
    print_table(columns, list(zip(*shown.to_pydict().values(), strict=True)), title=title)


def export_training(
    root: Path, output: Path, format: Format, at: str | None, where: str | None, *, force: bool
) -> None:
    """Write the training set and print what it holds.

    Raises:
        SettingsError: the folder is named like a file; or what `export_training_set` raises.
    """
    if output.suffix.lower() in BY_SUFFIX:
        raise SettingsError(
            f"An export is a folder with a manifest, and {output.name} is named like a file; leave the suffix out. For "
            f'one file: siftline sql --output {shlex.quote(str(output))} "from training_set"{project_hint(root)}'
        )
    manifest = export_training_set(warehouse_of(root), output, format=format, at=at, where=where, force=force)
    counts = manifest["counts"]
    out.print(f"{counted(counts['rows'], 'row')} of snapshot {manifest['snapshot']}: {output}")
    if where is not None and not counts["rows"]:
        say(f'No row of training_set meets --where {where!r}. What there is: siftline sql "summarize training_set"')
    print_table(["label", "rows"], list(counts["by_label"].items()))
    if guessed := counts["by_label_source"].get("predicted"):
        held_out = " and ".join(split for split in ("valid", "test") if split in counts["by_split"])
        simulated = counts["simulated"]
        out.print(
            f"{counts['by_label_source'].get('gold', 0) - simulated:,} of the labels are people's, "
            + (f"{simulated:,} the simulated annotator's, " if simulated else "")
            + f"{guessed:,} the end model's"
            + (f" (label_source): those in {held_out} tell nothing of how right a model is" if held_out else "")
        )
    out.print(f"To build it again: {manifest['rebuild']}{project_hint(root)}")
