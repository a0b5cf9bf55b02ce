"""The words of the report fit its figures: up, down and the same, one and several."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flows.report import narrative, plots, text
from flows.report.facts import Facts, Point, read_facts
from flows.report.page import neighbours, write_report
from tests.flows import report_lake
from warehouse import Upsert
from weak_labels.analysis.lf_report import FunctionFigures


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    with report_lake.full_lake(tmp_path_factory.mktemp("words") / "lake") as lake, lake.read() as reader:
        return read_facts(reader)


def point(labels: int, *values: float) -> Point:
    low, high = min(values), max(values)
    spread = 0.1 if len(values) > 1 else None
    return Point(labels=labels, mean=sum(values) / len(values), low=low, high=high, spread=spread, seeds=len(values))


def curve(facts: Facts, *, own: Sequence[float], rivals: Sequence[float] = ()) -> str:
    """The sentence for scores with weak labels alone and with 8 labels, beside random picks."""
    series = {"siftline": [point(labels, value) for labels, value in zip((0, 8), own, strict=True)]}
    if rivals:
        series["random"] = [point(8, *rivals)]
    return narrative.curve_sentence(replace(facts, series={name: series for name in facts.series}))


def test_how_a_curve_is_had_that_was_not_measured(facts: Facts) -> None:
    measured = {"siftline": facts.series["accuracy"]["siftline"]}
    how = dict(narrative.missing_series(replace(facts, series={"accuracy": measured})))
    ways = {what.split(" (")[0]: way for what, way in how.items()}
    for label in ("Random pick", "Random, no weak labels", "All labels"):  # they teach what only the file knows
        assert "with the labels of the train split too" in ways[label]
    for label in ("Same, no weak labels", "Label model alone"):
        assert "train" not in ways[label]
    assert ways["Label model alone"].startswith("write labeling functions")


@pytest.mark.parametrize(
    ("weak", "now", "words"),
    [
        (0.8, 0.9, "reaches 0.900, up from 0.800 with weak labels alone"),
        (0.9, 0.8, "reaches 0.800, down from 0.900 with weak labels alone"),
        (0.9, 0.9, "reaches 0.900, the same as 0.900 with weak labels alone"),
        (0.9001, 0.8999, "reaches 0.900, the same as 0.900 with weak labels alone"),
    ],
)
def test_where_a_score_came_from(facts: Facts, weak: float, now: float, words: str) -> None:
    assert words in curve(facts, own=(weak, now))


@pytest.mark.parametrize(
    ("by_chance", "words"),
    [
        (0.0712, "15 bins; a model that is as often right as it says has 0.071 on so many items)."),
        (None, "15 bins; 0 is a model that is as often right as it says)."),  # scored before that was told
    ],
)
def test_a_calibration_error_is_told_with_that_of_an_honest_model(
    facts: Facts, by_chance: float | None, words: str
) -> None:
    assert narrative.calibration_sentence(replace(facts, calibration_by_chance=by_chance)).endswith(words)


def test_the_widest_function_is_the_one_with_the_most_votes_of_the_split(facts: Facts) -> None:
    few = replace(facts.insight.functions[0], votes=2, applied_to=2, coverage=1.0, gold_votes=0, accuracy=None)
    few = replace(few, faults=0)
    most = replace(few, votes=30, applied_to=60, coverage=0.5)
    assert narrative.functions_sentence(replace(facts, insight=replace(facts.insight, functions=[few, most]))) == (
        "2 functions; the widest votes on 50% of the train split."
    )


def test_the_function_to_mend_first_is_named_with_the_reason(facts: Facts) -> None:
    def said(*functions: FunctionFigures) -> str:
        told = narrative.functions_sentence(replace(facts, insight=replace(facts.insight, functions=functions)))
        return told.partition("Mend ")[2]

    well = replace(
        facts.insight.functions[0], switched_off=False, faults=0, gold_votes=0, accuracy=None, accuracy_high=None
    )
    judged = replace(well, name="wrong", gold_votes=20, accuracy=0.1, accuracy_high=0.3, gain=-0.02)
    worse = replace(judged, name="worse", gold_votes=40)
    fails = replace(well, name="fails", faults=7)
    off = replace(well, name="off", faults=9, switched_off=True)
    assert said(well, replace(judged, gain=0.01), replace(judged, gain=None), replace(judged, accuracy_high=0.5)) == ""
    assert said(well, fails, replace(fails, faults=1)) == "'fails' first: it fails on 7 items."
    contradicted = "people contradict 36 of 40 votes, and without it the votes are right on no fewer labelled items"
    assert said(fails, judged, worse) == f"'worse' first: {contradicted}."
    assert said(fails, judged, off) == "'off' first: it is switched off, so that its votes do not count."


@pytest.mark.parametrize(
    ("now", "rivals", "words"),
    [
        (0.9, (0.7, 0.8), "above every one of 2 random picks of the same size (0.700 to 0.800)"),
        (0.6, (0.7, 0.8), "below every one of 2 random picks"),
        (0.8, (0.7, 0.8), "within the range of 2 random picks"),
        (0.8002, (0.7, 0.8), "within the range of 2 random picks"),
        (0.6998, (0.7, 0.8), "within the range of 2 random picks"),
        (0.9, (0.8,), "above the one random pick of the same size (0.800)"),
        (0.7, (0.8,), "below the one random pick"),
        (0.8001, (0.8,), "equal to the one random pick"),
    ],
)
def test_the_verdict_against_random_picks(facts: Facts, now: float, rivals: Sequence[float], words: str) -> None:
    assert f"that is {words}" in curve(facts, own=(0.5, now), rivals=rivals)


@pytest.mark.parametrize(("alone", "items", "harm"), [(0.75, 600, True), (0.68, 600, False), (0.75, 40, False)])
@pytest.mark.parametrize("rivals", [(), (0.6,), (0.6, 0.7)])
def test_functions_that_do_harm_are_told(
    facts: Facts, alone: float, items: int, harm: bool, rivals: Sequence[float]
) -> None:
    series = {"siftline": [point(0, 0.5), point(8, 0.66)], "gold_only": [point(8, alone)]}
    if rivals:
        series["random"] = [point(8, *rivals)]
    said = narrative.curve_sentence(replace(facts, scored_items=items, series=dict.fromkeys(facts.series, series)))
    assert ("The labeling functions do harm: without weak labels the same labels reach 0.750." in said) == harm


@pytest.mark.parametrize(("share", "aside"), [(None, False), (0.2, False), (0.19, True)])
def test_functions_that_the_end_model_leaves_aside_are_told(facts: Facts, share: float | None, aside: bool) -> None:
    said = narrative.functions_sentence(replace(facts, belief_in_weak_labels=share))
    assert ("the end model leaves what these taught aside. `siftline lf report`" in said) == aside


def test_texts_that_the_encoder_cannot_read_are_told(facts: Facts) -> None:
    assert narrative.unread_sentence(facts.unread) == narrative.unread_sentence(0.29) == ""
    assert "77% of their word pieces" in (said := narrative.unread_sentence(0.77))
    assert "`siftline engine distill --from`" in said


def test_an_encoder_that_was_tried_and_left_is_not_that_of_the_report(tmp_path: Path) -> None:
    with report_lake.full_lake(tmp_path / "lake") as lake:
        report_lake.add_vectors(lake, encoder="tried", unread=0.77)
        for encoder, unread in (("tried", 0.77), ("dense <b>", 0.0)):  # whose vectors are there since before
            with lake.stage("index", version=1, inputs=("vectors",), params={"encoder": encoder}) as stage:
                stage.commit(detail={"encoder_id": encoder})
            with lake.read() as reader:
                facts = read_facts(reader)
            assert facts.map is not None
            assert (facts.map.encoder_id, facts.unread) == (encoder, unread)


def test_figures_of_earlier_end_models_are_told(facts: Facts) -> None:
    series = {name: {"siftline": [point(8, 0.66)]} for name in facts.series}
    assert narrative.SCORED_BEFORE not in narrative.key_result(replace(facts, series=series, scored_before=False))
    assert narrative.key_result(replace(facts, series=series, scored_before=True)).endswith(
        f" {narrative.SCORED_BEFORE}"
    )


def f1(*scores: float | None) -> list[dict[str, object]]:
    return [{"name": f"c{n}", "f1": score} for n, score in enumerate(scores)]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (f1(0.9, 0.5), "found best is c0 (F1 0.900), and the one that is found worst c1 (0.500)"),
        (f1(0.9, 0.9001), "The 2 classes that occur are found equally well (F1 0.900)."),
        (f1(None, 0.7), "The F1 of c1 is 0.700; no other class"),
        (f1(None), "No item has a class"),
    ],
)
def test_the_best_and_the_worst_class_are_two(rows: list[dict[str, object]], words: str) -> None:
    assert words in narrative.by_class_sentence(rows)


def test_the_figures_in_the_sentences_are_what_they_are_called(facts: Facts) -> None:
    series = {"siftline": [point(16, 0.9)], "all_gold": [point(64, 0.96)]}
    told = replace(facts, series={name: series for name in facts.series}, scored_items=100)
    assert "n = 100. With that n, an accuracy of 0.900 has a 95% interval of 0.826 to 0.945." in (
        narrative.curve_caption(told, [])
    )
    assert "in train too" not in narrative.curve_caption(told, [])
    caption = narrative.curve_caption(replace(told, also_in_train=1), [])
    assert "n = 100. Of its texts 1 stands in train too, word for word. With that n" in caption
    assert narrative.ceiling_share(told) == ("94%", "with 25% of the labels")
    begun = {name: {**series, "siftline": [point(0, 0.84), point(16, 0.9)]} for name in facts.series}
    assert narrative.ceiling_share(replace(told, series=begun)) == ("94%", "with 25% of the labels, 88% with none")
    one = replace(facts.insight.functions[0], votes=9, faults=0)
    shares = ((8, 0.75), (2, 0.5), (0, None))
    insight = replace(facts.insight, functions=[replace(one, gold_votes=n, accuracy=share) for n, share in shares])
    assert narrative.functions_sentence(replace(facts, insight=insight, splits=[("train", 18), ("test", 6)])) == (
        "3 functions; the widest votes on 50% of the train split; where people answered, 7 of 10 votes are right (70%)."
    )


def test_no_more_labels_are_thought_of_than_items_are_left(facts: Facts) -> None:
    series = {"siftline": [point(labels, 0.8 + labels / 1000) for labels in (8, 16, 32, 64)]}
    curved = replace(facts, series={name: series for name in facts.series}, gold_labels=64)
    assert "The next 100 labels" in narrative.outlook_sentence(replace(curved, splits=[("train", 164), ("test", 99)]))
    assert narrative.outlook_sentence(replace(curved, splits=[("train", 163), ("test", 99)])) == ""


def test_one_is_not_several(facts: Facts) -> None:
    one = dict.fromkeys(("read", "stored", "duplicate"), 1)
    assert narrative.quality_sentence(replace(facts, ingests=[{**one, "quarantined": 0}])) == (
        "Of 1 record in the last read, 1 was stored, 0 quarantined and 1 was there already."
    )
    assert facts.values is not None
    assert narrative.values_sentence(replace(facts, values=replace(facts.values, items=1, selected=1))) == (
        "1 item was valued for cycle 3; 1 of them was selected by value."
    )
    assert "1 of 2 items is classified rightly" in narrative.confusion_sentence(
        replace(facts, confusion=[[1, 1], [0, 0]]), ["a", "b"]
    )
    assert narrative.hours_sentence(replace(facts, batches=[{"tasks": 1, "answered": 1, "skipped": 0}])).startswith(
        "1 of 1 task in 1 batch is answered"
    )


def test_mistakes_that_are_as_common_as_the_commonest_are_told(facts: Facts) -> None:
    def said(*matrix: Sequence[int]) -> str:
        return narrative.confusion_sentence(replace(facts, confusion=matrix), ["a", "b", "c"]).partition("; ")[2]

    assert said([1, 3, 0], [2, 1, 0], [0, 0, 1]) == "the commonest mistake is a read as b (3)."
    assert said([1, 3, 0], [3, 1, 0], [0, 0, 1]) == "the commonest mistake is a read as b (3), as often as b read as a."
    assert said([1, 3, 0], [3, 1, 0], [3, 0, 1]) == "the commonest mistake is a read as b (3), as often as 2 others."
    assert said([1, 0, 0], [0, 1, 0], [0, 0, 1]) == ""


def test_answers_to_a_task_that_waits_for_more_people_have_a_time_of_their_own(facts: Facts) -> None:
    said = narrative.hours_sentence(replace(facts, batches=[{"tasks": 12, "answered": 0, "skipped": 0}]))
    assert said == "0 of 12 tasks in 1 batch are answered; all answers took 3 min, 12.5 s per label."


def test_texts_that_are_equal_have_a_cosine_of_one(facts: Facts) -> None:
    """In 32 bits the product of a unit vector with itself may be 0.99999994."""
    assert facts.map is not None
    vectors = np.zeros_like(facts.map.vectors)
    vectors[:, 0] = np.nextafter(np.float32(1), np.float32(0))
    assert 0 < 1 - vectors[0] @ vectors[0] < 1e-6
    found = neighbours(replace(facts, map=replace(facts.map, vectors=vectors)))
    assert {text.score(near["cosine"]) for queued in found.values() for near in queued} == {"1.000"}


def test_a_figure_stays_behind_a_class_that_is_read_from_the_right(tmp_path: Path) -> None:
    with report_lake.full_lake(tmp_path / "lake") as lake:
        with lake.stage("ingest", version=1, inputs=(), params={"names": "new"}) as stage:
            renamed = stage.arrow(
                "SELECT class_id, CASE class_id WHEN 2 THEN 'شكوى' ELSE name END AS name FROM classes"
            )
            stage.commit([Upsert("classes", renamed)])
        page = write_report(lake, tmp_path / "page.html", title="T", classes=()).read_text("utf-8")
    assert "the commonest mistake is <bdi>ship &lt;b&gt;&amp;</bdi> read as <bdi>شكوى</bdi> (2)." in page
    assert "\u2068" not in page
    assert "⟨U+2068⟩" not in page


def test_classes_without_a_colour_on_the_map_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = "; grey: 1 smaller class; a click on a name shows its class alone."
    with report_lake.full_lake(tmp_path / "lake") as lake:
        page = write_report(lake, tmp_path / "report.html", title="t", classes=())
        assert "; grey:" not in page.read_text("utf-8")
        monkeypatch.setattr(plots, "STYLES", 2)
        assert told in write_report(lake, tmp_path / "report.html", title="t", classes=()).read_text("utf-8")
