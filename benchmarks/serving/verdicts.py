"""The page docs/benchmarks/serving.md: what is asked of the served engine, and what was found."""

from benchmarks.harness import Bar, Figures
from benchmarks.pages import render
from benchmarks.serving.offline import PEER

OFFLINE = ("quality", "throughput")
"""Parts that measure all encoders and precisions at once, without a server."""
OVER_PLAIN, OVER_INT8, INT8_STS, INT8_COSINE, INT4_STS = 5.0, 1.5, 0.99, 0.995, 0.97
OVER_STATIC, RECOVERY_S, START_S, LOADING, BACK = 2.3, 5.0, 3.0, 1.2, 1.15
ALLOWED = {"200", "429", "503"}


def pages(figures: Figures) -> dict[str, str]:
    """The whole page."""
    return {".md": render("serving.md.j2", figures, bars=bars, offline_bars=offline_bars)}


def bars(run: Figures) -> list[Bar]:
    """Each bar of a server that was measured."""
    parts = {name: part["figures"] for name, part in run.items()}
    found: list[Bar] = []
    rates = parts.get("online", {}).get("sustained", {})
    static = [(rate, name) for name, rate in rates.items() if name.startswith("static")]
    if static:
        mine, (best, name) = rates[parts["online"]["ours"]], max(static)
        ratio = mine / best if best else float("inf") if mine else 0.0
        peer = f", infinity {rates['infinity']:.0f}" if "infinity" in rates else ""
        words = f"{mine:.0f} requests/s, static {best:.0f} ({name}){peer}: {ratio:.2f} times"
        asked = f"online at p99 < 100 ms: {OVER_STATIC} times padded static batches"
        found.append(Bar(asked, words, ratio >= OVER_STATIC))
    if over := parts.get("overload"):
        statuses = ", ".join(f"{code}: {count}" for code, count in over["statuses"].items())
        fine = set(over["statuses"]) <= ALLOWED and not over["refusals_without_retry_after"]
        asked = f"{over['clients']:,} clients, {over['offered_over_capacity']:.0f} times the capacity: 200, 429, 503"
        found.append(Bar(asked, f"{statuses}; slowest answer {over['slowest_s']:.1f} s", fine))
        before, peak, after = (over["memory_mib"][when] for when in ("before", "peak", "after"))
        words = f"{before:.0f} MiB before, {peak:.0f} at most, {after:.0f} after"
        found.append(Bar(f"memory after it at most {BACK} times that before", words, after <= BACK * before))
        recovered = over["recovery_s"] < RECOVERY_S
        found.append(Bar(f"recovered in {RECOVERY_S:g} s", f"{over['recovery_s']:.2f} s", recovered))
    if memory := parts.get("memory"):
        ratio = memory["loading_over_weights"]
        asked = f"peak while loading at most {LOADING} times the weights"
        found.append(Bar(asked, f"{ratio:.2f} times", ratio <= LOADING))
        if half := memory.get("half_budget"):
            words = (
                f"{half['slow_down']:.1f} times the time of all in memory, both on one thread (a budget has no more),"
            )
            words += f" the file in the page cache; {half['differ']} of {half['texts']} vectors differ"
            found.append(Bar("runs with half the model as memory budget, same bits", words, half["differ"] == 0))
    if start := parts.get("startup"):
        seconds = start["median_s"]
        found.append(Bar(f"start to first answer under {START_S:g} s", f"{seconds:.2f} s", seconds < START_S))
    if same := parts.get("bits"):
        words = ", ".join(f"{name}: {count}" for name, count in same["differ"].items())
        whole = f"of {same['texts']} texts differ {words}"
        found.append(Bar("same bits everywhere", whole, not any(same["differ"].values())))
    return found


def offline_bars(run: Figures) -> list[Bar]:
    """Each bar of many texts at once and of fewer bits that was measured."""
    parts = {name: part["figures"] for name, part in run.items()}
    found: list[Bar] = []
    speeds = list(parts.get("throughput", {}).get("texts_per_s", {}).values())
    small = [PEER + name for name in ("onnx", "openvino") if speeds and PEER + name in speeds[0]]
    for own in [name for name in (speeds[0] if small else ()) if name.endswith("int8")]:
        plain = min(row[own] / row[PEER + "torch"] for row in speeds)
        best = min(row[own] / max(row[name] for name in small) for row in speeds)
        asked = f"{own}, least of the sets: {OVER_PLAIN:g} times sentence-transformers, {OVER_INT8:g} times its int8"
        found.append(Bar(asked, f"{plain:.1f} times, {best:.1f} times", plain >= OVER_PLAIN and best >= OVER_INT8))
    for name, row in parts.get("quality", {}).get("encoders", {}).items():
        words = f"{row['of_fp32']:.2%}, cosine {row['cosine']:.4f}"
        if name.endswith(("int8", "bf16")):
            asked = f"{name}: {INT8_STS:.0%} of its fp32 STS-B, mean cosine {INT8_COSINE}"
            found.append(Bar(asked, words, row["of_fp32"] >= INT8_STS and row["cosine"] >= INT8_COSINE))
        elif name.endswith("int4"):
            found.append(Bar(f"{name}: {INT4_STS:.0%} of its fp32 STS-B", words, row["of_fp32"] >= INT4_STS))
    return found
