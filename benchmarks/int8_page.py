"""The page of the int8 benchmark, written from its figures."""

from typing import Any

TOLD = "All-MiniLM-L6-v2 (dense) and the routed encoder at active=0.3. Written by `python -m benchmarks.int8`."


def page(figures: dict[str, Any]) -> str:
    """Markdown of the figures of all parts that were measured."""
    lines = ["# Int8", "", TOLD]
    writers = {
        "quality": _quality,
        "latency": _latency,
        "kernels": _kernels,
        "throughput": _throughput,
        "profile": _profile,
    }
    for part, write in writers.items():
        if part in figures:
            lines += ["", f"## {part.capitalize()}", "", *write(figures[part]), "", _conditions(figures[part])]
    return "\n".join(lines) + "\n"


def _table(columns: list[str], rows: list[list[str]]) -> list[str]:
    head = ["| " + " | ".join(columns) + " |", "|---|" + "---:|" * (len(columns) - 1)]
    return head + ["| " + " | ".join(row) + " |" for row in rows]


def _quality(part: dict[str, Any]) -> list[str]:
    rows = [
        [name, f"{row['spearman']:.4f}", f"{row['of_fp32']:.2%}", f"{row['cosine']:.4f}"]
        for name, row in part["encoders"].items()
    ]
    return [
        f"Spearman on {part['pairs']} pairs of {part['set']}; mean cosine to the same encoder in float32 on "
        f"{part['texts']} unseen texts. Bars: int8 and bf16 99% and 0.995, int4 97%.",
        "",
        *_table(["encoder", "Spearman", "of its fp32", "cosine"], rows),
    ]


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
    return [head, "", *_table(["tokens", *names], rows)]


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
    return [head, "", *_table(["tokens", *sets], rows)]


def below(row: dict[str, float], kernel: str) -> float:
    """By how much routed stays below dense with an instruction set."""
    return 1 - row[f"{kernel} routed"] / row[f"{kernel} dense"]


def _throughput(part: dict[str, Any]) -> list[str]:
    names = list(next(iter(part["texts_per_s"].values())))
    rows = [[name, *[f"{row[key]:.0f}" for key in names]] for name, row in part["texts_per_s"].items()]
    missing = [f"- {name} could not be run: {why}" for name, why in part["missing"].items()]
    head = (
        f"Texts per second, {part['threads']} threads, median of {part['rounds']} rounds in turns. "
        "sentence-transformers has float32 in torch; its onnx and openvino are in 8 bits, as its own helpers quantise. "
        "What those vectors are worth was not measured."
    )
    return [head, "", *_table(["texts", *names], rows), *(["", *missing] if missing else [])]


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
    return [head, "", *_table(["stage", "dense", "share", "of the limit", "routed", "share"], rows)]


def _conditions(part: dict[str, Any]) -> str:
    measured = part["environment"]
    quick = "Quick run: few texts. " if part["quick"] else ""
    return (
        f"{quick}{measured['cores']} cores, {measured['processor']}, kernel {part['kernel']}, Python "
        f"{measured['python']}, torch {measured['versions']['torch']}, commit {measured['commit'][:10]}"
        f"{' with uncommitted changes' if measured['uncommitted_changes'] else ''}."
    )
