"""The bars of the routed encoder and of the claim it comes from, its pages and picture, from the benchmarks' JSON."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from benchmarks.harness import EARLIER, Bar, Figures, earlier, with_other
from benchmarks.int8 import below
from benchmarks.pages import Panel, picture, render

EQUAL = "routed, equal training"
"""A control named `routed` is the routed encoder after the seconds of training that it notes: the rival of controls
that had as many."""
STS_SHARE, STS_STRETCH, COSINE, COSINE_STRETCH = 0.99, 0.997, 0.95, 0.98
LATENCY_BELOW, OVER_DENSE, STEP_SHARE, LESS_TRAINING = 0.45, 1.9, 0.4, 0.6
EQUAL_TIME = 0.95
"""Times this close are equal."""
PARTS = ("quality", "latency", "throughput", "training", "bits")
KERNELS = {"avx2": "AVX2", "avx512_vnni": "AVX512-VNNI", "amx_int8": "AMX"}
RESULTS = ("ahead of it", "ahead in one of two figures", "behind it", "behind it, with less training")


def pages(figures: Figures) -> dict[str, str]:
    """The page and the picture."""
    made = {".md": render("engine.md.j2", figures, **_more(figures))}
    return {**made, **({".svg": _frontier(figures)} if "quality" in figures["parts"] else {})}


def block(figures: Figures) -> str:
    """Bars and frontier for engine/README.md."""
    return render("engine-block.md.j2", figures, **_more(figures))


def _more(figures: Figures) -> Figures:
    by_part = bars(figures)
    more: Figures = {"bars": by_part, "found": parts_of(figures), "duels": duels(figures), "lowest_sts": lowest_sts}
    return {**more, "with_other": with_other, "point": point}


def parts_of(figures: Figures) -> dict[str, Figures]:
    """Figures of each part that was measured, in the order of the benchmark."""
    return {name: figures["parts"][name]["figures"] for name in PARTS if name in figures["parts"]}


def point(part: Figures, encoder: str, active: float | None) -> Figures | None:
    """The figures of one encoder at one budget; None where it was not measured."""
    return next((p for p in part["points"] if p["encoder"] == encoder and p["active"] == active), None)


def lowest_sts(found: Figures) -> float:
    """Share of the parent's Spearman, on the set where it is lowest."""
    return min(figures["of_parent"] for figures in found["sts"].values())


def bars(figures: Figures) -> dict[str, list[Bar]]:
    """All bars by part."""
    parts, active = parts_of(figures), figures["encoder"]["main_budget"]

    def bar(part: str, asked: str, judge: Callable[[], tuple[str, bool | None]]) -> Bar:
        return Bar(asked, *(judge() if part in parts else ("", None)))

    def routed(part: str) -> Figures:
        return point(parts[part], "routed", active) or {}

    share = f"share of the layer parameters that works for a text on average: {active:.0%} or less, rounded"
    sts = f"Spearman at least {STS_SHARE:.0%} of the parent's (stretch {STS_STRETCH:.1%})"
    cosine = f"mean cosine to the parent's vectors on unseen text at least {COSINE:g} (stretch {COSINE_STRETCH:g})"
    single = f"one text of 16, 64, 128, 256 tokens, p50 and p95: at least {LATENCY_BELOW:.0%} below the dense parent"
    batched = f"batched throughput at least {OVER_DENSE:g} times the dense parent's"
    controls = "controls lose at equal measured time, in Spearman and in cosine"
    step = f"a training step with real skipping costs at most {STEP_SHARE:.0%} of the same step done densely and masked"
    same = "10,000 texts in 50 random batchings have the same bits"
    return {
        "quality": [
            bar("quality", share, lambda: _share(routed("quality"), active)),
            bar("quality", sts, lambda: _spearman(routed("quality"))),
            bar("quality", cosine, lambda: _cosine(routed("quality"), parts["quality"])),
        ],
        "latency": [bar("latency", single, lambda: _latency(parts["latency"], active))],
        "throughput": [
            bar("throughput", batched, lambda: _throughput(routed("throughput"))),
            bar("throughput", controls, lambda: _controls(figures)),
        ],
        "training": [bar("training", step, lambda: _training(parts["training"]))],
        "bits": [bar("bits", same, lambda: _bits(parts["bits"]))],
    }


def _share(found: Figures, active: float) -> tuple[str, bool]:
    words = f"{found['layer_share']:.1%} (weighted by tokens {found['layer_share_by_token']:.1%}), "
    words += f"{found['all_share']:.1%} of all parameters with the embedding table"
    return words, found["layer_share"] < active + 0.005  # it rounds to the budget


def _stretch(met: bool) -> str:
    return f"stretch {'met' if met else 'missed'}"


def _spearman(found: Figures) -> tuple[str, bool]:
    name, worst = min(found["sts"].items(), key=lambda item: item[1]["of_parent"])
    share, (low, high) = worst["of_parent"], worst["interval"]
    words = f"{worst['spearman']:.4f}, {share:.2%} of the parent's on {name} (95% interval {low:.2%} to {high:.2%})"
    return f"{words}; {_stretch(share >= STS_STRETCH)}", share >= STS_SHARE


def _cosine(found: Figures, part: Figures) -> tuple[str, bool]:
    mean, recall = found["cosine"]["mean"], found["recall_10"]
    furthest = min(found["cosine_by_set"].items(), key=lambda item: item[1])
    words = (
        f"{mean:.4f} on {part['distinct_texts']:,} texts (lowest set: {furthest[0]} {furthest[1]:.3f}); recall@10 "
        f"{recall['parent_index']:.3f} in the parent's index with this encoder's queries, {recall['own_index']:.3f} "
        f"the other way round; {_stretch(mean >= COSINE_STRETCH)}"
    )
    return words, mean >= COSINE


def _latency(part: Figures, active: float) -> tuple[str, bool]:
    own = [p for p in part["points"] if p["encoder"] == "routed" and p["active"] == active]
    saved = {p["tokens"]: (p["compute"]["below_dense_p50"], p["compute"]["below_dense_p95"]) for p in own}
    shown = ", ".join(f"{tokens} tokens {p50:.1%} and {p95:.1%}" for tokens, (p50, p95) in saved.items())
    return f"below by {shown}", min(min(pair) for pair in saved.values()) >= LATENCY_BELOW


def _throughput(found: Figures) -> tuple[str, bool]:
    words = f"{found['over_dense']:.2f} times, {found['texts_per_s']:,.0f} texts per second"
    return words, found["over_dense"] >= OVER_DENSE


def _training(part: Figures) -> tuple[str, bool]:
    words: list[str] = []
    for one in with_other(part):
        same, full = one["over_masked"], one["over_full_depth_masked"]
        told = f"in {one['precision']} {same['skipped']:.1%} of the same model's, {full['skipped']:.1%} of a model's"
        told += " with all layers (as distillation runs it, heads masked, "
        words.append(f"{told}{same['as_distilled']:.1%} and {full['as_distilled']:.1%})")
    return "; ".join(words), all(one["over_masked"]["skipped"] <= STEP_SHARE for one in with_other(part))


def _bits(part: Figures) -> tuple[str, bool | None]:
    words = f"{part['texts']:,} texts in {part['batchings']} batchings, {part['different']:,} vectors differ"
    enough = part["texts"] >= 10_000 and part["batchings"] >= 50
    if not part["different"] and not enough:
        return f"{words}; too few to tell", None
    return words, not part["different"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Duel:
    """A control against the routed encoder at the control's own measured time.

    Attributes:
        control: its name; `active`: its budget; `main`: it is judged at this budget.
        trained: its training in words, "" where its file does not say; `rival_trained`: the same of its rival.
        ms: its measured CPU time per text.
        rival: the routed encoder that it is compared with.
        own: its share of the parent's Spearman, and its cosine.
        routed: the same of the routed encoder at that time, between its budgets; None where no budget is that fast.
    """

    control: str
    active: float
    main: bool
    trained: str
    ms: float
    rival: str
    rival_trained: str
    own: tuple[float, float]
    routed: tuple[float, float] | None

    @property
    def lost(self) -> bool | None:
        """The control is behind in both figures; None where nothing is as fast, or it is and was trained less."""
        if self.routed is None:
            return None
        behind = all(a < b for a, b in zip(self.own, self.routed, strict=True))
        return None if behind and steps_in(self.trained) < steps_in(self.rival_trained) else behind

    @property
    def won(self) -> bool:
        """The control is ahead in both figures."""
        return self.routed is not None and all(a > b for a, b in zip(self.own, self.routed, strict=True))

    @property
    def result(self) -> str:
        """How the control stands to its rival, one of `RESULTS`."""
        return RESULTS[0 if self.won else 3 if self.lost is None else 2 if self.lost else 1]


def training_of(figures: Figures, encoder: str) -> str:
    """How an encoder was trained, as its file says: such as "763 steps, 600 s" or "8,000 steps, then 2,200 steps"."""
    notes = (figures["encoder"] if encoder == "routed" else figures["controls"][encoder])["notes"]
    if "steps" not in notes:
        stages = re.sub(r", \d+ texts", "", str(notes.get("trained", "")))
        return re.sub(r"\d+", lambda number: f"{int(number[0]):,}", stages)
    return f"{int(notes['steps']):,} steps" + (f", {float(notes['seconds']):,.0f} s" if "seconds" in notes else "")


def steps_in(trained: str) -> int:
    """Steps of a training in words, such as "5,100 steps, then 4,000 steps"; 0 where they name none."""
    return sum(int(number.replace(",", "")) for number in re.findall(r"([\d,]+) steps", trained))


def duels(figures: Figures) -> list[Duel]:
    """Every control at each budget against the routed encoder of as many seconds of training, else the shipped one."""
    parts = parts_of(figures)
    if "quality" not in parts or "throughput" not in parts:
        return []
    # CPU time, by its ratio to the dense parent's in the same round: other load hardly moves it.
    dense_ms = next(p["cpu_ms_per_text"] for p in parts["throughput"]["points"] if p["encoder"] == "dense")
    times = {(p["encoder"], p["active"]): dense_ms / p["over_dense_cpu"] for p in parts["throughput"]["points"]}
    points = {(p["encoder"], p["active"]): p for p in parts["quality"]["points"]}
    found = {key: (lowest_sts(p), float(p["cosine"]["mean"])) for key, p in points.items() if key in times}
    seconds = {name: control["notes"].get("seconds") for name, control in figures["controls"].items()}
    result: list[Duel] = []
    for name, active in found:
        if name in ("dense", "routed", EQUAL):
            continue
        own, ms, routed = found[name, active], times[name, active], None
        equal = any(other == EQUAL for other, _ in found) and seconds[EQUAL] == seconds[name]
        rival = EQUAL if equal else "routed"
        frontier = sorted((times[key], *found[key]) for key in found if key[0] == rival)
        if frontier and ms >= EQUAL_TIME * frontier[0][0]:
            at = [float(np.interp(ms, [f[0] for f in frontier], [f[c] for f in frontier])) for c in (1, 2)]
            routed = (at[0], at[1])
        trained, rival_trained = training_of(figures, name), training_of(figures, rival)
        main = active == figures["controls"][name]["main_budget"]
        told = {"trained": trained, "rival_trained": rival_trained, "main": main, "own": own, "routed": routed}
        result.append(Duel(control=name, active=active, ms=ms, rival=rival, **told))
    return result


def _fought(figures: Figures) -> list[tuple[Duel, tuple[float, float]]]:
    """Controls at their main budgets that something routed is as fast as."""
    return [(duel, duel.routed) for duel in duels(figures) if duel.main and duel.routed is not None]


def _controls(figures: Figures) -> tuple[str, bool | None]:
    shown = [
        f"{duel.control} {duel.active:g} ({duel.trained}) {duel.own[0]:.1%} and {duel.own[1]:.3f} against "
        f"{routed[0]:.1%} and {routed[1]:.3f} ({duel.rival_trained})"
        for duel, routed in _fought(figures)
    ]
    return "; ".join(shown), all(duel.lost for duel, _ in _fought(figures)) if shown else None


def _frontier(figures: Figures) -> str:
    """Quality over the share of the layer parameters that works; controls at their main budgets."""
    part = parts_of(figures)["quality"]
    files = {"routed": figures["encoder"], **figures["controls"]}
    routed = sorted((p for p in part["points"] if p["encoder"] == "routed"), key=lambda p: p["layer_share"])
    controls = [p for p in part["points"] if p["encoder"] in files and p["encoder"] != "routed"]
    controls = [p for p in controls if p["active"] == files[p["encoder"]]["main_budget"]]
    sides: list[tuple[str, float, Callable[[Figures], float]]] = [
        (f"Spearman on {', '.join(part['pairs'])}, share of the parent's", STS_SHARE, lowest_sts),
        ("mean cosine to the parent's vectors", COSINE, lambda p: float(p["cosine"]["mean"])),
    ]
    panels: list[Panel] = []
    x_ticks = {share / 5: f"{share / 5:.0%}" for share in range(6)}
    for number, (title, bar, value) in enumerate(sides):
        values = [*map(value, part["points"]), bar, 1.0]
        panel = Panel(f"{title}; the bar is {bar:g}", (52 + number * 525, 0, 300), x_ticks, values)
        panel.level(bar, "brown dashed")
        panel.curve([(p["layer_share"], value(p)) for p in routed], "blue")
        for at, p in enumerate(routed):
            near = at + 1 < len(routed) and routed[at + 1]["layer_share"] - p["layer_share"] < 0.08
            panel.point(p["layer_share"], value(p), "blue", "" if near else f"{p['active']:g}")
        panel.point(1.0, 1.0, "grey", "dense parent")
        names = [(p["layer_share"], value(p), f"{p['encoder']} {p['active']:g}", "red") for p in controls]
        for x, y, _, style in names:
            panel.point(x, y, style)
        panel.names(names)
        panels.append(panel)
    told = [
        f"{p['encoder']} at {p['layer_share']:.1%}: {lowest_sts(p):.1%}, {p['cosine']['mean']:.3f}"
        for p in part["points"]
    ]
    label = "Quality over the share of the parent's layer parameters that works, the routed encoder by its budgets. "
    return picture(1090, 310, label + "; ".join(told), panels)


def claims(engine: Figures, int8: Figures, serving: Figures) -> str:
    """The README's table: what is claimed of such encoders, whether it holds, what was measured."""
    rows = [_less_latency(engine, int8), _less_training(engine), _active(engine), _int8(serving), _batching(serving)]
    table = ["| claimed | holds | measured |", "|---|---|---|"]
    return "\n".join([*table, *(f"| {claim} | {verdict} | {found} |" for claim, verdict, found in rows)])


def _less_latency(engine: Figures, int8: Figures) -> tuple[str, str, str]:
    active, points = engine["encoder"]["main_budget"], parts_of(engine)["latency"]["points"]
    own = [p for p in points if p["encoder"] == "routed" and p["active"] == active]
    found = {"float32": {p["tokens"]: p["compute"]["below_dense_p50"] for p in own}}
    former: list[str] = []
    for kernel, name in KERNELS.items():
        having = [p for p in with_other(int8["kernels"]) if f"{kernel} dense" in next(iter(p["ms"].values()))]
        if having:
            found[f"int8 with {name}"] = {int(n): below(row, kernel) for n, row in having[0]["ms"].items()}
            former += [name] if earlier(having[0]["environment"]) else []
    held = {name: [n for n, by in saved.items() if by >= LATENCY_BELOW] for name, saved in found.items()}
    where = [
        name + ("" if len(at) == len(found[name]) else f" at {', '.join(map(str, at))} tokens")
        for name, at in held.items()
        if at
    ]
    lengths, words = list(found["float32"]), "; ".join(f"{n} {_from_to(saved.values())}" for n, saved in found.items())
    measured = (
        f"one text of {lengths[0]} to {lengths[-1]} tokens takes less time (p50) than dense in the same precision"
    )
    measured += f", by: {words}" + (f" (int8 with {', '.join(former)}: {EARLIER})" if former else "")
    return "45% less latency", "; ".join(where) or "no", measured


def _from_to(saved: Iterable[float]) -> str:
    ends = dict.fromkeys(f"{by:.0%}" for by in sorted(saved))
    return " to ".join([*ends][:: max(1, len(ends) - 1)])


def _less_training(engine: Figures) -> tuple[str, str, str]:
    every = {one["precision"]: one["over_full_depth_masked"] for one in with_other(parts_of(engine)["training"])}
    told = [f"{s['as_distilled']:.1%} in {n} ({s['masked']:.1%} with nothing skipped)" for n, s in every.items()]
    held = [
        name + (", by fewer layers and not by skipping" if share["masked"] <= share["as_distilled"] else "")
        for name, share in every.items()
        if share["as_distilled"] <= 1 - LESS_TRAINING
    ]
    measured = f"a training step takes, of the time of one with all layers, {', '.join(told)}"
    return "60% less training cost", "; ".join(held) or "no", measured


def _active(engine: Figures) -> tuple[str, str, str]:
    found = point(parts_of(engine)["quality"], "routed", engine["encoder"]["main_budget"])
    assert found is not None
    words = (
        f"{found['layer_share']:.1%} of the layers' parameters work, {found['all_share']:.0%} of all, embedding table "
        f"included; STS-B {lowest_sts(found):.1%} of dense, cosine {found['cosine']['mean']:.2f} to its vectors"
    )
    by_result: dict[str, list[str]] = {result: [] for result in RESULTS}
    for duel, _ in _fought(engine):
        steps = f"{steps_in(duel.trained):,} against {steps_in(duel.rival_trained):,}"
        by_result[duel.result].append(f"{duel.control} ({steps})")
    told = [f"{', '.join(n)} {'is' if len(n) == 1 else 'are'} {result}" for result, n in by_result.items() if n]
    if told:
        words += "; of controls that are as fast (their steps of training against those of routed) "
        words += f"{'; '.join(told)} ([by how much](docs/benchmarks/engine.md))"
    return "30% active parameters", "of the layers" if found["layer_share"] < 0.305 else "no", words


def _int8(serving: Figures) -> tuple[str, str, str]:
    parts = {name: part["figures"] for name, part in serving["offline"]["cpu"].items()}
    found = {name: parts["quality"]["encoders"][f"{name} int8"] for name in ("dense", "routed")}
    words = ", ".join(f"{name} {f['of_fp32']:.1%} (cosine {f['cosine']:.4f})" for name, f in found.items())
    times = [row["dense int8"] / row["dense fp32"] for row in parts["throughput"]["texts_per_s"].values()]
    shown = sorted({f"{end:.1f}" for end in (min(times), max(times))}, key=float)
    kernel = KERNELS.get(parts["throughput"]["kernel"], parts["throughput"]["kernel"])
    words = f"of its float32 STS-B: {words}; with {kernel} dense has {' to '.join(shown)} times its float32 throughput"
    return "int8 keeps 95%", "yes" if min(f["of_fp32"] for f in found.values()) >= 0.95 else "no", words


def _batching(serving: Figures) -> tuple[str, str, str]:
    sustained = serving["runs"]["dense-fp32"]["parts"]["online"]["figures"]["sustained"]
    ours, static = sustained["dense-fp32"], max(r for name, r in sustained.items() if name.startswith("static-"))
    words = (
        f"{ours:.0f} requests a second of mixed lengths at a p99 below 100 ms, {static:.0f} with padded batches of a "
    )
    words += f"fixed size: {ours / static:.1f} times"
    if peer := sustained.get("infinity"):
        words += f"; infinity, whose batches are padded and not fixed, {peer:.0f}: {ours / peer:.1f} times"
    return "2.3 times throughput by continuous batching", "yes" if ours >= 2.3 * static else "no", words
