"""The page docs/benchmarks/serving.md from the benchmark's JSON: bars with what was found, and tables behind them."""

from typing import Any

from benchmarks.int8_page import table_of
from benchmarks.routed_file import EARLIER, earlier

Figures = dict[str, Any]
OVER_PLAIN, OVER_INT8, INT8_STS, INT8_COSINE, INT4_STS = 5.0, 1.5, 0.99, 0.995, 0.97
OVER_STATIC, RECOVERY_S, START_S, LOADING, ALLOWED = 2.3, 5.0, 3.0, 1.2, {"200", "429", "503"}
BACK = 1.15
PEER = "sentence-transformers "


def bars(parts: dict[str, Figures]) -> list[tuple[str, str, bool]]:
    """Each bar that was measured: what it asks, what was found, met."""
    found: list[tuple[str, str, bool]] = []
    rates = parts.get("online", {}).get("sustained", {})
    static = [(rate, name) for name, rate in rates.items() if name.startswith("static")]
    if static:
        mine, best = rates[parts["online"]["ours"]], max(static)
        words = f"{mine:.0f} requests/s, static {best[0]:.0f} ({best[1]})"
        if "infinity" in rates:
            words += f", infinity {rates['infinity']:.0f}"
        ratio = mine / best[0] if best[0] else float("inf") if mine else 0.0
        found.append(
            (
                f"online at p99 < 100 ms: {OVER_STATIC} times padded static batches",
                f"{words}: {ratio:.2f} times",
                ratio >= OVER_STATIC,
            )
        )
    if "overload" in parts:
        over = parts["overload"]
        statuses = ", ".join(f"{code}: {count}" for code, count in over["statuses"].items())
        memory = over["memory_mib"]
        fine = set(over["statuses"]) <= ALLOWED and not over["refusals_without_retry_after"]
        found.append(
            (
                f"{over['clients']:,} clients, {over['offered_over_capacity']:.0f} times the capacity: 200, 429, 503",
                f"{statuses}; slowest answer {over['slowest_s']:.1f} s",
                fine,
            )
        )
        back = memory["after"] <= BACK * memory["before"]
        words = f"{memory['before']:.0f} MiB before, {memory['peak']:.0f} at most, {memory['after']:.0f} after"
        found.append((f"memory after it at most {BACK} times that before", words, back))
        found.append((f"recovered in {RECOVERY_S:g} s", f"{over['recovery_s']:.2f} s", over["recovery_s"] < RECOVERY_S))
    if "memory" in parts:
        memory = parts["memory"]
        words = f"{memory['loading_over_weights']:.2f} times"
        found.append(
            (
                f"peak while loading at most {LOADING} times the weights",
                words,
                memory["loading_over_weights"] <= LOADING,
            )
        )
        if "half_budget" in memory:
            half = memory["half_budget"]
            words = (
                f"{half['slow_down']:.1f} times the time of all in memory, both on one thread (a budget has no more),"
            )
            words += f" the file in the page cache; {half['differ']} of {half['texts']} vectors differ"
            found.append(("runs with half the model as memory budget, same bits", words, half["differ"] == 0))
    if "startup" in parts:
        seconds = parts["startup"]["median_s"]
        found.append((f"start to first answer under {START_S:g} s", f"{seconds:.2f} s", seconds < START_S))
    if "bits" in parts:
        differ = parts["bits"]["differ"]
        words = ", ".join(f"{name}: {count}" for name, count in differ.items())
        found.append(
            ("same bits everywhere", f"of {parts['bits']['texts']} texts differ {words}", not any(differ.values()))
        )
    return found


def offline_bars(parts: dict[str, Figures]) -> list[tuple[str, str, bool]]:
    """Each bar of many texts at once and of fewer bits that was measured, as `bars`."""
    found: list[tuple[str, str, bool]] = []
    if "throughput" in parts:
        speeds = parts["throughput"]["texts_per_s"]
        small = [PEER + name for name in ("onnx", "openvino") if PEER + name in next(iter(speeds.values()))]
        for own in [name for name in next(iter(speeds.values())) if name.endswith("int8") and small]:
            plain = [row[own] / row[PEER + "torch"] for row in speeds.values()]
            best = [row[own] / max(row[name] for name in small) for row in speeds.values()]
            asked = (
                f"{own}, least of the sets: {OVER_PLAIN:g} times sentence-transformers, {OVER_INT8:g} times its int8"
            )
            words = f"{min(plain):.1f} times, {min(best):.1f} times"
            found.append((asked, words, min(plain) >= OVER_PLAIN and min(best) >= OVER_INT8))
    if "quality" in parts:
        for name, row in parts["quality"]["encoders"].items():
            words = f"{row['of_fp32']:.2%}, cosine {row['cosine']:.4f}"
            if name.endswith(("int8", "bf16")):
                met = row["of_fp32"] >= INT8_STS and row["cosine"] >= INT8_COSINE
                found.append((f"{name}: {INT8_STS:.0%} of its fp32 STS-B, mean cosine {INT8_COSINE}", words, met))
            elif name.endswith("int4"):
                found.append((f"{name}: {INT4_STS:.0%} of its fp32 STS-B", words, row["of_fp32"] >= INT4_STS))
    return found


def page(figures: Figures) -> str:
    """The whole page."""
    lines = [
        "# The server, measured",
        "",
        "Made by `python -m benchmarks.serving --output docs/benchmarks/serving.json`; do not edit.",
        "",
        f"{figures['cores']} cores, {figures['memory_gib']} GiB, Python {figures['python']}, torch "
        f"{figures['versions']['torch']}, {figures['threads']} threads for each server; clients share the "
        "machine. Arrivals: half short questions and sentences, 30% news, 20% long texts (five news joined), one text "
        "each, Poisson in open loop; a latency begins when the request was due.",
        "",
    ]
    for device, run in figures["offline"].items():
        parts = {name: part["figures"] for name, part in run.items()}
        lines += [f"## Many texts at once, in one process ({device})", "", *_verdicts(offline_bars(parts))]
        for name, write in (("throughput", _throughput), ("quality", _quality)):
            lines += [*write(parts[name]), ""] if name in parts else []
        lines += [*_conditions(run, routed=True), ""]
    for kind, run in figures["runs"].items():
        parts = {name: part["figures"] for name, part in run["parts"].items()}
        conditions = _conditions(run["parts"], routed=kind.startswith("routed"))
        lines += [f"## {kind}", "", *_verdicts(bars(parts)), *_details(parts), *conditions, ""]
    return "\n".join(lines).rstrip() + "\n"


def _verdicts(found: list[tuple[str, str, bool]]) -> list[str]:
    rows = [f"| {asked} | {words} | {'met' if met else 'missed'} |" for asked, words, met in found]
    return ["| bar | measured | |", "|---|---|---|", *rows, ""]


def _quality(part: Figures) -> list[str]:
    rows = [
        [name, f"{row['spearman']:.4f}", f"{row['of_fp32']:.2%}", f"{row['cosine']:.4f}"]
        for name, row in part["encoders"].items()
    ]
    return [
        f"Spearman on {part['pairs']} pairs of {part['set']}; mean cosine to the same encoder in float32 on "
        f"{part['texts']} unseen texts.",
        "",
        *table_of(["encoder", "Spearman", "of its fp32", "cosine"], rows),
    ]


def _throughput(part: Figures) -> list[str]:
    names = list(next(iter(part["texts_per_s"].values())))
    rows = [[name, *[f"{row[key]:.0f}" for key in names]] for name, row in part["texts_per_s"].items()]
    missing = [f"- {name} could not be run: {why}" for name, why in part["missing"].items()]
    head = (
        f"Texts per second, {part['threads']} threads, median of {part['rounds']} rounds in turns. "
        "sentence-transformers has float32 in torch; its onnx and openvino are in 8 bits, as its own helpers quantise. "
        "What those vectors are worth was not measured."
    )
    return [head, "", *table_of(["texts", *names], rows), *(["", *missing] if missing else [])]


def _details(parts: dict[str, Figures]) -> list[str]:
    lines: list[str] = []
    if "online" in parts:
        online = parts["online"]
        lines += [
            "| server | requests/s at p99 < 100 ms, by round | most requests/s, 32 callers | least cosine to ours |"
        ]
        lines += ["|---|---|---|---:|"]
        for name, found in online["subjects"].items():
            rates = ", ".join(f"{rate:.0f}" for rate in found["sustained"])
            most = ", ".join(f"{rate:.0f}" for rate in found["capacity"])
            lines.append(f"| {name} | {rates} | {most} | {online['least_cosine'].get(name, float('nan')):.6f} |")
        if online.get("infinity_missing"):
            lines += ["", f"infinity was not measured: {online['infinity_missing']}"]
        lines.append("")
    if "single" in parts:
        single = parts["single"]
        phases = ", ".join(f"{name} {value:.2f}" for name, value in single["phases_ms"].items())
        lines += [
            f"One short text over HTTP on an idle server: p50 {single['p50_ms']:.1f} ms, p99 {single['p99_ms']:.1f} "
            f"ms; {single['not_model_frac']:.0%} of the mean, {single['mean_ms']:.1f} ms, is not the model (ms on "
            f"average: {phases}).",
            "",
        ]
    if "energy" in parts:
        energy = parts["energy"]
        kind = "estimated, not measured" if energy["estimated"] else "measured"
        lines += [
            f"Energy ({kind}: {energy['source']}): {energy['joules_per_1000']:.1f} J for 1,000 embeddings, "
            f"{energy['embeddings_per_joule']:.1f} embeddings per joule at {energy['texts_per_s']:.0f} texts/s.",
            "",
        ]
    return lines


def _conditions(parts: dict[str, Figures], *, routed: bool) -> list[str]:
    words: list[str] = []
    for name, part in parts.items():
        on = part["measured"]
        dirty = " with uncommitted changes" if on["uncommitted_changes"] else ""
        quick = ", a quick run whose figures mean nothing" if on["quick"] else ""
        load = f"load {on['load'][0]} to {on['load'][1]}"
        where = " with ".join(filter(None, [on["processor"], on.get("gpu")]))
        file = f", {EARLIER}" if routed and earlier(on) else ""
        words.append(f"{name} at {on['commit'][:9]}{dirty} on {where}, {load}, {on['seconds']:.0f} s{file}{quick}")
    others = "A load above the number of cores means that others used the machine as well."
    return [f"Measured: {'; '.join(words)}. {others}"]
