"""Where one class has nearly all items, status, a run's end and the report say what accuracy does not."""

import html
import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from active.selection.exploration import FairScore
from flows.cli.main import run_command
from flows.cli.summary import print_summary
from flows.pipelines.stages import RunSummary
from flows.project.project import Project
from flows.report import narrative
from flows.report.facts import Point, read_facts
from flows.report.page import write_report
from flows.report.rare_classes import Matrix, finds_few, hides, missed_sentence, rare_sentence
from tests.flows.report_lake import CLASSES, full_lake, full_project
from warehouse import Append, Upsert

NAMES = ("ham", "spam", "<b>ad")
NEVER = [[396, 0, 0], [3, 0, 0], [1, 0, 0]]
SAID = (
    "Saying 'ham' of every item would be right on 0.990, so accuracy says little here. Of 4 items of another class the "
    "end model finds 0 (0%, 95% interval 0% to 49%); it says another class of none."
)


@pytest.mark.parametrize(
    ("confusion", "said", "few"),
    [
        ([], "", False),
        ([[40, 10], [5, 45]], "", False),
        ([[89, 0], [0, 11]], "", False),
        (NEVER, SAID, True),
        (
            [[393, 3], [1, 3]],
            "Saying 'ham' of every item would be right on 0.990, so accuracy says little here. Of 4 items of 'spam' "
            "the end model finds 3 (75%, 95% interval 30% to 95%); it says 'spam' of 6, and is right on 3.",
            False,
        ),
        ([[0, 0], [2, 98]], "All 100 scored items are 'spam', so accuracy says nothing of other classes.", False),
        ([[0, 0], [0, 1]], "The one scored item is 'spam', so accuracy says nothing of other classes.", False),
        ([[50, 0, 0], [0, 50, 0], [0, 0, 0]], "No scored item is '<b>ad': nothing is measured of it.", False),
    ],
)
def test_what_accuracy_hides_is_said(confusion: Matrix, said: str, few: bool) -> None:
    assert rare_sentence(confusion, NAMES) == said
    assert finds_few(confusion) == few
    assert hides(confusion) == said.startswith("Saying")


def test_of_many_classes_without_a_scored_item_some_are_named() -> None:
    def said(classes: str) -> str:
        return rare_sentence([[int(a == b < 2) for b in range(len(classes))] for a in range(len(classes))], classes)

    assert said("abcd") == "No scored item is 'c' or 'd': nothing is measured of these."
    for classes, more in (("abcdefgh", "1 other class"), ("abcdefghi", "2 other classes")):
        words = f"No scored item is 'c', 'd', 'e', 'f', 'g' or of {more}: nothing is measured of these."
        assert said(classes) == words


def test_a_run_status_and_the_report_say_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened, said = Project(full_project(tmp_path)), rare_sentence(NEVER, CLASSES)
    write_detail(opened, {"confusion": NEVER})
    print_summary(opened, RunSummary(passes=1, results=[]), seconds=1.0)
    shown = capsys.readouterr().out
    assert said in shown.replace("\n", " ")
    assert "# macro F1 on test" in shown
    assert "balanced = true under [end_model]" in shown
    page = write_report(opened.lake, tmp_path / "report.html", title="p", classes=CLASSES).read_text("utf-8")
    told = page.split('id="rare"')[1].split("</p>")[0]
    assert said.replace("'", "&#39;") in told.replace("<bdi>", "").replace("</bdi>", "")
    settings = tmp_path / "siftline.toml"
    settings.write_text(settings.read_text("utf-8") + "[end_model]\nbalanced = true\n", "utf-8")
    print_summary(Project(tmp_path), RunSummary(passes=1, results=[]), seconds=1.0)
    assert "balanced = true" not in capsys.readouterr().out, "it is so already"
    assert run_command(["status", "--project", str(tmp_path)]) == 0
    assert said in capsys.readouterr().out.replace("\n", " ")
    write_detail(opened, {"confusion": [[8, 2, 0], [2, 8, 0], [0, 0, 0]]})
    print_summary(opened, RunSummary(passes=1, results=[]), seconds=1.0)
    shown = capsys.readouterr().out
    assert f"No scored item is '{CLASSES[2]}'" in shown.replace("\n", " ")
    assert "macro F1" not in shown, "it is no other than accuracy where no class hides others"
    write_detail(opened, ["of", "somebody", "else"])
    assert run_command(["status", "--project", str(tmp_path)]) == 0
    assert said not in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize(
    ("by_class", "said"),
    [
        ([], ""),
        ([[3, 1, 2], [1, 3, 0], [2, 0, 0]], ""),
        ([[0, 0, 0], [0, 0, 1], [0, 0, 0]], ""),
        (
            [[9, 1, 0], [1, 15, 0], [0, 1, 4]],
            "On the scored items the end model hardly finds '<b>ad' (0 of 1 item) and 'spam' (1 of 16 items).",
        ),
        (
            [[9, 1, 0], [0, 8, 0], [0, 0, 4]],
            "On the scored items the end model hardly finds 'spam' (0 of 8 items). No scored item has '<b>ad': nothing "
            "is measured of it.",
        ),
        ([[9, 1, 0], [0, 0, 0], [0, 0, 4]], "No scored item has 'spam' or '<b>ad': nothing is measured of these."),
    ],
)
def test_of_several_classes_those_that_are_hardly_found_are_named(by_class: list[list[int]], said: str) -> None:
    assert missed_sentence(by_class, NAMES) == said


def test_a_run_and_status_name_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened = Project(full_project(tmp_path))
    settings = tmp_path / "siftline.toml"
    settings.write_text(settings.read_text("utf-8").replace("[project]", "[project]\nmulti_label = true"), "utf-8")
    with opened.lake.stage("ingest", version=1, inputs=(), params={"several": True}) as stage:
        stage.commit([Upsert("classes", stage.arrow("SELECT class_id, name, true AS multi_label FROM classes"))])
    for by_class, told in (([[9, 1, 0], [0, 16, 0], [8, 0, 0]], True), ([[9, 1, 0], [8, 8, 0], [8, 0, 0]], False)):
        write_detail(opened, {"by_class": by_class, "items": 40})
        print_summary(Project(tmp_path), RunSummary(passes=1, results=[]), seconds=1.0)
        shown = capsys.readouterr().out
        assert run_command(["status", "--project", str(tmp_path)]) == 0
        for of in (shown, capsys.readouterr().out):
            assert (f"hardly finds '{CLASSES[1]}' (0 of 16 items)." in of.replace("\n", " ")) == told
        assert ("# macro F1 on test" in shown) == told


def write_detail(opened: Project, detail: object) -> None:
    """What is counted beside all scores."""
    with opened.lake.stage("evaluate", version=1, inputs=(), params={"detail": str(detail)}) as stage:
        scored = stage.arrow("SELECT * EXCLUDE (run_id, committed_at) FROM metrics WHERE series = 'siftline'")
        rows = [{**row, "detail": json.dumps(detail)} for row in scored.to_pylist()]
        stage.commit([Upsert("metrics", pa.Table.from_pylist(rows))])


def test_labels_that_cannot_raise_accuracy_are_not_called_worth_nothing(tmp_path: Path) -> None:
    with full_lake(tmp_path / "lake") as lake, lake.read() as reader:
        facts = read_facts(reader)
    flat = [Point(labels=n, mean=0.99, low=0.99, high=0.99, spread=None, seeds=1) for n in (8, 16, 32, 64)]
    facts = replace(facts, series={"accuracy": {"siftline": flat}}, gold_labels=64, splits=[("train", 999)])
    assert "The next 100 labels are worth about 0.0" in narrative.outlook_sentence(facts)
    assert narrative.outlook_sentence(replace(facts, confusion=NEVER)) == ""


def test_no_share_of_what_all_labels_reach_where_one_class_hides_the_others(tmp_path: Path) -> None:
    """With 2% of a class the tile said 102%, where always saying the other class is right on 98%."""
    with full_lake(tmp_path / "lake") as lake, lake.read() as reader:
        facts = read_facts(reader)
    one, all_labels = (
        Point(labels=n, mean=m, low=m, high=m, spread=None, seeds=1) for n, m in ((16, 0.98), (99, 0.96))
    )
    facts = replace(facts, series={"accuracy": {"siftline": [one], "all_gold": [all_labels]}})
    assert (narrative.ceiling_share(facts) or ("",))[0] == "102%"
    assert narrative.ceiling_share(replace(facts, confusion=NEVER)) is None


def test_a_fair_sample_of_one_class_is_told() -> None:
    told = "22 have the same label, so this says little of other classes."
    assert told in narrative.fair_sentence(FairScore(22, 22, commonest=22))
    assert told not in narrative.fair_sentence(FairScore(22, 22, commonest=12))


def test_figures_from_before_a_class_was_added_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model that was scored without a class stands beside later ones, which have to find it too and seem worse."""
    opened = Project(full_project(tmp_path))
    told = "3 end models were scored before 'tariff' came in as a class. Compare later ones with each other only."

    def shown() -> tuple[str, str]:
        assert run_command(["status", "--project", str(tmp_path)]) == 0
        write_report(opened.lake, tmp_path / "report.html", title="t", classes=CLASSES, seed=0)
        page = html.unescape((tmp_path / "report.html").read_text("utf-8"))
        return capsys.readouterr().out.replace("\n", " "), page

    def score(model: str) -> None:
        with opened.lake.stage("evaluate", version=1, inputs=(), params={"model": model}) as stage:
            one = stage.arrow(
                "SELECT * EXCLUDE (run_id, committed_at) FROM metrics WHERE name = 'accuracy'"
            ).to_pylist()[0]
            scored = {**one, "series": "end_model", "detail": json.dumps({"model_id": model})}
            stage.commit([Append("metrics", pa.Table.from_pylist([scored]))])

    def add(number: int, name: str) -> None:
        added = pa.table({"class_id": pa.array([number], pa.int32()), "name": [name]})
        with opened.lake.stage("ingest", version=1, inputs=(), params={"added": name}) as stage:
            stage.commit([Upsert("classes", added)])

    add(len(CLASSES), "added before any was scored")
    for model in ("a", "b", "c"):
        score(model)
    assert all("came in as a class" not in of for of in shown())
    add(len(CLASSES) + 1, "tariff")
    score("d")
    assert all(told in of for of in shown())
    add(len(CLASSES) + 2, "quota")
    told = "4 end models were scored before 'tariff' and 'quota' came in as classes."
    assert all(told in of for of in shown())
