"""Pages, pictures and what stands between marks in READMEs are what the code makes of the JSON of the benchmarks."""

from copy import deepcopy

import pytest

from benchmarks.engine import verdicts as engine
from benchmarks.engine.__main__ import add_part, still_valid
from benchmarks.engine.verdicts import EQUAL, RESULTS, Duel, claims, duels, training_of
from benchmarks.harness import DOCS, EARLIER, Figures, routed_file, with_other
from benchmarks.int8 import pages as int8_pages
from benchmarks.readme import PAGES, READMES, filled, read
from benchmarks.selection.verdicts import BUDGETS, pages
from benchmarks.serving.verdicts import pages as serving_pages
from tests.projects import ROOT

STAGES = "8000 steps, 9 texts, then 1000 steps, 9 texts"


@pytest.mark.parametrize("name", PAGES)
def test_each_page_is_what_its_figures_make(name: str) -> None:
    for ending, content in PAGES[name](read(name)).items():
        assert (DOCS / f"{name}{ending}").read_text("utf-8") == content, "run: python -m benchmarks.readme"
        assert content.count("\n") <= 250


def test_every_page_has_a_writer() -> None:
    made = {f"{name}{ending}" for name in PAGES for ending in PAGES[name](read(name))}
    assert {path.name for path in DOCS.glob("*.md")} | {path.name for path in DOCS.glob("*.svg")} == made


@pytest.mark.parametrize("readme", READMES)
def test_readmes_have_the_figures(readme: str) -> None:
    assert filled(readme) == (ROOT / readme).read_text("utf-8"), "run: python -m benchmarks.readme"


@pytest.fixture
def figures() -> Figures:
    return read("engine")


def of(figures: Figures, control: str) -> Duel:
    return next(duel for duel in duels(figures) if duel.main and duel.control == control)


def test_a_control_meets_the_encoder_of_as_many_seconds(figures: Figures) -> None:
    for control in set(figures["controls"]) - {EQUAL}:
        figures["controls"][control]["notes"] = {**figures["controls"][EQUAL]["notes"], "control": control}
        assert of(figures, control).rival == EQUAL
        figures["controls"][control]["notes"] |= {"seconds": "98765", "steps": "4321"}
        longer = of(figures, control)
        assert (longer.rival, longer.rival_trained) == ("routed", training_of(figures, "routed"))
        assert longer.trained == "4,321 steps, 98,765 s"


@pytest.mark.parametrize(("trained", "result"), [("5100 steps", 2), (STAGES, 3)])
def test_a_control_that_was_trained_less_has_not_lost(figures: Figures, trained: str, result: int) -> None:
    for point in figures["parts"]["quality"]["figures"]["points"]:
        if point["encoder"] == "routed":
            point["cosine"]["mean"] = 1.0
            point["sts"] = {name: {**found, "of_parent": 1.0} for name, found in point["sts"].items()}
    figures["encoder"]["notes"]["trained"] = trained
    assert of(figures, "shallow").result == RESULTS[result]
    told = claims(figures, read("int8"), read("serving"))
    assert ("shallow (5,100 against 9,000) is behind it, with less training" in told) is (result == 3)


def test_figures_of_controls_stay_until_their_file_changes(figures: Figures) -> None:
    whole = deepcopy(figures["parts"]["quality"]["figures"])
    new = {**whole, "points": [p for p in whole["points"] if p["encoder"] in ("dense", "routed")]}
    figures["parts"]["quality"]["measured"] |= {"commit": "a" * 40, "kept": {"random": "b" * 40}}
    add_part(figures["parts"], "quality", new, figures["parts"]["latency"]["measured"])
    assert len(figures["parts"]["quality"]["figures"]["points"]) == len(whole["points"])
    shown = engine.pages(figures)[".md"]
    assert "random kept from commit `bbbbbbbbbbbb`" in shown
    assert "shallow kept from commit `aaaaaaaaaaaa`" in shown
    parts = still_valid(figures, {"random": {"sha256": "other"}})
    assert "random" not in {p["encoder"] for p in parts["quality"]["figures"]["points"]}
    assert "shallow" in {p["encoder"] for p in parts["quality"]["figures"]["points"]}


def test_a_training_step_in_the_other_precision_stays_beside_the_new_one(figures: Figures) -> None:
    parts, on = figures["parts"], figures["parts"]["latency"]["measured"]
    for precision, share in (("bfloat16", 0.66), ("float32", 0.38), ("float32", 0.39)):
        found = {key: value for key, value in parts["training"]["figures"].items() if key != "other"}
        full = {**found["over_full_depth_masked"], "as_distilled": share, "masked": 0.385}
        add_part(parts, "training", {**found, "precision": precision, "over_full_depth_masked": full}, on)
    shown = engine.pages(figures)[".md"]
    assert "A training step in float32:" in shown
    assert "A training step in bfloat16, on another machine: " in shown
    told = claims(figures, read("int8"), read("serving"))
    assert "39.0% in float32 (38.5% with nothing skipped)" in told
    assert "66.0% in bfloat16 (38.5% with nothing skipped)" in told


def test_a_part_of_an_earlier_file_of_the_encoder_says_so(figures: Figures) -> None:
    figures["parts"] = still_valid(figures, {})
    assert "earlier file" not in engine.pages(figures)[".md"]
    figures["encoder"]["sha256"] = "f" * 64
    assert engine.pages(figures)[".md"].count("**on an earlier file of the encoder**") == len(figures["parts"])


def test_int8_and_server_say_what_is_of_an_earlier_file(figures: Figures) -> None:
    int8, serving = read("int8"), read("serving")
    parts = [one for part in int8.values() for one in with_other(part)]
    runs = [(kind, run["parts"]) for kind, run in serving["runs"].items()]
    measured = [part["measured"] for _, run in [*runs, ("offline", serving["offline"]["cpu"])] for part in run.values()]
    routed = sum(len(run) for kind, run in runs if kind.startswith("routed")) + len(serving["offline"]["cpu"])
    for file, count in ((routed_file(), 0), ({"routed": "0" * 64}, 1)):
        for on in [*(part["environment"] for part in parts), *measured]:
            on |= file
        assert int8_pages(int8)[".md"].count(EARLIER) == count * len(parts)
        assert serving_pages(serving)[".md"].count(EARLIER) == count * routed
        assert (EARLIER in claims(figures, int8, serving)) is bool(count)


def test_the_claim_of_latency_names_the_lengths_at_which_it_holds(figures: Figures) -> None:
    int8 = read("int8")
    for tokens, row in int8["kernels"]["ms"].items():
        row["avx2 dense"], row["avx2 routed"] = 10.0, 9.0 if tokens == "64" else 1.0
    assert "int8 with AVX2 at 16, 128, 256 tokens" in claims(figures, int8, read("serving"))


def test_strategies_are_ranked_over_sets_and_budgets() -> None:
    scores = {"value": 0.7, "random": 0.6, "skactiveml falcun": 0.8}
    curve = {name: {str(b): {"mean": score, "sd": 0.01} for b in BUDGETS} for name, score in scores.items()}
    measured = read("selection")["parts"]["strategies"]["measured"]
    part = {"measured": measured, "seeds": 2, "curves": {"trec": curve, "subj": curve}}
    shown = pages({"parts": {"strategies": part}})[".md"]
    assert "mean accuracy at 16: `value` 0.7000, 0.1000 behind skactiveml falcun" in shown
    assert "mean rank: `value` 2.00 of 3; best is skactiveml falcun (1.00)" in shown
