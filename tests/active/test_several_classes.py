"""Several classes for one item, from the value of a label to what people said: sets, none of them, and the refusals."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from active.annotation.service import Task
from active.label_studio.labeling_page import Page, fits, label_config, updated
from active.pool.pool import Pool
from active.quality.consensus import Opinions, accuracies, consensus, krippendorff_alpha, rates, read_opinions
from active.quality.relabeling import AskAgainConfig, ask_again
from active.queue.collect import collect
from active.queue.outbox import QueueConfig
from active.queue.push import push
from active.selection.stage import SelectConfig, check_multi_label, select
from active.strategies import SINGLE_LABEL, STRATEGIES
from active.task_folder.service import TaskFolder
from active.value.reasons import reasons
from active.value.stage import ValueConfig, conflict, estimate_values, narrowness
from features.ingest.stage import IngestConfig, ingest
from features.readers.source import SourceConfig
from flows.report.facts import read_facts
from tests.active.pools import CLASSES as SMALL_CLASSES
from tests.active.pools import sets, small_pool
from tests.active.test_ask_again import change_text, no_index
from tests.active.test_consensus import say
from tests.warehouse.test_sets_of_classes import several
from warehouse import Lake, SettingsError, Upsert

CLASSES = ("a", "b", "c")
CONFIG = QueueConfig(project="p", classes=CLASSES, multi_label=True)


def pool(predicted: Any, weak: Any = None, votes: Any = None) -> Pool:
    predicted = np.array(predicted, np.float64)
    n = len(predicted)
    nothing = np.zeros_like(predicted)
    none = np.zeros(0, np.int64)
    return Pool(
        item_ids=[f"i{row}" for row in range(n)],
        content_hashes=[""] * n,
        class_names=list(CLASSES),
        votes=nothing if votes is None else np.array(votes, np.float64),
        weak=nothing if weak is None else np.array(weak, np.float64),
        predicted=predicted,
        has_prediction=np.ones(n, np.bool_),
        labelled=none,
        gold=none,
        queued=none,
        multi_label=True,
    )


def test_the_doubt_about_an_item_is_that_about_its_least_sure_class() -> None:
    three = pool([[0.9, 0.45, 0.1], [0.99, 0.98, 0.02], [0.01, 0.02, 0.03]])
    np.testing.assert_allclose(three.question, [[0.55, 0.45], [0.02, 0.98], [0.97, 0.03]])
    np.testing.assert_allclose(narrowness(three.question), [0.9, 0.04, 0.06])


def test_votes_for_several_classes_are_no_conflict_and_models_conflict_class_by_class() -> None:
    found = conflict(
        pool(
            [[0.9, 0.9, 0.1], [0.9, 0.9, 0.1], [0.9, 0.9, 0.1]],
            weak=[[0.9, 0.9, 0.1], [0.9, 0.1, 0.1], [0.0, 0.0, 0.0]],
            votes=[[1, 1, 0], [1, 0, 0], [0, 0, 0]],
        )
    )
    assert found[0] == pytest.approx(0.0, abs=1e-9)
    assert found[1] > 0.3
    assert found[2] == 0.0


def test_the_reason_names_what_is_open() -> None:
    three = pool([[0.9, 0.55, 0.1], [0.99, 0.98, 0.02], [0.01, 0.02, 0.03]], votes=[[1, 1, 0], [0, 0, 0], [0, 0, 0]])
    zeros = np.zeros(3)
    said = reasons(three, np.zeros(3, np.int64), zeros, zeros, np.arange(3)).to_pylist()
    assert "2 functions vote a and b; the model is unsure whether b fits (55%)" in said[0]
    assert "the model says a and b" in said[1]
    assert "the model says that no class fits" in said[2]
    first = dataclasses.replace(three, untaught=np.array([2]))
    said = reasons(first, np.zeros(3, np.int64), zeros, zeros, np.arange(3)).to_pylist()
    assert "the model is unsure whether b fits (55%); it has not learned c yet" in said[0]
    assert "no class that the model has learned fits; it has not learned c yet" in said[2]
    many = dataclasses.replace(first, class_names=[*"abcde"], untaught=np.arange(1, 5), **{
        name: np.pad(getattr(first, name), ((0, 0), (0, 2))) for name in ("votes", "weak", "predicted")
    })  # fmt: skip
    said = reasons(many, np.zeros(3, np.int64), zeros, zeros, np.arange(3)).to_pylist()
    assert "it has not learned 4 of the 5 classes yet" in said[2]
    named = dataclasses.replace(three, class_names=["two-factor and log in", "b", "c"])
    said = reasons(named, np.zeros(3, np.int64), zeros, zeros, np.arange(3)).to_pylist()
    assert "2 functions vote 'two-factor and log in' and b;" in said[0]


def test_a_task_does_not_suggest_that_no_class_fits_while_the_model_has_not_learned_one(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a class that no vote and no label names the end model says no, of all items: people agreed with that."""
    vectors, has = sets(30)
    predicted = np.where(has & [True, True, False], 0.97, 0.02)
    small = small_pool(lake, tmp_path, vectors, predicted, votes={0: [0], 1: [1]}, multi_label=True)
    estimate_values(lake, small.index(), ValueConfig())
    monkeypatch.setattr("flows.report.facts.QUEUE_ROWS", 30)
    with lake.read() as reader:
        shown = [row["predictions"] for row in read_facts(reader).queue]
    assert {bool(said) for said in shown} == {True, False}
    assert [] not in shown, "nor does the report"
    select(lake, small.index(), SelectConfig(project="p", batch=12, budget=30, strategy="random"))
    folder = TaskFolder(tmp_path / "tasks", "p", multi_label=True)
    config = QueueConfig(project="p", classes=SMALL_CLASSES, multi_label=True)
    push(lake, folder, config)

    def asked() -> list[dict[str, Any]]:
        with lake.read() as reader:
            return reader.arrow(
                "SELECT q.*, p.class_ids FROM queue q JOIN latest_predictions p USING (item_id)"
            ).to_pylist()

    rows = asked()
    assert {bool(row["class_ids"]) for row in rows} == {True, False}
    for row in rows:
        assert row["predictions"] == (row["class_ids"] or None)
        assert (row["confidence"] > 0) == bool(row["class_ids"])
        assert "; it has not learned ship yet" in row["reason"]
        assert "that no class fits" not in row["reason"]
        task = folder.open_task(folder.task_id(row["item_id"]))
        assert task.suggested == (tuple(SMALL_CLASSES[c] for c in row["class_ids"]) or None)

    of_said = {bool(row["class_ids"]): str(row["item_id"]) for row in rows}
    nothing, something = of_said[False], of_said[True]
    again = AskAgainConfig(project="p", budget=30, second_opinion=0.0)

    def edited(text: str, item_id: str = nothing) -> dict[str, Any]:
        change_text(lake, item_id, text)
        ask_again(lake, no_index, again)
        push(lake, folder, config)
        return next(row for row in asked() if row["item_id"] == item_id)

    row = edited("another text")
    assert (row["predictions"], row["confidence"]) == (None, 0.0)
    row = edited("a text of something", something)
    assert row["predictions"] == row["class_ids"]
    say(lake, {("i00029", "ann"): [2]})
    assert edited("yet another text")["predictions"] == [], "all classes are learned, so none of them is a suggestion"
    estimate_values(lake, small.index(), ValueConfig())
    with lake.read() as reader:
        assert reader.scalar("SELECT count(*) FROM \"values\" WHERE reason LIKE '%not learned%' AND cycle = 2") == 0


def test_the_labeling_page_takes_several_and_an_old_page_is_changed() -> None:
    one, many = Page(classes=CLASSES), Page(classes=CLASSES, multi_label=True)
    assert 'choice="multiple"' in label_config(many)
    assert "required" not in label_config(many)
    assert fits(label_config(many), CLASSES, many)
    assert fits(label_config(one), CLASSES, one)
    assert not fits(label_config(one), CLASSES, many)
    assert not fits(label_config(many), CLASSES, one)
    own = label_config(one).replace("Which class fits?", "Our own words")
    changed = updated(own, many)
    assert fits(changed, CLASSES, many)
    assert "Our own words" in changed
    assert 'required="false"' in changed
    assert fits(updated(changed, one), CLASSES, one)
    noted = own.replace("<Choice ", "<!-- ask Ada before changing these --><Choice ", 1)
    changed = updated(noted, Page(classes=(*CLASSES, "another")))
    assert "ask Ada" in changed
    assert "Our own words" in changed
    assert fits(changed, (*CLASSES, "another"), Page(classes=(*CLASSES, "another")))


def test_a_page_that_nobody_redesigned_goes_by_its_classes_again() -> None:
    short = Page(classes=("a", "b"))
    wide = Page(classes=("a", "b", "Crash or data loss in the desktop application"), multi_label=True)
    for written in (label_config(short), label_config(short).replace("/>", " />").replace("  <", "<")):
        assert updated(written, wide) == label_config(wide), "its words, columns and keys are those of the new classes"
    noted = label_config(short).replace("<Choice ", "<!-- ask Ada --><Choice ", 1)
    assert "ask Ada" in updated(noted, wide)
    odd = label_config(short).replace('value="a"', 'value="$a"')
    assert fits(updated(odd, wide), wide.classes, wide)


def test_classes_that_stand_in_another_order_on_the_page_keep_it() -> None:
    ordered = label_config(Page(classes=("b", "a", "c")))
    now = Page(classes=("a", "b", "new", "other"))
    for written in (ordered, ordered.replace("Which class fits?", "Our own words")):
        assert re.findall(r'<Choice value="(\w+)"', updated(written, now)) == ["b", "a", "new", "other"]


def test_a_page_names_the_texts_that_stand_side_by_side_and_follows_other_names() -> None:
    pair = Page(classes=("a", "b"), texts=("question", 'the <"answer">\x00 in $us'))
    made = label_config(pair)
    assert (
        made.index('<Header value="question"')
        < made.index('value="$text"')
        < made.index("in us")
        < made.index("$text_2")
    )
    assert "in $us" not in made, "Label Studio takes it for a variable"
    assert fits(made, pair.classes, pair)
    swapped = dataclasses.replace(pair, texts=pair.texts[::-1])
    assert not fits(made, pair.classes, swapped)
    assert updated(made, swapped) == label_config(swapped)
    assert not fits(made, pair.classes, dataclasses.replace(pair, texts=("question",))), (
        "tasks have no second text any more"
    )
    assert "question" not in label_config(dataclasses.replace(pair, texts=("question",)))
    own = made.replace("Which class fits?", "Our own words")
    assert fits(own, pair.classes, swapped), "a person redesigned it"


@pytest.mark.parametrize(("suggested", "result"), [(("a", "c"), [["a", "c"]]), ((), []), (None, None)])
def test_a_task_suggests_a_set_or_none_of_the_classes(suggested: tuple[str, ...] | None, result: Any) -> None:
    task = Task(item_id="i", text="t", cycle=1, rank=1, value=0.5, reason="r", predictions=suggested, confidence=0.75)
    made = task.to_label_studio().get("predictions")
    if result is None:
        assert made is None
    else:
        assert [part["value"]["choices"] for part in made[0]["result"]] == result
        assert made[0]["score"] == 0.75


@pytest.fixture
def asked(lake: Lake, tmp_path: Path) -> TaskFolder:
    """Four items whose tasks are in the folder; the first three suggest a set, none of the classes, and nothing."""
    several(lake, *CLASSES, count=4)
    rows = [
        {
            "item_id": f"i{row:05d}",
            "project": "p",
            "state": "planned",
            "cycle": 1,
            "rank": row + 1,
            "value": 1 - row / 4,
            "reason": "because",
            "prediction": -1,
            "predictions": suggested,
            "confidence": 0.5,
            "content_hash": f"{row:064x}",
            "task_id": "",
        }
        for row, suggested in enumerate(([0, 2], [], None, None))
    ]
    with lake.stage("select", version=1, inputs=()) as stage:
        stage.commit([Upsert("queue", pa.Table.from_pylist(rows))])
    folder = TaskFolder(tmp_path / "tasks", "p", multi_label=True)
    push(lake, folder, CONFIG)
    return folder


def chosen(lake: Lake) -> dict[str, tuple[str, int, list[int] | None]]:
    with lake.read() as reader:
        rows = reader.rows("SELECT item_id, action, class_id, class_ids FROM current_annotations")
    return {item: (action, class_id, class_ids) for item, action, class_id, class_ids in rows}


def test_sets_none_skips_and_edits_come_back(lake: Lake, asked: TaskFolder) -> None:
    tasks = {path.stem: json.loads(path.read_text()) for path in asked.path.glob("*.json")}
    suggested: dict[str, Any] = {task["data"]["item_id"]: task.get("predictions") for task in tasks.values()}
    assert suggested["i00000"][0]["result"][0]["value"]["choices"] == ["a", "c"]
    assert suggested["i00001"][0]["result"] == []
    assert suggested["i00002"] is None
    assert "name all of them" in (asked.path / "HOW_TO_ANSWER.txt").read_text()

    for item, labels in (("i00000", ("c", "a")), ("i00001", ()), ("i00002", ("b",))):
        asked.annotate(asked.task_id(item), labels=labels, annotator="ann", seconds=1)
    path = asked.path / f"{asked.task_id('i00003')}.json"
    skipped = {"id": 7, "completed_by": "ann", "was_cancelled": True, "result": []}
    path.write_text(json.dumps({**json.loads(path.read_text()), "annotations": [skipped]}))
    assert collect(lake, asked, CONFIG).rows_written["annotations"] == 4
    assert chosen(lake) == {
        "i00000": ("labelled", -1, [0, 2]),
        "i00001": ("labelled", -1, []),
        "i00002": ("labelled", -1, [1]),
        "i00003": ("skipped", -1, None),
    }
    with lake.read() as reader:
        assert reader.rows("SELECT DISTINCT state FROM queue") == [("answered",)]
    assert not collect(lake, asked, CONFIG).committed, "the same answers are no news"

    asked.annotate(asked.task_id("i00001"), labels=("b", "a"), annotator="ann", seconds=1)
    assert collect(lake, asked, CONFIG).rows_written["annotations"] == 1
    assert chosen(lake)["i00001"] == ("labelled", -1, [0, 1])
    asked.annotate(asked.task_id("i00002"), labels=("b", "no such class"), annotator="ann", seconds=1)
    told = collect(lake, asked, CONFIG).detail["unknown labels"]
    assert told.startswith(f"'no such class' in task {asked.task_id('i00002')} (item 'i00002')")
    with lake.read() as reader:
        assert reader.scalar("SELECT count(*) FROM annotations") == 5


def test_agreement_and_skill_are_measured_class_by_class(lake: Lake) -> None:
    generator = np.random.default_rng(2)
    several(lake, *CLASSES, count=30)
    said: dict[tuple[str, str], list[int]] = {}
    has = generator.random((30, 3)) < 0.4
    for row in range(30):
        for who, wrong in (("ann", 0.0), ("ben", 0.05), ("cem", 0.4)):
            flipped = has[row] ^ (generator.random(3) < wrong)
            said[(f"i{row:05d}", who)] = np.flatnonzero(flipped).tolist()
    say(lake, said)
    result = consensus(lake)
    assert result.detail["items with several opinions"] == 30
    with lake.read() as reader:
        opinions = read_opinions(reader)
        skills = {
            who: (accuracy, compared)
            for who, accuracy, _, compared in reader.rows(
                "SELECT annotator, accuracy, weight, compared FROM annotator_skills"
            )
        }
        value, detail = reader.rows("SELECT value, detail FROM metrics WHERE name = 'krippendorff_alpha'")[0]
        gold = dict(reader.rows("SELECT item_id, class_ids FROM gold_labels"))
    by_class = json.loads(detail)["by_class"]
    units = [
        (row, int(c in said[(f"i{row:05d}", who)])) for c in (0,) for row in range(30) for who in ("ann", "ben", "cem")
    ]
    of_a = krippendorff_alpha(np.array([u for u, _ in units], np.int64), np.array([v for _, v in units], np.int64))
    assert by_class["a"] == pytest.approx(of_a, abs=1e-6)
    assert value == pytest.approx(np.mean(list(by_class.values())), abs=1e-6)
    assert skills["ann"][0] > skills["ben"][0] > 0.85 > 0.75 > skills["cem"][0]
    assert {compared for _, compared in skills.values()} == {30}
    assert len(accuracies(opinions, 2)) == 3
    right = np.mean([gold[f"i{row:05d}"] == np.flatnonzero(has[row]).tolist() for row in range(30)])
    assert right > 0.9, "the two who are right outweigh the third"
    assert not consensus(lake).committed


def overlooking(lake: Lake, count: int) -> tuple[np.ndarray[Any, Any], dict[tuple[str, str], list[int]]]:
    """Twenty rare classes: ann finds nine of ten of what is there, ben and cem three of ten; all seldom err."""
    generator = np.random.default_rng(0)
    several(lake, *(f"c{number:02d}" for number in range(20)), count=count)
    has = generator.random((count, 20)) < 0.1
    said: dict[tuple[str, str], list[int]] = {}
    for who, finds, makes_up in (("ann", 0.9, 0.01), ("ben", 0.3, 0.002), ("cem", 0.3, 0.002)):
        names = generator.random(has.shape) < np.where(has, finds, makes_up)
        said |= {(f"i{row:05d}", who): np.flatnonzero(names[row]).tolist() for row in range(count)}
    return has, said


def gold_sets(lake: Lake) -> dict[str, tuple[list[int], str, float]]:
    with lake.read() as reader:
        rows = reader.rows("SELECT item_id, class_ids, decided_by, confidence FROM gold_labels")
    return {item: (class_ids, by, confidence) for item, class_ids, by, confidence in rows}


def test_who_finds_rare_classes_is_not_outweighed_by_two_who_overlook_them(lake: Lake) -> None:
    """They are right on more than nine of ten questions too, since nearly all answers are no."""
    has, said = overlooking(lake, 300)
    alone = {("i00000", "ann"), ("i00000", "cem"), ("i00001", "ann"), ("i00001", "ben")}
    say(lake, {key: chosen for key, chosen in said.items() if key not in alone})
    before = gold_sets(lake)
    assert consensus(lake).committed
    assert not consensus(lake).committed
    after = gold_sets(lake)

    def f1(gold: dict[str, tuple[list[int], str, float]]) -> float:
        named = np.zeros_like(has)
        for row in range(300):
            named[row, gold[f"i{row:05d}"][0]] = True
        return float(2 * (named & has).sum() / (named.sum() + has.sum()))

    assert f1(before) < 0.7
    assert f1(after) > 0.85
    uncontested = {item for item, (_, by, _) in before.items() if by in ("single", "unanimous")}
    assert {"i00000", "i00001"} < uncontested
    assert len(uncontested) > 20
    assert all(after[item][:2] == before[item][:2] for item in uncontested), "what nobody contradicts stays"
    with lake.read() as reader:
        skills = {row[0]: row[1:] for row in reader.rows("SELECT annotator, sensitivity, weight_no FROM annotators")}
        opinions = read_opinions(reader)
    found = rates(opinions)
    assert skills["ann"][0] > 0.8 > 0.45 > max(skills["ben"][0], skills["cem"][0])
    assert skills["ann"][1] > 2 * max(skills["ben"][1], skills["cem"][1]), "a no of who overlooks says little"
    assert found.share == pytest.approx(0.1, abs=0.03)
    item = max((item for item in after if item > "i00001"), key=lambda item: -after[item][2])
    says = np.array([np.isin(range(20), said[item, who]) for who in opinions.annotators])
    sensitivity, specificity = found.sensitivity[:, None], found.specificity[:, None]
    yes = found.share * np.where(says, sensitivity, 1 - sensitivity).prod(axis=0)
    no = (1 - found.share) * np.where(says, 1 - specificity, specificity).prod(axis=0)
    sure = np.maximum(yes, no) / (yes + no)
    assert after[item][2] == pytest.approx(sure.min(), abs=2e-3), "the confidence is the posterior of the model"


def test_a_few_shared_items_leave_the_majority_its_say(lake: Lake) -> None:
    _, said = overlooking(lake, 3)
    say(lake, said)
    before = gold_sets(lake)
    assert consensus(lake).committed
    assert {item: one[0] for item, one in gold_sets(lake).items()} == {item: one[0] for item, one in before.items()}


def test_agreeing_on_what_two_items_have_not_makes_nobody_an_expert_and_no_class_is_too_few(lake: Lake) -> None:
    several(lake, "a", count=2)
    say(lake, {(f"i{row:05d}", who): [] for row in range(2) for who in ("ann", "ben")})
    assert consensus(lake).committed
    with lake.read() as reader:
        rows = reader.rows("SELECT DISTINCT sensitivity, weight, weight_no, compared FROM annotator_skills")
    assert rows[0][0] == pytest.approx(0.8, abs=0.02), "of a project of one class too: each answer is a yes or a no"
    assert min(rows[0][1:3]) >= 0.05
    assert rows[0][3] == 2
    two = np.array([0, 0])
    with pytest.raises(SettingsError, match=r"Answers by yes \(1\) or no \(0\) are int64 from 2 to 2"):
        rates(Opinions(annotators=["a", "b"], item=two, annotator=np.array([0, 1]), class_id=two + 2, items=1))
    with pytest.raises(SettingsError, match="no opinions to compare"):
        rates(Opinions(annotators=[], item=two[:0], annotator=two[:0], class_id=two[:0], items=0))


def test_strategies_that_need_one_class_per_item_are_refused() -> None:
    for name in STRATEGIES:
        if name in SINGLE_LABEL:
            with pytest.raises(
                SettingsError, match=f"'{name}' is not known to work .*multi_label.* use one of core-set"
            ):
                check_multi_label(name)
        else:
            check_multi_label(name)


def test_the_kind_of_project_changes_only_before_the_first_answer(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x", "id": "i00000"}\n')
    source = SourceConfig(name="s", path="a.jsonl", id="id")
    one = IngestConfig(root=tmp_path, classes=CLASSES, sources=(source,))
    many = IngestConfig(root=tmp_path, classes=CLASSES, sources=(source,), multi_label=True)

    def kinds() -> list[tuple[bool | None]]:
        with lake.read() as reader:
            return reader.rows("SELECT DISTINCT multi_label FROM classes")

    ingest(lake, one)
    assert kinds() == [(None,)]
    ingest(lake, many)
    assert kinds() == [(True,)]
    ingest(lake, one)
    assert kinds() == [(False,)]
    ingest(lake, many)
    say(lake, {("i00000", "ann"): [0]})
    with pytest.raises(SettingsError, match=r"multi_label under .project. is false, and the warehouse holds answers"):
        ingest(lake, one)
    assert kinds() == [(True,)]


def test_a_page_speaks_of_suggestions_where_there_are_some_and_follows_the_setting() -> None:
    with_some = Page(classes=("a", "b"), texts=("question", "answer"))
    with_none = dataclasses.replace(with_some, suggest=False)
    assert "the model's suggestion" in label_config(with_some)
    assert "suggestion" not in label_config(with_none)
    for before, now in ((with_some, with_none), (with_none, with_some)):
        made = label_config(before)
        assert fits(made, before.classes, before)
        assert not fits(made, before.classes, now)
        assert updated(made, now) == label_config(now)
        own = made.replace("Which class fits?", "Our own words")
        assert fits(own, before.classes, now), "a page that somebody redesigned stays"
