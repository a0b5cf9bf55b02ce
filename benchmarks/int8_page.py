"""The page of the int8 benchmark, written from its figures."""

from typing import Any

from benchmarks.routed_file import EARLIER, earlier

TOLD = "All-MiniLM-L6-v2 (dense) and the routed encoder at active=0.3. Written by `python -m benchmarks.int8`."


def page(figures: dict[str, Any]) -> str:
    """Markdown of the figures of all parts that were measured."""
    lines = ["# Int8", "", TOLD]
    writers = {
        "latency": _latency,
        "kernels": _kernels,
        "profile": _profile,
    }
    for part, write in writers.items():
        if part in figures:
            lines += ["", f"## {part.capitalize()}"]
            for one in every(figures[part]):
                lines += ["", *write(one), "", _conditions(one)]
    return "\n".join(lines) + "\n"


def every(part: dict[str, Any]) -> list[dict[str, Any]]:
    """Figures of a part, and those of a processor with other instructions where it was measured on one too."""
    return [part, *([part["other"]] if "other" in part else [])]


def table_of(columns: list[str], rows: list[list[str]]) -> list[str]:
    """A table in Markdown; the first column stands left."""
    head = ["| " + " | ".join(columns) + " |", "|---|" + "---:|" * (len(columns) - 1)]
    return head + ["| " + " | ".join(row) + " |" for row in rows]


def _latency(part: dict[str, Any]) -> list[str]:
    names = list(next(iter(part["ms"].values())))
    rows = [
        [f"{tokens} ({at})", *[_against(row, name, at) for name in names]]
        for tokens, row in part["ms"].items()
        for at in ("p50", "p95")
        if at in row["dense fp32"]
    ]
    head = (
        f"One text, one thread: ms of {part['rounds']} calls in turns. Behind routed: its share of dense in the same "
        "precision; bar: at most 55%."
    )
    return [head, "", *table_of(["tokens", *names], rows)]


def _against(row: dict[str, Any], name: str, at: str) -> str:
    kind, form = name.split()
    if kind == "dense":
        return f"{row[name][at]:.2f}"
    return f"{row[name][at]:.2f} ({row[name][at] / row[f'dense {form}'][at]:.0%})"


def _kernels(part: dict[str, Any]) -> list[str]:
    sets = list(dict.fromkeys(name.split()[0] for name in next(iter(part["ms"].values()))))
    rows = [
        [tokens, *[f"{row[f'{k} dense']:.2f} / {row[f'{k} routed']:.2f} ({below(row, k):.0%} less)" for k in sets]]
        for tokens, row in part["ms"].items()
    ]
    head = (
        f"One text, one thread, 8 bits: ms, dense / routed, median of {part['rounds']} calls in turns, by instruction "
        "set. The faster products are, the less it saves to leave some out."
    )
    return [head, "", *table_of(["tokens", *sets], rows)]


def below(row: dict[str, float], kernel: str) -> float:
    """By how much routed stays below dense with an instruction set."""
    return 1 - row[f"{kernel} routed"] / row[f"{kernel} dense"]


def _profile(part: dict[str, Any]) -> list[str]:
    limit, rows = part["int8_product_gmac_per_s"], []
    for stage, dense_us in part["dense"].items():
        macs = part["dense_macs"].get(stage)
        rate = macs / dense_us / 1e3 if macs else None
        rows.append(
            [
                stage,
                f"{dense_us:.2f}",
                f"{dense_us / sum(part['dense'].values()):.0%}",
                f"{rate:.0f} ({rate / limit:.0%})" if rate else "",
                f"{part['routed'][stage]:.2f}",
                f"{part['routed'][stage] / sum(part['routed'].values()):.0%}",
            ]
        )
    rows.append(["all", f"{sum(part['dense'].values()):.1f}", "", "", f"{sum(part['routed'].values()):.1f}", ""])
    head = (
        f"One thread, kernel {part['kernel']}, 16 texts of 64 tokens: microseconds a token of each stage, with its "
        "quantising and activations. Of the limit: billions of multiplications a second, against torch's fastest 8-bit "
        f"product here ({limit:.0f}; its float32 product reaches {part['fp32_product_gmac_per_s']:.0f})."
    )
    return [head, "", *table_of(["stage", "dense", "share", "of the limit", "routed", "share"], rows)]


def _conditions(part: dict[str, Any]) -> str:
    measured = part["environment"]
    quick = "Quick run: few texts. " if part["quick"] else ""
    return (
        f"{quick}{measured['cores']} cores, {measured['processor']}, kernel {part['kernel']}, Python "
        f"{measured['python']}, torch {measured['versions']['torch']}, commit {measured['commit'][:10]}"
        f"{' with uncommitted changes' if measured['uncommitted_changes'] else ''}"
        f"{f', {EARLIER}' if earlier(measured) else ''}."
    )
