"""Several annotators: agreement as published, skills that planted mistakes reveal, labels that follow from both."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from active.quality.consensus import Opinions, accuracies, consensus, krippendorff_alpha, read_opinions
from flows.report.facts import read_facts
from tests.warehouse.test_commit_is_atomic import classes, items
from warehouse import Append, Delete, Lake, SettingsError, Upsert

# Reliability data of Krippendorff (2011), Computing Krippendorff's Alpha-Reliability: four observers, 12 units.
OBSERVERS = (
    (1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None),
    (1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3),
    (None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None),
    (1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None),
)
TWO = ("aabbdcccedda", "babbbccceddd")  # the same paper, two observers, nominal, no missing data


def alpha(*observers: tuple[int | None, ...]) -> float | None:
    said = [(unit, value) for row in observers for unit, value in enumerate(row) if value is not None]
    return krippendorff_alpha(np.array([u for u, _ in said], np.int64), np.array([v for _, v in said], np.int64))


def test_alpha_equals_the_published_examples() -> None:
    assert alpha(*OBSERVERS) == pytest.approx(0.743, abs=5e-4)
    assert alpha(*(tuple(map(ord, row)) for row in TWO)) == pytest.approx(0.692, abs=5e-4)
    binary = ((0, 1, 0, 0, 0, 0, 0, 0, 1, 0), (1, 1, 1, 0, 0, 1, 0, 0, 0, 0))
    assert alpha(*binary) == pytest.approx(0.095, abs=5e-4)


def test_alpha_is_one_for_full_agreement_and_undefined_where_nothing_can_differ() -> None:
    assert alpha((1, 2, 3), (1, 2, 3)) == 1.0
    assert alpha((1, 1, 1), (1, 1, 1)) is None
    assert alpha((1, 2, 3)) is None
    assert alpha(()) is None
    assert alpha((1, 2), (2, 1)) < 0  # type: ignore[operator]


def test_answers_of_ones_own_are_refused_in_words() -> None:
    two = np.array([0, 0, 1, 1])
    for missing in ([0, 1, np.nan, 1], ["a", "b", None, "b"], ["a", "b", float("nan"), "b"]):
        with pytest.raises(SettingsError, match=r"Some answers are missing.*leave their rows out"):
            krippendorff_alpha(two, pd.Series(missing).to_numpy())
        with pytest.raises(SettingsError, match="Some answers are missing"):
            krippendorff_alpha(two, cast("Any", missing))  # NumPy makes of a list with NaN the text "nan", a class
    with pytest.raises(SettingsError, match="Some answers are missing"):
        krippendorff_alpha(two, cast("Any", [0.0, 1.0, float("nan"), 1.0]))
    assert krippendorff_alpha(two, cast("Any", list("aabb"))) == krippendorff_alpha(two, two)
    assert krippendorff_alpha(two, cast("Any", [0, np.int64(0), 1.0, 1])) == krippendorff_alpha(two, two)
    with pytest.raises(SettingsError, match=r"shapes \(4,\), \(3,\)"):
        krippendorff_alpha(two, two[:3])
    sound: dict[str, Any] = {"annotators": ["a", "b"], "item": two, "annotator": two % 2, "class_id": two, "items": 2}
    for wrong, message in (
        ({"item": np.array(["i1", "i1", "i2", "i2"])}, "Items of the opinions are <U2"),
        ({"annotators": ["a"]}, "Annotators of the opinions are int64 from 0 to 1; give whole numbers from 0 to 0"),
        ({"class_id": two - 1}, "Classes of the opinions are int64 from -1 to 0"),
        ({"class_id": two[:3]}, r"shapes \(4,\), \(4,\), \(3,\)"),
        ({"item": np.array([0, 0, 0, 1])}, "1 items have one opinion, the first is item 1"),
    ):
        given: dict[str, Any] = {**sound, **wrong}
        with pytest.raises(SettingsError, match=message):
            Opinions(**given)
    with pytest.raises(SettingsError, match=r"Classes of the opinions are int64 from 0 to 1; .* from 0 to 0"):
        accuracies(Opinions(**sound), 1)


def say(
    lake: Lake,
    answers: Mapping[tuple[str, str], int | Sequence[int]],
    *,
    step: int = 0,
    at_once: bool = False,
    task: str = "",
) -> None:
    """Annotators label items: (item, annotator) -> class, or classes where several may fit; a later key is later."""
    keys, chosen = list(answers), list(answers.values())
    places = [0 if at_once else place for place in range(len(keys))]
    at = pa.array([1_000_000 * step + place for place in places], pa.timestamp("us", "UTC"))
    rows = {
        "annotation_id": [f"{item}-{who}-{task}" for item, who in keys],
        "item_id": [item for item, _ in keys],
        "project": ["p"] * len(keys),
        "task_id": [task] * len(keys),
        "annotator": [who for _, who in keys],
        "action": ["labelled"] * len(keys),
        "class_id": pa.array([one if isinstance(one, int) else -1 for one in chosen], pa.int32()),
        "class_ids": pa.array([None if isinstance(one, int) else list(one) for one in chosen], pa.list_(pa.int32())),
        "simulated": [False] * len(keys),
        "created_at": at,
        "updated_at": at,
        "seconds": [4.0] * len(keys),
    }
    with lake.stage("collect", version=1, inputs=(), params={"step": step}) as stage:
        stage.commit([Append("annotations", pa.table(rows))])


@pytest.fixture
def crowd(lake: Lake) -> Lake:
    """Forty items of four classes: ann is right, ben nearly, cem and dan are wrong about half of the time."""
    generator = np.random.default_rng(3)
    answers: dict[tuple[str, str], int] = {}
    for row in range(40):
        for who, accuracy in (("ann", 1.0), ("ben", 0.95), ("cem", 0.5), ("dan", 0.45)):
            wrong = generator.random() > accuracy
            answers[(f"i{row:05d}", who)] = (row + (int(generator.integers(1, 4)) if wrong else 0)) % 4
    with lake.stage("ingest", version=1, inputs=()) as stage:
        stage.commit([Upsert("classes", classes("a", "b", "c", "d")), Upsert("items", items(40))])
    say(lake, answers)
    return lake


def gold(lake: Lake) -> dict[str, tuple[int, str, float]]:
    with lake.read() as reader:
        rows = reader.rows("SELECT item_id, class_id, decided_by, confidence FROM gold_labels")
    return {item: (class_id, by, confidence) for item, class_id, by, confidence in rows}


def test_skills_follow_from_the_answers_and_make_the_labels_better_than_the_majority(crowd: Lake) -> None:
    before = gold(crowd)
    assert {by for _, by, _ in before.values()} == {"unanimous", "majority"}
    result = consensus(crowd)
    assert result.rows_written == {"annotator_skills": 4, "metrics": 1}
    after = gold(crowd)
    right = [sum(said[f"i{row:05d}"][0] == row % 4 for row in range(40)) for said in (before, after)]
    assert right[1] >= 39 > right[0]
    assert {by for _, by, _ in after.values()} == {"unanimous", "skill"}
    with crowd.read() as reader:
        people = reader.rows("SELECT annotator, labelled, compared, accuracy, labels_per_hour FROM annotators")
        assert reader.scalar("SELECT count(*) FROM contested") == sum(by == "skill" for _, by, _ in after.values())
        sure = dict(reader.rows("SELECT item_id, confidence FROM training_set"))
        value = reader.scalar("SELECT value FROM metrics WHERE series = 'annotators'")
        agreement = dict(reader.rows("SELECT annotator, agreement FROM annotators"))
        said = {(item, who): one for item, who, one in reader.rows("SELECT item_id, annotator, class_id FROM opinions")}
    assert sure == {
        item: 1 if by == "unanimous" else pytest.approx(confidence) for item, (_, by, confidence) in after.items()
    }
    skill = {who: accuracy for who, _, _, accuracy, _ in people}
    assert min(skill["ann"], skill["ben"]) > 0.85
    assert max(skill["cem"], skill["dan"]) < 0.65
    assert {(n, shared, speed) for _, n, shared, _, speed in people} == {(40, 40, 900.0)}
    assert 0 < value < 1
    others = [
        said[item, who] == one for (item, by), one in said.items() if by == "ann" for who in ("ben", "cem", "dan")
    ]
    assert agreement["ann"] == pytest.approx(np.mean(others))


def test_twice_is_nothing_and_equal_answers_give_equal_rows(crowd: Lake) -> None:
    consensus(crowd)
    snapshot = crowd.snapshot()
    assert not consensus(crowd).committed
    assert crowd.snapshot() == snapshot
    with crowd.stage("withdrawn", version=1, inputs=()) as stage:
        stage.commit([Delete("annotations", pa.table({"annotator": ["dan"]}))])
    assert consensus(crowd).committed
    assert not consensus(crowd).committed
    with crowd.read() as reader:
        judged = reader.rows("SELECT annotator FROM annotator_skills ORDER BY annotator")
    assert judged == [("ann",), ("ben",), ("cem",)]


def test_the_label_follows_new_answers_at_once_and_nobody_counts_twice(crowd: Lake) -> None:
    consensus(crowd)
    say(crowd, {("i00001", who): 3 for who in ("ann", "ben")}, step=1)
    assert gold(crowd)["i00001"][0] == 3
    with crowd.stage("again", version=1, inputs=()) as stage:  # a second annotation of the same person
        row = stage.arrow(
            "SELECT * EXCLUDE (run_id, committed_at) FROM annotations WHERE item_id = 'i00002' AND annotator = 'cem'"
        ).to_pylist()[0]
        later = {"annotation_id": "another", "class_id": 3 - row["class_id"], "updated_at": datetime.now(UTC)}
        stage.commit([Append("annotations", pa.Table.from_pylist([{**row, **later}]))])
    with crowd.read() as reader:
        assert reader.scalar("SELECT max(annotations) FROM gold_labels") == 4
        assert reader.rows("SELECT class_id FROM opinions WHERE item_id = 'i00002' AND annotator = 'cem'") == [
            (later["class_id"],)
        ]


def test_the_confidence_is_the_posterior_of_the_estimated_model(crowd: Lake) -> None:
    consensus(crowd)
    with crowd.read() as reader:
        opinions = read_opinions(reader)
        weights = reader.rows("SELECT annotator, weight, weight_no, sensitivity FROM annotator_skills ORDER BY 1")
    found = dict(zip(opinions.annotators, accuracies(opinions, 4), strict=True))
    assert weights == [
        (who, pytest.approx(np.log(3 * right / (1 - right)), abs=1e-4), None, None) for who, right in found.items()
    ], "of one class an item each annotator has one weight"
    item, said = "i00007", {}
    with crowd.read() as reader:
        for who, class_id in reader.rows("SELECT annotator, class_id FROM opinions WHERE item_id = ?", [item]):
            said[who] = class_id
    likely = np.array(
        [np.prod([found[who] if k == said[who] else (1 - found[who]) / 3 for who in said]) for k in range(4)]
    )
    class_id, _, confidence = gold(crowd)[item]
    assert class_id == likely.argmax()
    assert confidence == pytest.approx(likely.max() / likely.sum(), abs=1e-4)


@pytest.mark.parametrize("later", [{}, {("i00002", "ann"): 0}], ids=["as many labels", "more labels"])
def test_an_alpha_that_is_defined_no_more_is_not_shown(lake: Lake, later: dict[tuple[str, str], int]) -> None:
    with lake.stage("ingest", version=1, inputs=()) as stage:
        stage.commit([Upsert("classes", classes("a", "b")), Upsert("items", items(3))])
    say(lake, {("i00000", "ann"): 0, ("i00000", "ben"): 1, ("i00001", "ann"): 0, ("i00001", "ben"): 0})
    assert consensus(lake).detail["krippendorff_alpha"] == 0
    say(lake, {("i00000", "ben"): 0, **later}, step=1)
    assert "krippendorff_alpha" not in consensus(lake).detail
    assert not consensus(lake).committed
    with lake.read() as reader:
        assert read_facts(reader).alpha is None


def ask(lake: Lake, why: str, rounds: Mapping[str, int]) -> None:
    """The last tasks of some items, which are asked again for a reason."""
    n = len(rounds)
    rows = {"item_id": list(rounds), "project": ["p"] * n, "round": pa.array(rounds.values(), pa.int32())}
    rows |= {"task_id": [f"t{number}" for number in rounds.values()], "content_hash": [""] * n, "why": [why] * n}
    with lake.stage("ask_again", version=1, inputs=(), params={"why": why}) as stage:
        stage.commit([Upsert("asked_before", pa.table(rows))])


def test_answers_that_other_answers_called_for_judge_nobody(lake: Lake) -> None:
    """Of labels that look wrong many are: who is right 19 times of 20 would seem to be right 13 times."""
    with lake.stage("ingest", version=1, inputs=()) as stage:
        stage.commit([Upsert("classes", classes("a", "b")), Upsert("items", items(40))])
    names = [f"i{row:05d}" for row in range(40)]
    say(lake, {(item, "ann"): 0 for item in names}, task="t1")
    ask(lake, "second_look", dict.fromkeys(names[:8], 1))
    say(lake, {(item, "ben"): 1 for item in names[:8]}, step=1, task="t2")
    assert not consensus(lake).committed, "nobody was compared on items that were not chosen for looking wrong"
    assert gold(lake)[names[0]][1] == "majority", "but the second look counts"
    before = {"metric_id": "annotators/krippendorff_alpha/train/40/0", "series": "annotators", "split": "train"}
    before |= {"name": "krippendorff_alpha", "labels": 40, "seed": 0, "value": -0.09, "detail": "{}"}
    with lake.stage("consensus", version=1, inputs=(), params={"of": "an earlier version"}) as stage:
        skill = {"annotator": ["ben"], "accuracy": [0.66], "weight": [0.66], "compared": pa.array([8], pa.int32())}
        stage.commit([Upsert("metrics", pa.Table.from_pylist([before])), Upsert("annotator_skills", pa.table(skill))])
    assert consensus(lake).committed, "what was estimated from them before goes"
    assert not consensus(lake).committed
    with lake.read() as reader:
        assert read_facts(reader).alpha is None
        assert reader.scalar("SELECT count(*) FROM annotator_skills") == 0

    say(lake, {(item, "ben"): row % 2 for row, item in enumerate(names[8:18])}, step=2, task="t1")
    fair = consensus(lake)
    assert fair.detail["items with several opinions"] == 10
    ask(lake, "disagreement", dict.fromkeys(names[9:18:2], 1))
    say(lake, {(item, "cem"): 0 for item in names[9:18:2]}, step=3, task="t2")
    say(lake, {(item, "ben"): 0 for item in names[9:18:2]}, step=4, task="t2")
    ask(lake, "edited", dict.fromkeys(names[9:18:2], 2))
    assert not consensus(lake).committed, "what ben said before he was asked again is what judges him"
    say(lake, {(item, "cem"): 0 for item in names[9:18:2]}, step=5, task="t3")
    assert consensus(lake).committed, "an edit is no doubt of an answer"
    with lake.read() as reader:
        assert reader.rows("SELECT annotator FROM annotator_skills ORDER BY 1") == [("ann",), ("ben",), ("cem",)]


def test_a_reviewer_has_the_last_word_and_judges_nobody(crowd: Lake) -> None:
    consensus(crowd)
    with crowd.read() as reader:
        skills = reader.rows("SELECT annotator, accuracy, weight FROM annotator_skills ORDER BY 1")
    unanimous = min(item for item, (_, by, _) in gold(crowd).items() if by == "unanimous")
    right = gold(crowd)[unanimous][0]
    wrong = (right + 1) % 4
    say(crowd, {(unanimous, "lead"): wrong, ("i00009", "deputy"): 0}, step=1)
    assert gold(crowd)[unanimous][0] == right, "four to one"

    result = consensus(crowd, ("lead", "deputy", "led"))
    assert result.detail["advice"].startswith("no answer is by led so far, of [annotate] reviewers.")
    assert result.detail["items with several opinions"] == 40
    assert not consensus(crowd, ("deputy", "led", "lead")).committed
    assert gold(crowd)[unanimous] == (wrong, "reviewer", 1.0)
    with crowd.read() as reader:
        judged = reader.rows(
            "SELECT annotator, accuracy, weight FROM annotator_skills WHERE accuracy IS NOT NULL ORDER BY annotator"
        )
    assert judged == skills, "who corrects what looks wrong says nothing of how right others are"

    say(crowd, {(unanimous, "deputy"): right}, step=2)
    assert gold(crowd)[unanimous][:2] == (right, "reviewer"), "of two reviewers the others choose"
    assert consensus(crowd).committed
    assert gold(crowd)[unanimous][:2] == (right, "skill")
    assert {by for _, by, _ in gold(crowd).values()} == {"unanimous", "skill"}


def test_the_confidence_of_many_opinions_is_a_number(lake: Lake) -> None:
    """Each of weight ln(4): together more than the exponent of a double."""
    with lake.stage("ingest", version=1, inputs=()) as stage:
        stage.commit([Upsert("classes", classes("a", "b")), Upsert("items", items(1))])
    say(lake, {("i00000", f"p{n}"): int(n % 10 == 0) for n in range(1000)})
    assert gold(lake)["i00000"] == (0, "majority", 1.0)


def test_with_one_annotator_nobody_is_judged_and_the_label_stands(lake: Lake) -> None:
    with lake.stage("ingest", version=1, inputs=()) as stage:
        stage.commit([Upsert("classes", classes("a", "b")), Upsert("items", items(3))])
    say(lake, {("i00000", "ann"): 1, ("i00001", "ann"): 0})
    assert not consensus(lake).committed
    assert gold(lake) == {"i00000": (1, "single", 0.8), "i00001": (0, "single", 0.8)}


def test_who_is_not_known_is_nobody_in_particular(lake: Lake) -> None:
    with lake.stage("ingest", version=1, inputs=()) as stage:
        stage.commit([Upsert("classes", classes("a", "b")), Upsert("items", items(1))])
    say(lake, {("i00000", "unknown"): 0})
    with lake.stage("again", version=1, inputs=()) as stage:
        row = stage.arrow("SELECT * EXCLUDE (run_id, committed_at) FROM annotations").to_pylist()[0]
        later = {"annotation_id": "another", "class_id": 1, "updated_at": datetime.now(UTC)}
        stage.commit([Append("annotations", pa.Table.from_pylist([{**row, **later}]))])
    with lake.read() as reader:
        found = reader.rows("SELECT annotations, class_id FROM gold_labels")
    assert found == [(2, 1)], "two people, and on a tie the latest answer"


def test_ties_of_answers_of_one_time_make_no_class_larger(lake: Lake) -> None:
    with lake.stage("ingest", version=1, inputs=()) as stage:
        stage.commit([Upsert("classes", classes("a", "b", "c")), Upsert("items", items(300))])
    # As in task files that people wrote without a time, where both answers have that of the file.
    answers = {(f"i{row:05d}", "ann"): row % 3 for row in range(300)}
    say(lake, answers | {(item, "ben"): (said + 1) % 3 for (item, _), said in answers.items()}, at_once=True)
    found = gold(lake)
    sizes = np.bincount([class_id for class_id, _, _ in found.values()], minlength=3)
    assert sizes.min() > 70, f"each class is in 200 of the 300 ties, so it should get about 100, not {sizes.tolist()}"
    assert gold(lake) == found, "the same at every reading"


def test_an_annotator_who_is_mostly_wrong_still_does_not_vote_against_himself(lake: Lake) -> None:
    with lake.stage("ingest", version=1, inputs=()) as stage:
        stage.commit([Upsert("classes", classes("a", "b")), Upsert("items", items(31))])
    answers = {(f"i{row:05d}", who): row % 2 for row in range(30) for who in ("ann", "ben")}
    answers |= {(f"i{row:05d}", "cem"): 1 - row % 2 for row in range(30)}
    say(lake, {**answers, ("i00030", "cem"): 1})
    consensus(lake)
    with lake.read() as reader:
        assert reader.scalar("SELECT accuracy FROM annotator_skills WHERE annotator = 'cem'") < 0.3
        assert reader.scalar("SELECT min(weight) FROM annotator_skills") == 0.05
    assert gold(lake)["i00030"][0] == 1
