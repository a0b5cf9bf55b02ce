"""The claim that the encoder comes from, sentence by sentence, against the benchmarks' JSON: the README's table.

A sentence is judged by figures only; where one was measured in several ways, all of them stand there.
"""

from collections.abc import Iterable
from typing import Any

from benchmarks.engine_bars import Duel, duels, parts_of, percent, point, steps_in
from benchmarks.int8_page import below, every
from benchmarks.routed_file import EARLIER, earlier

Figures = dict[str, Any]
LESS, LESS_TRAINING = 0.45, 0.6
KERNELS = {"avx2": "AVX2", "avx512_vnni": "AVX512-VNNI", "amx_int8": "AMX"}


def table(engine: Figures, int8: Figures, serving: Figures) -> str:
    """Markdown of the table: what is claimed, what was measured, whether it holds.

    Args:
        engine: of `benchmarks.engine`.
        int8: of `benchmarks.int8`.
        serving: of `benchmarks.serving`.
    """
    rows = [_latency(engine, int8), _training(engine), _parameters(engine), _int8(serving), _batching(serving)]
    lines = ["| claimed | holds | measured |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {claim} | {verdict} | {found} |" for claim, verdict, found in rows)])


def _latency(engine: Figures, int8: Figures) -> tuple[str, str, str]:
    active = engine["encoder"]["main_budget"]
    found = {
        "float32": {
            p["tokens"]: p["compute"]["below_dense_p50"]
            for p in parts_of(engine)["latency"]["points"]
            if p["encoder"] == "routed" and p["active"] == active
        }
    }
    former: list[str] = []
    for kernel, name in KERNELS.items():
        having = [part for part in every(int8["kernels"]) if f"{kernel} dense" in next(iter(part["ms"].values()))]
        if having:
            newest = having[0]
            found[f"int8 with {name}"] = {int(tokens): below(row, kernel) for tokens, row in newest["ms"].items()}
            former += [name] if earlier(newest["environment"]) else []
    words = "; ".join(f"{name} {_from_to(saved.values())}" for name, saved in found.items())
    lengths = list(next(iter(found.values())))
    held = [
        name
        if min(saved.values()) >= LESS
        else f"{name} at {', '.join(str(tokens) for tokens, by in saved.items() if by >= LESS)} tokens"
        for name, saved in found.items()
        if max(saved.values()) >= LESS
    ]
    measured = (
        f"one text of {lengths[0]} to {lengths[-1]} tokens takes less time (p50) than dense in the same precision, "
        f"by: {words}"
    )
    if former:
        measured += f" (int8 with {', '.join(former)}: {EARLIER})"
    return "45% less latency", "; ".join(held) or "no", measured


def _from_to(saved: Iterable[float]) -> str:
    ends = dict.fromkeys(f"{by:.0%}" for by in sorted(saved))
    return " to ".join([*ends][:: max(1, len(ends) - 1)])


def _training(engine: Figures) -> tuple[str, str, str]:
    part = parts_of(engine)["training"]
    every = {one["precision"]: one for one in (part, part.get("other")) if one}
    shares = {name: one["over_full_depth_masked"] for name, one in every.items()}
    words = ", ".join(
        f"{percent(share['as_distilled'])} in {name} ({percent(share['masked'])} with nothing skipped)"
        for name, share in shares.items()
    )
    held = [
        f"{name}{', by fewer layers and not by skipping' if share['masked'] <= share['as_distilled'] else ''}"
        for name, share in shares.items()
        if share["as_distilled"] <= 1 - LESS_TRAINING
    ]
    verdict = "; ".join(held) or "no"
    return "60% less training cost", verdict, f"a training step takes, of the time of one with all layers, {words}"


def _parameters(engine: Figures) -> tuple[str, str, str]:
    found = point(parts_of(engine)["quality"], "routed", engine["encoder"]["main_budget"])
    assert found is not None
    sts = min(figures["of_parent"] for figures in found["sts"].values())
    words = (
        f"{found['layer_share']:.1%} of the layers' parameters work, {found['all_share']:.0%} of all, embedding "
        f"table included; STS-B {percent(sts)} of dense, cosine {found['cosine']['mean']:.2f} to its vectors"
    )
    fought = [duel for duel in duels(engine) if duel.main and duel.routed is not None]
    if fought:
        words += f"; of controls that are as fast (their steps of training against those of routed) {_fought(fought)}"
    return "30% active parameters", "of the layers" if found["layer_share"] < 0.305 else "no", words


def _fought(fought: list[Duel]) -> str:
    """How the controls stand to the routed encoder, those of one result together, the best first."""
    by_result: dict[str, list[str]] = {
        "ahead of it": [],
        "ahead in one of two figures": [],
        "behind it": [],
        "behind it, with less training": [],
    }
    for duel in fought:
        if duel.won:
            result = "ahead of it"
        elif duel.lost is None:
            result = "behind it, with less training"
        else:
            result = "behind it" if duel.lost else "ahead in one of two figures"
        steps = f"{steps_in(duel.trained):,} against {steps_in(duel.rival_trained):,}"
        by_result[result].append(f"{duel.control.rsplit(' ', 1)[0]} ({steps})")
    told = [
        f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} {how}" for how, names in by_result.items() if names
    ]
    return "; ".join(told) + " ([by how much](docs/benchmarks/engine.md))"


def _int8(serving: Figures) -> tuple[str, str, str]:
    offline = {name: part["figures"] for name, part in serving["offline"]["cpu"].items()}
    found = {name: offline["quality"]["encoders"][f"{name} int8"] for name in ("dense", "routed")}
    words = ", ".join(f"{name} {f['of_fp32']:.1%} (cosine {f['cosine']:.4f})" for name, f in found.items())
    speeds = offline["throughput"]["texts_per_s"]
    times = [row["dense int8"] / row["dense fp32"] for row in speeds.values()]
    kernel = KERNELS.get(offline["throughput"]["kernel"], offline["throughput"]["kernel"])
    shown = sorted({f"{least_or_most(times):.1f}" for least_or_most in (min, max)}, key=float)
    fast = f"; with {kernel} dense has {' to '.join(shown)} times its float32 throughput"
    return (
        "int8 keeps 95%",
        _yes(min(f["of_fp32"] for f in found.values()) >= 0.95),
        f"of its float32 STS-B: {words}{fast}",
    )


def _batching(serving: Figures) -> tuple[str, str, str]:
    sustained = serving["runs"]["dense-fp32"]["parts"]["online"]["figures"]["sustained"]
    ours = sustained["dense-fp32"]
    static = max(rate for name, rate in sustained.items() if name.startswith("static-"))
    words = (
        f"{ours:.0f} requests a second of mixed lengths at a p99 below 100 ms, {static:.0f} with padded batches of a "
        f"fixed size: {ours / static:.1f} times"
    )
    if peer := sustained.get("infinity"):
        words += f"; infinity, whose batches are padded and not fixed, {peer:.0f}: {ours / peer:.1f} times"
    return "2.3 times throughput by continuous batching", _yes(ours >= 2.3 * static), words


def _yes(held: bool) -> str:
    return "yes" if held else "no"
