"""A control stands beside the routed encoder that had as much training, and the pages say how much each had."""

import json
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from benchmarks.claims import table
from benchmarks.engine import keep_other_precision, keep_points, parts_without
from benchmarks.engine_bars import EQUAL, Duel, duels, training_of
from benchmarks.engine_report import block, page
from tests.projects import ROOT


@pytest.fixture
def figures() -> dict[str, Any]:
    return _read("engine")


def _read(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "docs" / "benchmarks" / f"{name}.json").read_text("utf-8"))


def _with_longer_training(figures: dict[str, Any], control: str) -> dict[str, Any]:
    changed = deepcopy(figures)
    changed["controls"][control]["notes"] |= {"seconds": "98765", "steps": "4321"}
    return changed


def _main(figures: dict[str, Any], control: str) -> Duel:
    [found] = [duel for duel in duels(figures) if duel.main and duel.control.rsplit(" ", 1)[0] == control]
    return found


def test_the_rival_had_as_many_seconds(figures: dict[str, Any]) -> None:
    for control in {name for name in figures["controls"] if name != EQUAL}:
        equal = {**figures["controls"][EQUAL]["notes"], "control": control}
        figures["controls"][control]["notes"] = equal
        assert _main(figures, control).rival == EQUAL
        longer = _main(_with_longer_training(figures, control), control)
        assert (longer.rival, longer.rival_trained) == ("routed", training_of(figures, "routed"))
        assert longer.trained == "4,321 steps, 98,765 s"
        assert longer.routed != _main(figures, control).routed


def test_without_an_equally_trained_one_the_shipped_one_is_the_rival(figures: dict[str, Any]) -> None:
    for part in ("quality", "throughput"):
        points = figures["parts"][part]["figures"]["points"]
        figures["parts"][part]["figures"]["points"] = [p for p in points if p["encoder"] != EQUAL]
    assert {duel.rival for duel in duels(figures)} == {"routed"}


def test_training_is_as_the_file_says(figures: dict[str, Any]) -> None:
    [control, *_] = [name for name in figures["controls"] if name != EQUAL]
    for notes, words in (
        ({}, ""),
        ({"steps": "5100"}, "5,100 steps"),
        ({"steps": "5100", "seconds": "4740"}, "5,100 steps, 4,740 s"),
        ({"trained": "5100 steps"}, "5,100 steps"),
        ({"trained": "8000 steps, 1640368 texts, then 15000 steps, 9 texts"}, "8,000 steps, then 15,000 steps"),
    ):
        figures["controls"][control]["notes"] = notes
        assert training_of(figures, control) == words


def test_a_control_that_is_behind_after_less_training_has_not_lost(figures: dict[str, Any]) -> None:
    control = "shallow"
    for one in figures["parts"]["quality"]["figures"]["points"]:
        if one["encoder"] != "routed":
            continue
        one["cosine"]["mean"] = 1.0
        for found in one["sts"].values():
            found["of_parent"] = 1.0
    for trained, lost in (("5100 steps", True), ("5100 steps, 9 texts, then 1 steps", None)):
        figures["encoder"]["notes"]["trained"] = trained
        figures["controls"][control]["notes"] = {"steps": "5100"}
        assert _main(figures, control).lost is lost
        [row] = [line for line in page(figures).splitlines() if line.startswith("| shallow 1 | 5,100 steps")]
        assert row.endswith("| lost |" if lost else "| behind, trained less |")
        assert ("with less training" in table(figures, _read("int8"), _read("serving"))) is (lost is None)


def test_figures_of_a_replaced_control_go_and_the_others_stay(figures: dict[str, Any]) -> None:
    before = deepcopy(figures)
    parts = parts_without(figures, {EQUAL})
    assert figures == before
    assert parts.keys() == before["parts"].keys()
    for name, part in parts.items():
        old, new = (p["figures"].get("points", []) for p in (before["parts"][name], part))
        assert new == [p for p in old if p["encoder"] != EQUAL]
    assert len(parts["quality"]["figures"]["points"]) < len(before["parts"]["quality"]["figures"]["points"])
    assert page({**figures, "parts": parts})


@pytest.mark.parametrize("write", [page, block])
def test_every_place_of_the_figures_says_it(figures: dict[str, Any], write: Callable[[dict[str, Any]], str]) -> None:
    control = next(duel.control.rsplit(" ", 1)[0] for duel in duels(figures) if duel.main and duel.routed)
    longer = _with_longer_training(figures, control)
    assert "4,321 steps, 98,765 s" in write(longer)
    assert training_of(figures, "routed") in write(longer)


def test_the_claim_says_how_long_both_were_trained(figures: dict[str, Any]) -> None:
    figures["encoder"]["notes"]["trained"] = "8000 steps, 9 texts, then 1000 steps, 9 texts"
    longer = _with_longer_training(figures, "shallow")
    assert "shallow (4,321 against 9,000)" in table(longer, _read("int8"), _read("serving"))


def test_controls_that_were_not_measured_again_keep_their_figures_and_the_page_says_from_when(
    figures: dict[str, Any],
) -> None:
    earlier = figures["parts"]["quality"]
    found = {"points": [p for p in deepcopy(earlier)["figures"]["points"] if p["encoder"] in ("dense", "routed")]}
    earlier["measured"] |= {"commit": "a" * 40, "kept": {"random": "b" * 40}}
    kept = keep_points(found, earlier)
    assert kept == {name: ("b" if name == "random" else "a") * 40 for name in figures["controls"]}
    assert len(found["points"]) == len(earlier["figures"]["points"])
    earlier["measured"]["kept"] = kept
    assert "random kept from commit `bbbbbbbbbbbb`" in page(figures)
    assert keep_points({"points": []}, None) == keep_points({}, earlier) == {}


def test_a_part_of_an_earlier_file_says_so(figures: dict[str, Any]) -> None:
    for part in figures["parts"].values():
        part["measured"].pop("encoder", None)
    parts = parts_without(figures, ())
    assert "earlier file" not in page({**figures, "parts": parts})
    replaced = {**figures, "encoder": {**figures["encoder"], "sha256": "f" * 64}, "parts": parts}
    words = f"**on an earlier file of the encoder**, sha256 `{figures['encoder']['sha256'][:16]}`"
    assert page(replaced).count(words) == len(parts)


def test_a_training_step_in_the_other_precision_stays_beside_the_new_one(figures: dict[str, Any]) -> None:
    part = figures["parts"]["training"]
    for precision, share in (("bfloat16", 0.66), ("float32", 0.38), ("float32", 0.39)):
        found = {key: value for key, value in part["figures"].items() if key != "other"}
        found |= {
            "precision": precision,
            "over_full_depth_masked": {**found["over_full_depth_masked"], "as_distilled": share, "masked": 0.385},
        }
        keep_other_precision(found, part)
        part["figures"] = found
    assert part["figures"]["other"]["precision"] == "bfloat16"
    shown = page(figures)
    assert "A training step in float32:" in shown
    assert "A training step in bfloat16, on another machine: " in shown
    row = next(line for line in table(figures, _read("int8"), _read("serving")).splitlines() if "training cost" in line)
    assert "39.0% in float32 (38.5% with nothing skipped)" in row
    assert "66.0% in bfloat16 (38.5% with nothing skipped)" in row
    assert "| float32, by fewer layers and not by skipping |" in row
