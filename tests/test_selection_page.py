"""Strategies that were measured later stand beside the others on the page of the selection and say where."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks import selection
from benchmarks.selection_loop import BUDGETS
from benchmarks.selection_report import page


def part(accuracies: Mapping[str, float], processor: str) -> selection.Figures:
    """The part "strategies" as it is measured, each strategy with one accuracy."""
    measured = {
        "commit": f"{processor}-commit",
        "uncommitted_changes": False,
        "processor": f"{processor} (avx2)",
        "cores": 2,
        "command": "python -m benchmarks.selection",
        "load": [1.0, 1.0],
        "seconds": 1.0,
    }
    curves = {
        name: {key: {str(b): {"mean": score, "sd": 0.01} for b in BUDGETS} for key, score in accuracies.items()}
        for name in ("trec", "subj")
    }
    return {"measured": measured, "seeds": 2, "curves": curves}


def test_strategies_that_are_added_are_compared_with_all() -> None:
    joined = selection.beside(part({"value": 0.7, "random": 0.6}, "Xeon"), part({"skactiveml falcun": 0.8}, "EPYC"))

    words = page({"parts": {"strategies": joined}})

    assert "mean accuracy at 16: `value` 0.7000, 0.1000 behind skactiveml falcun" in words
    assert "mean rank: `value` 2.00 of 3; best is skactiveml falcun (1.00)" in words


def test_each_curve_says_what_it_was_measured_on() -> None:
    joined = selection.beside(part({"value": 0.7, "random": 0.6}, "Xeon"), part({"skactiveml falcun": 0.8}, "EPYC"))

    said = page({"parts": {"strategies": joined}}).splitlines()

    assert any("but for those added:" in line and "Xeon-commit" in line for line in said)
    assert any("added: skactiveml falcun:" in line and "EPYC-commit" in line for line in said)


def test_a_curve_that_was_there_stays_and_how_far_the_new_one_is_from_it_is_told() -> None:
    there = part({"value": 0.7, "random": 0.6}, "Xeon")

    joined = selection.beside(there, part({"badge": 0.65, "random": 0.61}, "EPYC"))

    assert joined["curves"]["trec"]["random"] == there["curves"]["trec"]["random"]
    words = page({"parts": {"strategies": joined}})
    assert "## Measured again on EPYC: accuracy less that above" in words
    assert "| random | +0.0100 | +0.0100 | +0.0100 | +0.0100 | +0.0100 | +0.0100 | +0.0100 (trec@16) |" in words


@pytest.mark.parametrize("asked", [["--seeds", "3"], ["--seeds", "2", "--sets", "trec"]])
def test_other_seeds_or_sets_are_not_put_beside(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "selection.json"
    kept = {"strategies": part({"value": 0.7, "random": 0.6}, "Xeon")}
    output.write_text(json.dumps({"benchmark": "selection", "parts": kept}), "utf-8")
    command = ["selection", "--add", "--strategies", "badge", "--output", str(output), *asked]
    monkeypatch.setattr("sys.argv", command if "--sets" in asked else [*command, "--sets", "trec,subj"])

    with pytest.raises(SystemExit):
        selection.main()

    assert "measured on the same sets with as many --seeds" in capsys.readouterr().err


@pytest.mark.parametrize(("clock", "said"), [(2.9, "met, 2.9%"), (3.1, "missed, 3.1%")])
def test_what_1_percent_costs_is_judged_by_the_clock(clock: float, said: str) -> None:
    def step(seconds: float, processor: float) -> selection.Figures:
        figures = {"seconds": {"all": seconds}, "processor_seconds": {"all": processor}}
        return {**figures, "index": "exact", "recall_at_10": 1.0, "peak_gib": 1.0}

    added = {"adding_1_percent": step(clock, 3.0), "adding_1_percent_after_a_batch": step(9.0, 9.0)}
    measured = part({}, "EPYC")["measured"]
    words = page({"parts": {"scale": {"measured": measured, "items": {"1000000": {**step(100.0, 200.0), **added}}}}})

    assert f"adding 1% under 3% of the whole by the clock: {said} (1.5% of the processor's seconds)" in words
    assert f"| 1% more: share of the whole by the clock | {clock}% |" in words
    assert "| 1% more: share of the processor's seconds | 1.5% |" in words
