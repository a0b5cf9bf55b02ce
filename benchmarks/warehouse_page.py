"""The page docs/benchmarks/warehouse.md, from the JSON of `benchmarks.warehouse`."""

from typing import Any

PARTS = ("kills", "writers", "commits", "reads")


def page(held: dict[str, Any]) -> str:
    """The page of the figures, as Markdown."""
    lines = ["# Warehouse", "", "Made by `python -m benchmarks.warehouse`; do not edit.", ""]
    if "kills" in held:
        faults = [(c, w, n) for c in ("SQLite", "PostgreSQL") for w, n in held["kills"][c].items()]
        lines += ["## Deaths injected, all survived", "", "| catalogue | where | deaths |", "|---|---|---:|"]
        lines += [f"| {catalog} | {where} | {count} |" for catalog, where, count in faults]
        lines += [f"| in all | | {sum(count for _, _, count in faults)} |", ""]
    if "writers" in held:
        lines += ["## Four writers and two readers", ""]
        lines += ["| | landed | failed | commits/s | reads | reader errors |", "|---|---|---|---|---|---|"]
        for side, f in held["writers"].items():
            if not isinstance(f, dict) or "landed" not in f:
                continue
            lines.append(
                f"| {side} | {f['landed']} of {f['asked']} | {f['failed']} | {f['commits_per_s']} | {f['reads']} |"
                f" {f['reader_errors']} |"
            )
        lines.append("")
    if "commits" in held:
        lines += ["## A commit of 1,000 rows", "", "| earlier commits | median, ms |", "|---|---|"]
        lines += [f"| {earlier} | {ms} |" for earlier, ms in held["commits"]["commit_ms"].items()]
        lines.append("")
    lines += ["Reading at ten million items: [warehouse-reads.md](warehouse-reads.md).", ""]
    for part in [part for part in PARTS if part in held]:
        on = held[part]["environment"]
        dirty = " with uncommitted changes" if on["uncommitted_changes"] else ""
        lines.append(
            f"- {part}: {held[part]['took_s']:.0f} s, {on['cores']} cores, {on['processor']}, Python {on['python']}, "
            f"duckdb {on['versions']['duckdb']}, commit {on['commit'][:12]}{dirty}"
        )
    if missing := [part for part in PARTS if part not in {*held, "reads"}]:
        lines.append(f"- not measured: {', '.join(missing)}")
    return "\n".join([*lines, ""])
