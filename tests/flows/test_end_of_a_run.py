"""What the end of a run says: figures, whom they are of, and what to do next."""

import shutil
from pathlib import Path
from statistics import mean, stdev

import pyarrow as pa
import pytest

from active.selection.stage import NOTHING_LEFT
from flows.cli.main import run_command
from flows.cli.summary import print_summary
from flows.pipelines.stages import RunSummary
from flows.project.project import Project
from tests.flows.report_lake import LABELS, SEEDS, accuracy, full_project
from warehouse import Append, Delete, StageResult, Upsert
from weak_labels.analysis.lf_report import lf_report


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return full_project(tmp_path_factory.mktemp("commands"))


def ask(project: Path, *arguments: str) -> int:
    return run_command([*arguments, "--project", str(project)])


def test_several_tasks_wait_and_one_task_waits(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = Project(shutil.copytree(project, tmp_path / "copy"))
    print_summary(opened, RunSummary(passes=1, results=[]), seconds=1.0)
    assert "\n4 tasks wait for annotators" in capsys.readouterr().out
    with opened.lake.stage("collect", version=1, inputs=(), params={"but": "one"}) as stage:
        open_tasks = stage.arrow(
            "SELECT * EXCLUDE (run_id, committed_at) REPLACE "
            "(if(row_number() OVER (ORDER BY rank) > 3, 'planned', 'answered') AS state) FROM queue "
            "WHERE state = 'confirmed'"
        )
        stage.commit([Upsert("queue", open_tasks)])
    print_summary(opened, RunSummary(passes=1, results=[]), seconds=1.0)
    assert "\n1 task waits for annotators" in capsys.readouterr().out
    assert ask(opened.root, "status") == 0
    then = f"1 task waits for annotators.\nWhen they have answered: siftline run --project {opened.root}\n"
    assert capsys.readouterr().out.endswith(then)


def test_each_run_and_the_status_say_which_functions_are_switched_off(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = Project(shutil.copytree(project, tmp_path / "copy"))
    off = {"item_id": "", "lf_name": "forgot", "lf_version": "1", "fault": "switched_off", "detail": "None"}
    with opened.lake.stage("vote", version=1, inputs=(), params={}) as stage:
        stage.commit([Delete("lf_faults", stage.arrow("SELECT DISTINCT lf_name FROM lf_faults"))])
    print_summary(opened, RunSummary(passes=1, results=[]), seconds=1.0)
    assert ask(opened.root, "status") == 0
    assert "Switched off" not in capsys.readouterr().out
    with opened.lake.stage("vote", version=1, inputs=(), params={"off": True}) as stage:
        stage.commit([Upsert("lf_faults", pa.Table.from_pylist([off]))])
    line = "Switched off, so that its votes do not count: 'forgot'. To see why: siftline lf report --project"
    for committed in (True, False):
        voted = StageResult(stage="vote", token="", committed=committed, detail={})
        print_summary(opened, RunSummary(passes=1, results=[voted]), seconds=1.0)
        assert (line in capsys.readouterr().out) != committed
    assert ask(opened.root, "status") == 0
    assert line in capsys.readouterr().out


def test_a_run_says_why_nobody_is_asked_any_more(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = Project(shutil.copytree(project, tmp_path / "copy"))
    nothing = StageResult(stage="select", token="", committed=False, detail={"reason": NOTHING_LEFT})
    unscored = StageResult(stage="evaluate", token="", committed=False, detail={"unscored": "no item of split 'test'"})
    for results, said in (([], ""), ([nothing, unscored], "No item of the train split is left")):
        print_summary(opened, RunSummary(passes=1, results=results), seconds=1.0)
        shown = capsys.readouterr().out
        assert said in shown
        assert ("is left" in shown) == ("Nothing is scored: no item of split 'test'" in shown) == bool(said)
    path = opened.root / "siftline.toml"
    path.write_text(path.read_text("utf-8") + "[select]\nbudget = 1\n", "utf-8")
    opened = Project(opened.root)
    print_summary(opened, RunSummary(passes=1, results=[]), seconds=1.0)
    assert "is spent" not in capsys.readouterr().out, "tasks wait"
    with opened.lake.stage("collect", version=1, inputs=(), params={"all": "answered"}) as stage:
        stage.commit(
            [
                Upsert(
                    "queue",
                    stage.arrow("SELECT * EXCLUDE (run_id, committed_at) REPLACE ('answered' AS state) FROM queue"),
                )
            ]
        )
    print_summary(opened, RunSummary(passes=1, results=[]), seconds=1.0)
    assert "The budget of 1 label is spent. To ask for more, raise budget" in capsys.readouterr().out


def test_a_number_of_labels_at_which_only_votes_were_scored_is_no_row(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = Project(shutil.copytree(project, tmp_path / "copy"))
    with opened.lake.stage("evaluate", version=1, inputs=(), params={"no": "end model"}) as stage:
        votes = "SELECT * EXCLUDE (run_id, committed_at) REPLACE ('votes' AS metric_id, 7 AS labels) FROM metrics"
        stage.commit([Upsert("metrics", stage.arrow(f"{votes} WHERE series = 'label_model' AND name = 'accuracy'"))])
    print_summary(opened, RunSummary(passes=1, results=[]), seconds=1.0)
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines() if "\t" in line]
    assert [row[0] for row in rows] == ["labels", *map(str, LABELS)], "no row of dashes"


def test_where_every_item_was_asked_about_all_commands_say_so(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`select` then repeats what it told when it last queued some, as nothing that it reads has changed."""
    opened = Project(shutil.copytree(project, tmp_path / "copy"))
    with opened.lake.stage("collect", version=1, inputs=(), params={"all": "answered"}) as stage:
        queue = stage.arrow("SELECT * EXCLUDE (run_id, committed_at) REPLACE ('answered' AS state) FROM queue")
        stage.commit([Upsert("queue", queue)])
    for ended in (False, True):
        if ended:
            with opened.lake.stage("ingest", version=1, inputs=(), params={"but": "the asked"}) as stage:
                others = stage.arrow("SELECT item_id FROM items ANTI JOIN queue USING (item_id) WHERE split = 'train'")
                stage.commit([Delete("items", others)])
        print_summary(opened, RunSummary(passes=1, results=[]), seconds=1.0)
        for command in ("status", "queue"):
            assert ask(opened.root, command) == 0
        said = capsys.readouterr()
        assert said.out.count("Every item of the train split was asked about or has a label.") == (3 if ended else 0)
        assert ("No task waits. The next ones come with: siftline run" in said.err) != ended
        assert "next tasks" not in said.out, "a table without rows"


@pytest.mark.parametrize(
    ("labels", "said"),
    [(0, ""), (1, "1 of the gold labels is of an item outside"), (20, "20 of the gold labels are of items outside")],
)
def test_a_run_says_how_many_labels_no_model_learns_from(
    project: Path, capsys: pytest.CaptureFixture[str], labels: int, said: str
) -> None:
    result = StageResult(stage="end_model", token="", committed=False, detail={"gold_labels_left_out": labels})
    print_summary(Project(project), RunSummary(passes=1, results=[result]), seconds=1.0)
    shown = capsys.readouterr().out
    assert said in shown
    assert ("outside the train split" in shown) == bool(labels)


def test_labels_from_before_a_class_are_told(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a class that comes up late, records have been answered as others; nobody said so, nor how to find them."""
    opened = Project(shutil.copytree(project, tmp_path / "copy"))
    lake, settings = opened.lake, opened.root / "siftline.toml"

    def told(name: str, row: str) -> str:
        with lake.stage("ingest", version=1, inputs=(), params={"class": name}) as stage:
            stage.commit([Upsert("classes", stage.arrow(f"SELECT {row}"))])
        settings.write_text(settings.read_text("utf-8").replace('"]', f'", "{name}"]'), "utf-8")
        print_summary(Project(opened.root), RunSummary(passes=1, results=[]), seconds=1.0)
        return capsys.readouterr().out

    shown = told("one", "3::INTEGER AS class_id, 'one' AS name")
    assert "16 labels from before 'one' was a class may be of it. Once 5 records have it, siftline suspects" in shown
    with lake.stage("collect", version=1, inputs=(), params={"first": "one"}) as stage:
        changed = "3 AS class_id, updated_at + INTERVAL 1 SECOND AS updated_at"
        first = "FROM current_annotations WHERE item_id = (SELECT min(item_id) FROM gold_labels)"
        said = stage.arrow(f"SELECT * EXCLUDE (run_id, committed_at) REPLACE ({changed}) {first}")
        stage.commit([Append("annotations", said)])
    print_summary(Project(opened.root), RunSummary(passes=1, results=[]), seconds=1.0)
    assert "15 labels from before 'one' was" in capsys.readouterr().out
    shown = told("two", "4::INTEGER AS class_id, 'two' AS name")
    assert "16 labels from before 'one' or 'two' was a class may be of it" in shown
    with lake.stage("collect", version=1, inputs=(), params={"of": "one"}) as stage:
        changed = "3 AS class_id, updated_at + INTERVAL 1 SECOND AS updated_at"
        said = stage.arrow(f"SELECT * EXCLUDE (run_id, committed_at) REPLACE ({changed}) FROM current_annotations")
        stage.commit([Append("annotations", said)])
    shown = told("three", "5::INTEGER AS class_id, 'three' AS name")
    assert "from before 'two' or 'three' was a class" in shown, "five labels tell what 'one' is"
    settings.write_text(settings.read_text("utf-8").replace("[project]", "[project]\nmulti_label = true"), "utf-8")
    with lake.stage("ingest", version=1, inputs=(), params={"several": True}) as stage:
        stage.commit([Upsert("classes", stage.arrow("SELECT class_id, name, true AS multi_label FROM classes"))])
    shown = told("four", "6::INTEGER AS class_id, 'four' AS name, true AS multi_label")
    assert "16 labels from before 'four' was a class count as a no to it" in shown


def test_labels_that_are_all_alike_or_against_the_functions_are_told(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = Project(shutil.copytree(project, tmp_path / "copy"))
    with opened.lake.stage("collect", version=1, inputs=(), params={"one": "class"}) as stage:
        others = stage.arrow("SELECT item_id FROM gold_labels WHERE label <> 'grain'")
        stage.commit([Delete("annotations", others)])
    print_summary(opened, RunSummary(passes=1, results=[]), seconds=1.0)
    shown = capsys.readouterr().out
    assert "all labels are" not in shown, "functions have taught the end model"
    assert "Neither a vote" not in shown
    with opened.lake.stage("vote", version=1, inputs=(), params={"no": "trade"}) as stage:
        stage.commit([Delete("lf_votes", stage.arrow("SELECT item_id, lf_name FROM lf_votes WHERE vote = 2"))])
    print_summary(opened, RunSummary(passes=1, results=[]), seconds=1.0)
    untaught = "Neither a vote nor a label says 'trade', so the end model does not learn it. Edit "
    assert untaught in capsys.readouterr().out
    with opened.lake.stage("vote", version=1, inputs=(), params={"one": "wrong"}) as stage:
        votes = stage.arrow(
            "SELECT item_id, 'thanks' AS lf_name, '1' AS lf_version, 'h' AS input_hash, 1::SMALLINT AS vote "
            "FROM gold_labels"
        )
        stage.commit([Upsert("lf_votes", votes)])
    print_summary(opened, RunSummary(passes=1, results=[]), seconds=1.0)
    shown = capsys.readouterr().out
    assert "People contradict most votes of 'thanks' (6 of 6; the end model contradicts 100% of all)" in shown
    assert "of all). Look at them: siftline lf report --project" in shown
    assert "leaves what these taught aside" not in shown
    with opened.lake.stage("vote", version=1, inputs=(), params={"many": "wrong"}) as stage:
        votes = stage.arrow(
            "SELECT item_id, 'thanks ' || n AS lf_name, '1' AS lf_version, 'h' AS input_hash, 1::SMALLINT AS vote "
            "FROM gold_labels, range(20) r(n)"
        )
        stage.commit([Upsert("lf_votes", votes)])
    print_summary(opened, RunSummary(passes=1, results=[]), seconds=1.0)
    told = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("People contradict"))
    assert told.count("thanks") == 5
    assert "of all) and 16 other functions. Look at them: " in told
    with opened.lake.stage("end_model", version=1, inputs=(), params={"share": "small"}) as stage:
        last = stage.arrow(
            """SELECT * EXCLUDE (run_id, committed_at)
               REPLACE (sequence + 1 AS sequence, 'other' AS model_id, '{"belief_in_weak_labels": 0.05}' AS detail)
               FROM models WHERE stage = 'end_model' ORDER BY sequence DESC LIMIT 1"""
        )
        stage.commit([Upsert("models", last)])
    print_summary(opened, RunSummary(passes=1, results=[]), seconds=1.0)
    assert "the end model leaves what these taught aside. siftline lf report tells" in capsys.readouterr().out
    with opened.lake.stage("end_model", version=1, inputs=(), params={"says": "nothing"}) as stage:
        stage.commit([Delete("predictions", stage.arrow("SELECT DISTINCT end_model_id FROM predictions"))])
    print_summary(opened, RunSummary(passes=1, results=[]), seconds=1.0)
    shown = capsys.readouterr().out
    assert "So far all labels are 'grain'. The end model learns once one is another" in shown
    assert f"of another class: siftline import labels.csv --project {opened.root}" in shown


def test_with_several_classes_those_beside_the_one_with_a_function_are_told(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The end model says no to them of every item, and people see that as its suggestion."""
    opened = Project(shutil.copytree(project, tmp_path / "copy"))
    with opened.lake.stage("vote", version=1, inputs=(), params={"only": "grain"}) as stage:
        stage.commit(
            [
                Delete("lf_votes", stage.arrow("SELECT item_id, lf_name FROM lf_votes WHERE vote <> 0")),
                Delete("annotations", stage.arrow("SELECT item_id FROM gold_labels WHERE label = 'trade'")),
            ]
        )
    print_summary(opened, RunSummary(passes=1, results=[]), seconds=1.0)
    assert "Neither a vote" not in capsys.readouterr().out, "votes for one class alone teach nothing"
    settings = opened.root / "siftline.toml"
    settings.write_text(settings.read_text("utf-8").replace("[project]", "[project]\nmulti_label = true"), "utf-8")
    with opened.lake.stage("ingest", version=1, inputs=(), params={"several": True}) as stage:
        stage.commit([Upsert("classes", stage.arrow("SELECT class_id, name, true AS multi_label FROM classes"))])
    print_summary(Project(opened.root), RunSummary(passes=1, results=[]), seconds=1.0)
    assert "Neither a vote nor a label says 'trade', so the end model" in capsys.readouterr().out


def test_a_function_that_is_mostly_wrong_is_not_named_where_its_class_is_much_rarer_still(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is right on 1 of 12: far less than chance where a third of the items has its class, and much where 1% has."""
    opened = Project(shutil.copytree(project, tmp_path / "copy"))
    with opened.lake.stage("vote", version=1, inputs=(), params={"one": "list"}) as stage:
        votes = stage.arrow(
            "SELECT item_id, 'list' AS lf_name, '1' AS lf_version, 'h' AS input_hash, 1::SMALLINT AS vote "
            "FROM gold_labels WHERE class_ids <> [1] OR item_id = (FROM gold_labels SELECT min(item_id) "
            "WHERE class_ids = [1])"
        )
        stage.commit([Upsert("lf_votes", votes)])
    for share, named in (("0.33", True), ("0.01", False)):
        with opened.lake.stage("end_model", version=1, inputs=(), params={"share": share}) as stage:
            said = stage.arrow(
                "SELECT * EXCLUDE (run_id, committed_at) "
                f"REPLACE ([1 - {share}, {share}, 0]::FLOAT[] AS probs) FROM predictions"
            )
            stage.commit([Upsert("predictions", said)])
        print_summary(opened, RunSummary(passes=1, results=[]), seconds=1.0)
        assert ("People contradict most votes of 'list' (11 of 12" in capsys.readouterr().out) == named


def test_votes_that_people_contradict_are_counted_as_in_the_report_of_functions(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line sends people to `siftline lf report`, which is of the train split: labels of others made it differ."""
    opened = Project(shutil.copytree(project, tmp_path / "copy"))
    with opened.lake.stage("vote", version=1, inputs=(), params={"one": "wrong"}) as stage:
        wrong = "1::SMALLINT AS vote FROM gold_labels WHERE class_ids <> [1]"
        votes = stage.arrow(f"SELECT item_id, 'bad' AS lf_name, '1' AS lf_version, 'h' AS input_hash, {wrong}")
        stage.commit([Upsert("lf_votes", votes)])
    with opened.lake.stage("ingest", version=1, inputs=(), params={"moved": "one"}) as stage:
        moved = stage.arrow(
            "SELECT * EXCLUDE (run_id, committed_at) REPLACE ('test' AS split) FROM items "
            "WHERE item_id = (SELECT min(item_id) FROM lf_votes WHERE lf_name = 'bad')"
        )
        stage.commit([Upsert("items", moved)])
    with opened.lake.read() as reader:
        told = next(f.gold_votes for f in lf_report(reader).functions if f.name == "bad")
        assert reader.scalar("SELECT count(*) FROM lf_votes WHERE lf_name = 'bad'") == told + 1
    print_summary(opened, RunSummary(passes=1, results=[]), seconds=1.0)
    assert f"People contradict most votes of 'bad' ({told} of {told}; " in capsys.readouterr().out


def test_the_time_of_some_answers_is_not_told_as_that_of_all(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = Project(shutil.copytree(project, tmp_path / "copy"))
    print_summary(opened, RunSummary(passes=1, results=[]), seconds=1.0)
    [before] = [line for line in capsys.readouterr().out.splitlines() if " of annotation" in line]
    assert "told by" not in before
    with opened.lake.stage("collect", version=1, inputs=(), params={"one": "without a time"}) as stage:
        untimed = stage.arrow(
            "SELECT * EXCLUDE (run_id, committed_at) REPLACE ('untimed' AS annotation_id, 'zoe' AS annotator, "
            "0.0 AS seconds) FROM annotations LIMIT 1"
        )
        gone = stage.arrow(
            "SELECT * EXCLUDE (run_id, committed_at) REPLACE ('gone' AS annotation_id, 'deleted' AS action, "
            "0.0 AS seconds) FROM annotations LIMIT 1"
        )
        answers = stage.scalar("SELECT count(*) FROM current_annotations")
        stage.commit([Append("annotations", untimed), Append("annotations", gone)])
    print_summary(opened, RunSummary(passes=1, results=[]), seconds=1.0)
    assert f"of annotation (told by {answers:,} of {answers + 1:,} answers)" in capsys.readouterr().out


def test_a_run_ends_with_all_rivals_of_the_report(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(Project(project), RunSummary(passes=1, results=[]), seconds=1.0)
    columns, *rows = [line.split("\t") for line in capsys.readouterr().out.splitlines() if "\t" in line]
    assert columns[1:] == [
        "siftline",
        "random pick",
        "+-",
        "same labels, no weak labels",
        "random, no weak labels",
        "+-",
    ]
    labels = LABELS[-1]
    random, alone = ([accuracy(s, labels, k) for k in range(SEEDS)] for s in ("random", "random_gold_only"))
    figures = [accuracy("siftline", labels, 0), mean(random), stdev(random)]
    figures += [accuracy("gold_only", labels, 0), mean(alone), stdev(alone)]
    assert next(row for row in rows if row[0] == str(labels))[1:] == [f"{figure:.3f}" for figure in figures]
