"""The encoder's figures for people: tables in the terminal, docs/benchmarks/engine.md, a block of engine/README.md.

All of it is computed from the benchmark's JSON; no figure and no verdict is written by hand.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from benchmarks.engine_bars import Bar, Figures, bars, duels, lowest_sts, of_part, parts_of, percent, point

TITLES = {
    "quality": "Quality by budget",
    "latency": "Latency of one text",
    "throughput": "Batched throughput, and controls at equal time",
    "training": "Cost of a training step",
    "bits": "Same bits in any batch",
}
WAYS = {
    "skipped": "heads and experts skipped",
    "as_distilled": "as distillation runs it: heads masked, experts skipped",
    "masked": "same model, dense and masked",
    "full_depth_masked": "all of the parent's layers, dense and masked",
    "parent_forward": "the parent's forward pass alone",
}


@dataclass(frozen=True, slots=True)
class Table:
    """A table; the first column holds names, the others figures."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """As GitHub reads it."""
        lines = [f"| {' | '.join(self.columns)} |", "|---|" + "---:|" * (len(self.columns) - 1)]
        return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in self.rows)])

    def show(self, console: Console) -> None:
        """In the terminal."""
        table = RichTable(title=self.title, title_justify="left")
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="right" if number else "left")
        for row in self.rows:
            table.add_row(*row)
        console.print(table)


def tables(part: str, figures: Figures) -> list[Table]:
    """The tables of one part."""
    found = parts_of(figures)[part]
    if part == "quality":
        return [_frontier(found), _neighbours(found)]
    if part == "latency":
        return [_latency(found)]
    if part == "throughput":
        return [_throughput(found), *_duels(figures)]
    if part == "training":
        return [_training(found), *([_training(found["other"])] if "other" in found else [])]
    return [_bits(found)]


def _name(found: Figures) -> str:
    return "dense parent" if found["active"] is None else f"{found['encoder']}, active={found['active']:g}"


def _frontier(part: Figures) -> Table:
    sets = list(part["pairs"])
    rows = [
        [
            _name(p),
            percent(p["layer_share"]),
            percent(p["layer_share_by_token"]),
            percent(p["layer_share_touched"]),
            percent(p["all_share"]),
            percent(p["multiplications_share"]),
            *(f"{p['sts'][name]['spearman']:.4f}" for name in sets),
            f"{lowest_sts(p):.2%}",
            f"{p['cosine']['mean']:.4f}",
        ]
        for p in part["points"]
    ]
    columns = ["encoder", "layer parameters", "by token", "touched", "all parameters", "multiplications"]
    return Table("Quality by budget", [*columns, *sets, "of the parent's", "cosine"], rows)


def _neighbours(part: Figures) -> Table:
    sets = [name for name, texts in part["texts"].items() if texts]
    rows = [
        [
            _name(p),
            f"{p['recall_10']['parent_index']:.3f}",
            f"{p['recall_10']['own_index']:.3f}",
            f"{p['cosine']['p05']:.3f}",
            *(f"{p['cosine_by_set'][name]:.3f}" for name in sets),
        ]
        for p in part["points"]
        if p["active"] is not None
    ]
    columns = ["encoder", "recall@10, parent's index", "recall@10, own index", "cosine, 5th percentile", *sets]
    return Table("Neighbours shared with the parent, and cosine by set", columns, rows)


def _latency(part: Figures) -> Table:
    def cells(figures: Figures) -> list[str]:
        below = f"{percent(figures['below_dense_p50'])}, {percent(figures['below_dense_p95'])}"
        return [f"{figures['p50_ms']:.2f}", f"{figures['p95_ms']:.2f}", below]

    rows = [[_name(p), str(p["tokens"]), *cells(p["compute"]), *cells(p["encode"])] for p in part["points"]]
    columns = ["encoder", "tokens", "compute p50, ms", "p95", "below dense", "encode p50, ms", "p95", "below dense"]
    return Table("Latency of one text", columns, rows)


def _throughput(part: Figures) -> Table:
    rows = [
        [
            _name(p),
            f"{p['texts_per_s']:,.0f}",
            f"{p['tokens_per_s']:,}",
            f"{p['over_dense']:.2f}",
            f"{p['over_dense_cpu']:.2f}",
        ]
        for p in part["points"]
    ]
    return Table("Batched throughput", ["encoder", "texts/s", "tokens/s", "times dense", "in CPU time"], rows)


def _duels(figures: Figures) -> list[Table]:
    rows: list[list[str]] = []
    for duel in duels(figures):
        routed = (
            ["no budget is as fast", ""] if duel.routed is None else [percent(duel.routed[0]), f"{duel.routed[1]:.4f}"]
        )
        behind = "" if duel.routed is None else "behind, trained less"
        verdict = "won" if duel.won else {None: behind, True: "lost", False: "not beaten"}[duel.lost]
        own = [duel.trained, f"{duel.ms:.2f}", percent(duel.own[0]), f"{duel.own[1]:.4f}"]
        rows.append([duel.control, *own, duel.rival, duel.rival_trained, *routed, verdict])
    columns = [
        "control",
        "training",
        "CPU ms per text",
        "of the parent's Spearman",
        "cosine",
        "against",
        "training",
        "at that time",
        "cosine",
        "control",
    ]
    return [Table("Controls at equal measured time", columns, rows)] if rows else []


def _training(part: Figures) -> Table:
    rows: list[list[str]] = []
    for way, seconds in part["step_s"].items():
        shares = [
            percent(part[name][way]) if way in part[name] else "" for name in ("over_masked", "over_full_depth_masked")
        ]
        rows.append([WAYS[way], f"{seconds:.3f}", *shares])
    title = f"A training step in {part['precision']}"
    if "measured" in part:
        on = part["measured"]
        title += f", on another machine: {on['processor']}, commit {on['commit'][:12]}"
    return Table(title, ["step", "seconds", "of same model masked", "of full depth masked"], rows)


def _bits(part: Figures) -> Table:
    smallest, median, largest = part["batch_sizes"]
    row = [
        _name(part),
        f"{part['texts']:,}",
        str(part["batchings"]),
        f"{part['batches']:,}",
        f"{smallest}, {median}, {largest}",
        f"{part['different']:,}",
    ]
    columns = ["encoder", "texts", "batchings", "batches", "texts per batch (least, median, most)", "different"]
    return Table("Same bits", columns, [row])


def show(figures: Figures, names: Sequence[str], console: Console) -> None:
    """Print the tables of some parts, and the bars that they judge."""
    judged = bars(figures)
    for name in names:
        for table in tables(name, figures):
            table.show(console)
        for bar in of_part(judged, name):
            console.print(f"[bold]{bar.verdict}[/bold]: {bar.wanted}. {bar.found}".rstrip(), highlight=False)
        console.print()


NOTES = {
    "quality": """\
Shares are of the dense parent's parameters. *Layer parameters*: those that work for a token, mean over a text's tokens,
then over texts; *by token*: mean over all tokens; *touched*: those that work for at least one token of a text; *all
parameters*: the first, with the whole embedding table counted as working. *Of the parent's*: Spearman as a share of the
parent's, lowest of the sets. *Parent's index*: neighbours found in an index of the parent's vectors with this encoder's
queries, against those that the parent finds; *own index*: the other way round. Texts that also stand in the training
text, written alike or not, are left out; only those of similarity pairs stay, so that the pairs are whole.""",
    "latency": """\
float32, one thread, the same code path, in turns. *Compute*: token ids to vector as a worker does it; *encode*:
`encode([text])` with the tokenizer and the hand-over to the worker. *Below dense*: p50, p95.""",
    "throughput": """\
float32, one call of `encode` with all texts, in turns; ratios are medians of the rounds. A control is judged at its
main budget, against the routed encoder's quality at that time, interpolated between its budgets: the one that was
trained for as many seconds (*equal training*) where there is one, else the shipped one. *Training* is what the files
say; *won*: ahead in both figures; *lost*: behind in both, after no less training. A control with everything on is timed
in dense code.""",
    "training": """\
Forward, backward, clipping and both optimisers at the main budget, the same batches in turns, in bfloat16 where the
processor has instructions for it and in float32 elsewhere. The parent's vectors are known, as from the second epoch on;
before that its forward pass is added to each.""",
    "bits": "The main budget. Each vector is compared bit by bit with the one from a single call with all texts.",
}


def page(figures: Figures) -> str:
    """docs/benchmarks/engine.md."""
    parts, judged = parts_of(figures), bars(figures)
    encoder, parent = figures["encoder"], figures["parent"]
    heads, neurons = encoder["heads"], encoder["neurons"]
    lines = [
        "# The routed encoder, measured",
        "",
        "Written by `python -m benchmarks.readme` from [engine.json](engine.json), the figures of `python -m "
        "benchmarks.engine`. Every verdict is computed from them.",
        "",
        _hardware(figures),
        "",
        f"The encoder: {len(encoder['layers'])} of the parent's {parent['layers']} layers, of each layer "
        f"{heads['shared']} heads that always work and {heads['routed']} routed ones, {neurons['shared']} neurons that "
        f"always work and {neurons['experts']} routed experts of {neurons['of']}, chosen per {encoder['expert_mode']}; "
        f"{encoder['bytes'] / 1e6:.1f} MB, sha256 `{encoder['sha256'][:16]}`. The parent: all-MiniLM-L6-v2, "
        f"{parent['layer_params'] / 1e6:.2f} M parameters in its layers, {parent['all_params'] / 1e6:.2f} M with the "
        "embeddings.",
        "",
    ]
    if "quality" in parts:
        lines += ["![Quality over the share of the layer parameters that works](engine.svg)", ""]
    for name, title in TITLES.items():
        own = of_part(judged, name)
        lines += [f"## {title}", "", *(f"- {_line(bar)}" for bar in own), ""]
        if name not in parts:
            continue
        for number, table in enumerate(tables(name, figures)):
            titled = number or name == "training"  # its title says the precision
            lines += [*([f"{table.title}:", ""] if titled else []), table.markdown(), ""]
        lines += [NOTES[name], "", _measured(name, figures), ""]
    return "\n".join(lines).rstrip() + "\n"


def _line(bar: Bar) -> str:
    found = f" Measured: {bar.found}." if bar.found else ""
    return f"**{bar.verdict.capitalize()}.** Bar: {bar.wanted}.{found}"


def _hardware(figures: Figures) -> str:
    return (
        f"{figures['cores']} cores, {figures['processor']}, {figures['memory_gib']:g} GiB, Python {figures['python']}, "
        f"torch {figures['versions']['torch']}."
    )


def _measured(name: str, figures: Figures) -> str:
    part = figures["parts"][name]
    measured: dict[str, Any] = part["measured"]
    found = part["figures"]
    facts = [f"commit `{measured['commit'][:12]}`" + (" with changes" if measured["uncommitted_changes"] else "")]
    facts += [
        f"{label} {found[key]:,}" for key, label in _COUNTS.items() if key in found and isinstance(found[key], int)
    ]
    if measured["processor"] != figures["processor"]:
        facts.append(f"on {measured['cores']} cores, {measured['processor']}")
    if measured.get("encoder", figures["encoder"]["sha256"]) != figures["encoder"]["sha256"]:
        facts.append(f"**on an earlier file of the encoder**, sha256 `{measured['encoder'][:16]}`")
    facts += [f"{name} kept from commit `{commit[:12]}`" for name, commit in measured.get("kept", {}).items()]
    low, high = measured["load"]
    facts.append(f"load of the machine {low:g} before and {high:g} after, {measured['seconds']:.0f} s in all")
    quick = "A quick run, no result. " if measured["quick"] else ""
    return f"{quick}Measured by `{measured['command']}` at {', '.join(facts)}."


_COUNTS = {
    "distinct_texts": "texts",
    "texts": "texts",
    "queries": "queries",
    "batches": "batches",
    "rounds": "rounds",
    "threads": "threads",
    "seed": "seed",
}


def block(figures: Figures) -> str:
    """Bars and frontier for engine/README.md."""
    judged = [bar for bar in bars(figures) if bar.met is not None]
    lines = [
        "| bar | measured | |",
        "|---|---|---|",
        *(f"| {b.wanted} | {b.found} | {b.verdict} |" for b in judged),
        "",
    ]
    parts = parts_of(figures)
    if "quality" in parts:
        rows: list[list[str]] = []
        for found in parts["quality"]["points"]:
            timed = point(parts["throughput"], found["encoder"], found["active"]) if "throughput" in parts else None
            rows.append(
                [
                    _name(found),
                    percent(found["layer_share"]),
                    percent(found["all_share"]),
                    f"{lowest_sts(found):.2%}",
                    f"{found['cosine']['mean']:.4f}",
                    f"{timed['over_dense']:.2f}" if timed else "",
                ]
            )
        columns = [
            "encoder",
            "layer parameters",
            "all parameters",
            "Spearman, of the parent's",
            "cosine",
            "times dense speed",
        ]
        lines += [Table("", columns, rows).markdown(), ""]
    lines.append(
        f"{_hardware(figures)} `{figures['command']}`; tables, plot and conditions: "
        "[docs/benchmarks/engine.md](../docs/benchmarks/engine.md)."
    )
    return "\n".join(lines)
