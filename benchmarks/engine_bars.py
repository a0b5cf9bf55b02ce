"""The bars of the routed encoder, judged from the benchmark's JSON: what was asked, what was found, met or missed."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

EQUAL = "routed, equal training"
"""A control named `routed` is the routed encoder after the seconds of training that it notes: the rival of controls
that had as many."""
STS_SHARE, STS_STRETCH = 0.99, 0.997
COSINE, COSINE_STRETCH = 0.95, 0.98
LATENCY_BELOW = 0.45
OVER_DENSE = 1.9
STEP_SHARE = 0.4
EQUAL_TIME = 0.95
"""Times this close are equal."""
SHARE_MARGIN = 0.005
"""A budget of 30% is kept when the share rounds to it."""

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar.

    Attributes:
        part: of the benchmark that measures it.
        wanted: what it asks.
        found: what was measured.
        met: None when it was not measured.
    """

    part: str
    wanted: str
    found: str
    met: bool | None

    @property
    def verdict(self) -> str:
        """met, missed or not measured."""
        return "not measured" if self.met is None else "met" if self.met else "missed"


def parts_of(figures: Figures) -> dict[str, Figures]:
    """Figures of each part that was measured."""
    return {name: part["figures"] for name, part in figures["parts"].items()}


def point(part: Figures, encoder: str, active: float | None) -> Figures | None:
    """The figures of one encoder at one budget; None where it was not measured."""
    return next((p for p in part["points"] if p["encoder"] == encoder and p["active"] == active), None)


def lowest_sts(found: Figures) -> float:
    """Share of the parent's Spearman, on the set where it is lowest."""
    return min(figures["of_parent"] for figures in found["sts"].values())


def percent(value: float) -> str:
    """A share for people."""
    return f"{value:.1%}"


def bars(figures: Figures) -> list[Bar]:
    """All bars, in the order of the issue."""
    parts, active = parts_of(figures), figures["encoder"]["main_budget"]
    return [
        *_quality(parts.get("quality"), active),
        _latency(parts.get("latency"), active),
        _throughput(parts.get("throughput"), active),
        _controls(figures),
        _training(parts.get("training")),
        _bits(parts.get("bits")),
    ]


def _quality(part: Figures | None, active: float) -> list[Bar]:
    share = f"share of the layer parameters that works for a text on average: {active:.0%} or less, rounded"
    sts = f"Spearman at least {STS_SHARE:.0%} of the parent's (stretch {percent(STS_STRETCH)})"
    cosine = f"mean cosine to the parent's vectors on unseen text at least {COSINE:g} (stretch {COSINE_STRETCH:g})"
    if part is None:
        return [Bar("quality", wanted, "", None) for wanted in (share, sts, cosine)]
    found = point(part, "routed", active)
    assert found is not None, "every part measures the routed encoder"
    worst = min(found["sts"].items(), key=lambda item: item[1]["of_parent"])
    low, high = worst[1]["interval"]
    mean, recall = found["cosine"]["mean"], found["recall_10"]
    furthest = min(found["cosine_by_set"].items(), key=lambda item: item[1])
    return [
        Bar(
            "quality",
            share,
            f"{percent(found['layer_share'])} (weighted by tokens {percent(found['layer_share_by_token'])}), "
            f"{percent(found['all_share'])} of all parameters with the embedding table",
            found["layer_share"] < active + SHARE_MARGIN,
        ),
        Bar(
            "quality",
            sts,
            f"{worst[1]['spearman']:.4f}, {worst[1]['of_parent']:.2%} of the parent's on {worst[0]} (95% interval "
            f"{low:.2%} to {high:.2%}); stretch {_verdict(worst[1]['of_parent'] >= STS_STRETCH)}",
            worst[1]["of_parent"] >= STS_SHARE,
        ),
        Bar(
            "quality",
            cosine,
            f"{mean:.4f} on {part['distinct_texts']:,} texts (lowest set: {furthest[0]} {furthest[1]:.3f}); recall@10 "
            f"{recall['parent_index']:.3f} in the parent's index with this encoder's queries, "
            f"{recall['own_index']:.3f} the other way round; stretch {_verdict(mean >= COSINE_STRETCH)}",
            mean >= COSINE,
        ),
    ]


def _verdict(met: bool) -> str:
    return "met" if met else "missed"


def _latency(part: Figures | None, active: float) -> Bar:
    wanted = f"one text of 16, 64, 128, 256 tokens, p50 and p95: at least {LATENCY_BELOW:.0%} below the dense parent"
    if part is None:
        return Bar("latency", wanted, "", None)
    own = [p for p in part["points"] if p["encoder"] == "routed" and p["active"] == active]
    below = {p["tokens"]: (p["compute"]["below_dense_p50"], p["compute"]["below_dense_p95"]) for p in own}
    shown = ", ".join(f"{tokens} tokens {percent(p50)} and {percent(p95)}" for tokens, (p50, p95) in below.items())
    return Bar("latency", wanted, f"below by {shown}", min(min(pair) for pair in below.values()) >= LATENCY_BELOW)


def _throughput(part: Figures | None, active: float) -> Bar:
    wanted = f"batched throughput at least {OVER_DENSE:g} times the dense parent's"
    if part is None:
        return Bar("throughput", wanted, "", None)
    found = point(part, "routed", active)
    assert found is not None, "every part measures the routed encoder"
    shown = f"{found['over_dense']:.2f} times, {found['texts_per_s']:,.0f} texts per second"
    return Bar("throughput", wanted, shown, found["over_dense"] >= OVER_DENSE)


@dataclass(frozen=True, slots=True)
class Duel:
    """A control against the routed encoder at the control's own measured time.

    Attributes:
        control: its name and budget.
        main: this is its main budget, at which it is judged.
        trained: its training, in words; "" where its file does not say.
        ms: its measured CPU time per text.
        rival: the routed encoder that it is compared with.
        rival_trained: the training of that one.
        own: its share of the parent's Spearman, and its cosine.
        routed: the same of the routed encoder at that time, between its budgets; None where no budget is that fast.
    """

    control: str
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


def rival_of(figures: Figures, control: str, measured: Collection[str]) -> str:
    """The routed encoder that a control is compared with: the one trained for as many seconds, else the shipped one.

    Args:
        figures: of the benchmark.
        control: name of the control.
        measured: encoders with figures.
    """
    if EQUAL not in measured:
        return "routed"
    seconds = {name: figures["controls"][name]["notes"].get("seconds") for name in (EQUAL, control)}
    return EQUAL if seconds[EQUAL] == seconds[control] else "routed"


def duels(figures: Figures) -> list[Duel]:
    """Every control at each of its budgets against the routed frontier, after the same training where that is there."""
    parts = parts_of(figures)
    if "quality" not in parts or "throughput" not in parts:
        return []
    # CPU time, by its ratio to the dense parent's in the same round: other load hardly moves it.
    dense_ms = next(p["cpu_ms_per_text"] for p in parts["throughput"]["points"] if p["encoder"] == "dense")
    times = {(p["encoder"], p["active"]): dense_ms / p["over_dense_cpu"] for p in parts["throughput"]["points"]}
    found = {
        (p["encoder"], p["active"]): (lowest_sts(p), float(p["cosine"]["mean"]))
        for p in parts["quality"]["points"]
        if (p["encoder"], p["active"]) in times
    }
    measured = {name for name, _ in found}
    result: list[Duel] = []
    for key in found:
        if key[0] in ("dense", "routed", EQUAL):
            continue
        rival, routed = rival_of(figures, key[0], measured), None
        frontier = sorted((times[other], *found[other]) for other in found if other[0] == rival)
        if frontier and times[key] >= EQUAL_TIME * frontier[0][0]:
            at = [float(np.interp(times[key], [f[0] for f in frontier], [f[c] for f in frontier])) for c in (1, 2)]
            routed = (at[0], at[1])
        main = key[1] == figures["controls"][key[0]]["main_budget"]
        result.append(
            Duel(
                control=f"{key[0]} {key[1]:g}",
                main=main,
                trained=training_of(figures, key[0]),
                ms=times[key],
                rival=rival,
                rival_trained=training_of(figures, rival),
                own=found[key],
                routed=routed,
            )
        )
    return result


def _controls(figures: Figures) -> Bar:
    wanted = "controls lose at equal measured time, in Spearman and in cosine"
    fought = [duel for duel in duels(figures) if duel.main and duel.routed is not None]
    if not fought:
        return Bar("throughput", wanted, "", None)
    shown = [
        f"{duel.control} ({duel.trained}) {percent(duel.own[0])} and {duel.own[1]:.3f} against "
        f"{percent(duel.routed[0])} and {duel.routed[1]:.3f} ({duel.rival_trained})"
        for duel in fought
        if duel.routed is not None
    ]
    return Bar("throughput", wanted, "; ".join(shown), all(duel.lost for duel in fought))


def _training(part: Figures | None) -> Bar:
    wanted = (
        f"a training step with real skipping costs at most {STEP_SHARE:.0%} of the same step done densely and masked"
    )
    if part is None:
        return Bar("training", wanted, "", None)
    every = [part, *([part["other"]] if "other" in part else [])]
    shown = "; ".join(_step(one) for one in every)
    return Bar("training", wanted, shown, all(one["over_masked"]["skipped"] <= STEP_SHARE for one in every))


def _step(part: Figures) -> str:
    same, full = part["over_masked"], part["over_full_depth_masked"]
    words = f"in {part['precision']} {percent(same['skipped'])} of the same model's, {percent(full['skipped'])} of a"
    words += " model's with all layers"
    if "as_distilled" in same:
        words += f" (as distillation runs it, heads masked, {percent(same['as_distilled'])}"
        words += f" and {percent(full['as_distilled'])})"
    return words


def _bits(part: Figures | None) -> Bar:
    wanted = "10,000 texts in 50 random batchings have the same bits"
    if part is None:
        return Bar("bits", wanted, "", None)
    shown = f"{part['texts']:,} texts in {part['batchings']} batchings, {part['different']:,} vectors differ"
    enough = part["texts"] >= 10_000 and part["batchings"] >= 50
    if part["different"]:
        return Bar("bits", wanted, shown, False)
    return Bar("bits", wanted, shown if enough else f"{shown}; too few to tell", True if enough else None)


def of_part(judged: Sequence[Bar], part: str) -> list[Bar]:
    """Bars that one part of the benchmark measures."""
    return [bar for bar in judged if bar.part == part]
