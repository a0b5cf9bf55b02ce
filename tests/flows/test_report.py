"""`siftline report` writes one page whose figures are the warehouse's, whatever is there and whatever is not."""

import html
import json
import re
import shutil
import statistics
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from active.selection.exploration import EXPLORED
from flows.report.facts import read_facts
from flows.report.page import write_report
from tests.flows import report_lake
from tests.flows.report_lake import CLASSES, HOSTILE, LABELS, SEEDS, accuracy
from tests.lakes import copy_of
from warehouse import Append, Lake, SettingsError, Upsert

SECTIONS = ("curve", "hours", "queue", "map", "values", "confusion", "functions", "quality", "made")


class Page(HTMLParser):
    """The page's tables as texts, ids, tags and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.by_id: dict[str, str] = {}
        self._table: list[list[str]] | None = None
        self._cell: list[str] | None = None
        self._open: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in values.items()]
        if "id" in values:
            self.ids.append(values["id"])
            self._open = values["id"]
            self.by_id[self._open] = ""
        if tag == "table":
            self._table = self.tables.setdefault(values.get("id", ""), [])
        elif tag == "tr" and self._table is not None:
            self._table.append([])
        elif tag in ("td", "th") and self._table:
            self._cell = []

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self._cell is not None and self._table:
            self._table[-1].append("".join(self._cell).strip())
            self._cell = None
        elif tag == "table":
            self._table = None

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.append(data)
        if self._open is not None:
            self.by_id[self._open] += data
            if data.strip():
                self._open = None


def written(lake: Lake, tmp_path: Path, classes: tuple[str, ...] = CLASSES) -> tuple[str, Page]:
    out = write_report(lake, tmp_path / "out" / "report.html", title=f"Project {HOSTILE}", classes=classes)
    text = out.read_text("utf-8")
    return text, Page(text)


@pytest.fixture(scope="module")
def full_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A filled warehouse that tests only read."""
    path = tmp_path_factory.mktemp("report") / "lake"
    report_lake.full_lake(path).close()
    return path


@pytest.fixture(scope="module")
def full(full_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Page]:
    with Lake(full_path, read_only=True) as lake:
        return written(lake, tmp_path_factory.mktemp("page"))


def test_all_sections_are_there_and_none_is_empty(full: tuple[str, Page]) -> None:
    text, page = full
    assert [i for i in page.ids if i in SECTIONS] == list(SECTIONS)
    assert "Not there yet" not in text
    assert len(set(page.ids)) == len(page.ids)


def test_the_head_says_what_the_warehouse_says(full: tuple[str, Page]) -> None:
    text, page = full
    assert page.by_id["figure-items"] == "90"
    assert page.by_id["figure-labels"] == "16"
    assert page.by_id["figure-accuracy"] == "0.908"
    assert page.by_id["figure-time"] == "3 min"  # 16 answers of 12.5 s
    # Nothing was expected of the first eight answers.
    assert page.by_id["timed"] == (
        "The median of 8 answers took 12.5 s; 9.5 s were expected when their items were selected."
    )
    random = [accuracy("random", 16, seed) for seed in range(SEEDS)]
    expected = f"{statistics.fmean(random):.3f} ± {statistics.stdev(random):.3f}"
    assert f"accuracy 0.908; a random pick of the same size gets {expected}." in text


def test_every_metric_stands_in_the_table_of_the_curve(full: tuple[str, Page]) -> None:
    rows = [row for row in full[1].tables["table-curve"][1:] if row[1] == "Accuracy"]
    shown = {(row[0], int(row[2])): row for row in rows}
    assert len(shown) == len(LABELS) + 4 * len(LABELS[1:]) + 1
    for labels in LABELS:
        assert shown["Siftline", labels][3] == f"{accuracy('siftline', labels):.3f}"
    random = [accuracy("random", 8, seed) for seed in range(SEEDS)]
    numbers = (statistics.fmean(random), min(random), max(random), statistics.stdev(random))
    assert shown["Random pick", 8][3:7] == [f"{v:.3f}" for v in numbers]
    assert shown["Random pick", 8][7] == str(SEEDS)


def test_the_tables_equal_the_views(full: tuple[str, Page], full_path: Path) -> None:
    _, page = full
    with Lake(full_path, read_only=True) as lake, lake.read() as reader:
        batches = reader.rows("SELECT cycle, tasks, answered FROM queue_progress ORDER BY cycle")
        functions = reader.rows("SELECT lf_name, coverage, gold_votes, faults FROM lf_summary")
        stages = reader.rows("SELECT stage, count(*) FROM runs GROUP BY stage")
        models = reader.rows("SELECT sequence, gold_labels FROM models WHERE stage = 'end_model' ORDER BY sequence")
        figures = "value, representativeness, uncertainty, disagreement, redundancy"
        valued = np.array(reader.rows(f'SELECT {figures} FROM "values" WHERE cycle = 3'))
        values = read_facts(reader).values
    assert values is not None
    assert (values.cycle, values.items, values.selected, len(valued)) == (3, 44, 4, 44)
    counts, edges = np.histogram(valued[:, 0], 48)
    assert [n for _, n, _ in values.bins] == counts[counts > 0].tolist()
    assert [edge for edge, *_ in values.bins] == pytest.approx(edges[:-1][counts > 0])
    for place, component in enumerate(values.components, 1):
        assert component.everything == pytest.approx(np.quantile(valued[:, place], [0.05, 0.25, 0.5, 0.75, 0.95]))
    assert [component.name for component in values.components] == figures.split(", ")[1:]
    shown = [(int(r[0]), int(r[2]), int(r[4])) for r in page.tables["table-batches"][1:]]
    assert shown == [tuple(row) for row in batches]
    assert [(r[2], r[6], r[9]) for r in page.tables["table-functions"][1:]] == [
        (f"{100 * coverage:.0f}%", str(gold), str(faults or 0)) for _, coverage, gold, faults in functions
    ]
    assert {r[0]: int(r[1]) for r in page.tables["table-stages"][1:]} == dict(stages)
    assert [(int(r[0]), int(r[1])) for r in page.tables["table-cycles"][1:]] == [tuple(row) for row in models]


def test_items_drawn_at_random_are_not_among_those_that_the_value_selected(full_path: Path, tmp_path: Path) -> None:
    with Lake(shutil.copytree(full_path, tmp_path / "lake")) as lake:
        with lake.stage("explored", version=1, inputs=()) as stage:
            at_random = f"* EXCLUDE (run_id, committed_at) REPLACE ('{EXPLORED}' AS reason)"
            stage.commit([Upsert("queue", stage.arrow(f"SELECT {at_random} FROM queue WHERE item_id = 'i016'"))])
        with lake.read() as reader:
            values = read_facts(reader).values
    assert values is not None
    assert (values.items, values.selected, sum(chosen for _, _, chosen in values.bins)) == (44, 3, 3)
    assert values.components[0].selected is not None
    assert values.components[0].selected[-1] < 0.99  # without the first, which has 1


def test_a_function_that_is_switched_off_is_marked(full_path: Path, tmp_path: Path) -> None:
    with Lake(shutil.copytree(full_path, tmp_path / "lake")) as lake:
        off = {"item_id": "", "lf_name": "lf_off", "lf_version": "1", "fault": "switched_off", "detail": "too slow"}
        with lake.stage("vote", version=1, inputs=(), params={"off": True}) as stage:
            stage.commit([Upsert("lf_faults", pa.Table.from_pylist([off]))])
        _, page = written(lake, tmp_path)
    marks = {row[0]: row[1] for row in page.tables["table-functions"][1:]}
    assert [name for name, mark in marks.items() if mark == "switched off"] == ["lf_off"]


def test_of_many_functions_those_to_mend_and_the_widest_come_first_and_the_others_can_be_opened(
    full_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Lake(shutil.copytree(full_path, tmp_path / "lake")) as lake:
        off = {"item_id": "", "lf_name": "lf_off", "lf_version": "1", "fault": "switched_off", "detail": "too slow"}
        with lake.stage("vote", version=1, inputs=(), params={"off": True}) as stage:
            stage.commit([Upsert("lf_faults", pa.Table.from_pylist([off]))])
        text, page = written(lake, tmp_path)
        everything = [row[0] for row in page.tables["table-functions"][1:]]
        assert "table-functions-more" not in page.tables
        monkeypatch.setattr("flows.report.page._FUNCTIONS", 2)
        text, page = written(lake, tmp_path)
    shown, others = ([row[0] for row in page.tables[f"table-functions{end}"][1:]] for end in ("", "-more"))
    assert everything == [shown[0], "lf_ship", "lf_off"]
    assert (shown[1:], others) == (["lf_off"], ["lf_ship"]), "one that is off votes on fewer items, and is to be mended"
    assert "1 further function; above are" in text


@pytest.mark.parametrize("several", [True, False])
def test_of_several_classes_skill_is_said_to_be_that_of_a_yes_or_no(
    several: bool, full_path: Path, tmp_path: Path
) -> None:
    with Lake(shutil.copytree(full_path, tmp_path / "lake")) as lake:
        with lake.stage("ingest", version=1, inputs=(), params={"several": several}) as stage:
            kind = stage.arrow(f"SELECT class_id, name, {several} AS multi_label FROM classes")
            agreement = {"series": "annotators", "name": "krippendorff_alpha", "metric_id": "a", "split": "train"}
            figure = {**agreement, "labels": 16, "seed": 0, "value": 0.5, "detail": "{}"}
            twice = stage.arrow(
                "SELECT * EXCLUDE (run_id, committed_at) REPLACE ('two' AS annotation_id, 'ben' AS annotator) "
                "FROM annotations LIMIT 1"
            )
            stage.commit(
                [
                    Upsert("classes", kind),
                    Upsert("metrics", pa.Table.from_pylist([figure])),
                    Append("annotations", twice),
                    Upsert(
                        "annotator_skills",
                        stage.arrow(
                            "SELECT 'ben' AS annotator, NULL::DOUBLE AS accuracy, 1e3 AS weight, 0 AS compared"
                        ),
                    ),
                ]
            )
        text, _ = written(lake, tmp_path)
    assert "Skill is estimated" in text
    assert "labels count by it; what a reviewer says is the label." in text
    assert re.search(r"(?s)<bdi>ben</bdi>((?!</tr>).)*>reviewer</td>", text)
    assert ("skill the share of right ones" in text) == several
    assert (re.search(r"<th[^>]*>(<[^>]*>)*Found", text) is not None) == several


def test_the_page_says_that_selected_items_are_no_fair_judges_of_functions(full: tuple[str, Page]) -> None:
    assert "16 of the 16 labelled items were selected, mostly as hard ones, so over all items functions are" in full[0]


def test_the_calibration_error_stands_with_every_end_model_and_the_confusion_matrix(full: tuple[str, Page]) -> None:
    text, page = full
    rows = page.tables["table-cycles"]
    assert rows[0][6] == "Calibration error"
    errors = [f"{accuracy('siftline', labels) - 0.5:.3f}" for labels in LABELS]
    assert [row[6] for row in rows[1:]] == errors
    assert f"Its probabilities lie {errors[-1]} from the shares of right answers" in text


def test_counts_of_the_last_read_and_of_the_quarantine(full: tuple[str, Page]) -> None:
    text, page = full
    assert "Of 95 records in the last read, 90 were stored, 3 quarantined and 2 were there already." in text
    assert page.tables["table-ingests"][1][1:5] == ["95", "90", "3", "2"]
    assert [row[1:4] for row in page.tables["table-quarantine"][1:]] == [
        ["the bytes are not UTF-8 invalid_utf8", "2", "4"],
        ["the file holds no bytes empty_file", "1", "whole file"],
    ]


def test_rows_of_the_confusion_matrix_are_true_classes(full: tuple[str, Page]) -> None:
    text, page = full
    rows = page.tables["table-confusion"]
    assert rows[2] == ["ship <b>&", "·", "8", "2", "10", "80%"]
    assert "26 of 30 items are classified rightly (0.867)" in text
    assert "<bdi>ship &lt;b&gt;&amp;</bdi> read as <bdi>trade</bdi> (2)" in text


def test_the_queue_shows_open_tasks_first_and_else_the_best_items(tmp_path: Path) -> None:
    with report_lake.full_lake(tmp_path / "lake") as lake:
        text, _ = written(lake, tmp_path)
        assert "4 tasks wait for an answer" in text
        assert "confirmed, cycle" not in text, "a state of the queue reads as if the label were confirmed"
        assert text.count('<span class="quiet">waits for an answer, cycle 3</span>') == 4
        cards = re.findall(r'<details class="neighbours">(.*?)</details>', text, re.S)
        assert [card.count("<li>") for card in cards] == [3] * 4
        cosines = [float(value) for value in re.findall(r'<span class="figure">([\d.]+)</span>', cards[0])]
        assert cosines == sorted(cosines, reverse=True)
        with lake.stage("turned", version=1, inputs=()) as stage:  # else both orders are that of the ids
            ranks = stage.arrow("SELECT * EXCLUDE (run_id, committed_at) REPLACE (9 - rank AS rank) FROM queue")
            worth = stage.arrow('SELECT * EXCLUDE (run_id, committed_at) REPLACE (1 - value AS value) FROM "values"')
            stage.commit([Upsert("queue", ranks), Upsert("values", worth)])
        with lake.read() as reader:
            opened = reader.rows("SELECT item_id FROM queue WHERE state = 'confirmed' ORDER BY rank")
            assert [(row["item_id"],) for row in read_facts(reader).queue] == opened == sorted(opened, reverse=True)
        with lake.stage("by chance", version=1, inputs=()) as stage:
            drawn = "SELECT * EXCLUDE (run_id, committed_at) REPLACE (0::FLOAT AS value) FROM queue"
            stage.commit([Upsert("queue", stage.arrow(drawn))])
        assert '<span class="value">' not in written(lake, tmp_path)[0], "it had no part in choosing them"
        with lake.stage("answers", version=1, inputs=()) as stage:
            rows = stage.arrow("SELECT * EXCLUDE (run_id, committed_at) REPLACE ('answered' AS state) FROM queue")
            stage.commit([report_lake.Upsert("queue", rows)])
        text, _ = written(lake, tmp_path)
        with lake.read() as reader:
            best = reader.rows(
                'SELECT item_id FROM "values" WHERE cycle = 3 AND item_id NOT IN (SELECT item_id FROM queue) '
                "ORDER BY value DESC, item_id LIMIT 12"
            )
            assert [(row["item_id"],) for row in read_facts(reader).queue] == best != sorted(best)
    # Cycle 3 valued 44 items; 4 of them stand in the queue.
    assert "Of 40 items that nobody was asked about" in text
    assert text.count('<span class="rank">') == 12


def test_the_map_holds_every_selected_item(full: tuple[str, Page]) -> None:
    text, _ = full
    data = json.loads(re.search(r'id="map-data">(.*?)</script>', text, re.S)[1])  # type: ignore[index]
    assert len(data["points"]) == 60  # the train split
    assert sorted(p[3] for p in data["points"] if p[3]) == [1] * 8 + [2] * 8 + [3] * 4


def test_simulated_labels_are_marked_on_every_figure_concerned(full: tuple[str, Page], tmp_path: Path) -> None:
    text, _ = full
    parts = re.split(r'<section id="(\w+)"', text)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    for name in ("curve", "hours", "queue", "map", "values", "confusion", "functions"):
        assert 'class="badge"' in sections[name], name
    assert "of simulated annotation" in parts[0]
    with report_lake.full_lake(tmp_path / "people", simulated=False) as lake:
        text, _ = written(lake, tmp_path)
    assert 'class="badge"' not in text
    assert "simulated annotation" not in text


def answer_the_waiting_batch(lake: Lake) -> None:
    """A person answers cycle 3, and no answer tells how long it took."""
    with lake.stage("collect", version=1, inputs=(), params={"cycle": 3}) as stage:
        rows = stage.arrow(
            "SELECT 'a' || q.item_id AS annotation_id, q.item_id, q.project, q.task_id, 'Ann' AS annotator, "
            "'labelled' AS action, 0 AS class_id, false AS simulated, now() AS created_at, now() AS updated_at, "
            "0.0 AS seconds FROM queue q WHERE q.cycle = 3"
        )
        stage.commit([Append("annotations", rows)])


def test_labels_without_a_time_and_labels_of_people_are_told_apart(tmp_path: Path) -> None:
    with report_lake.full_lake(tmp_path / "lake") as lake:
        answer_the_waiting_batch(lake)
        text, page = written(lake, tmp_path)
    assert page.by_id["figure-labels"] == "20"
    assert page.by_id["key-result"].startswith("20 labels from partly simulated annotation (scored with 16): accuracy")
    assert "12.5 s per label, for the 16 of 20 that came with a time, partly simulated" in text
    assert "16 of 20 labels simulated" in text


def test_a_batch_takes_its_median_over_the_answers_that_came_with_a_time(tmp_path: Path) -> None:
    with report_lake.full_lake(tmp_path / "lake") as lake:
        with lake.stage("collect", version=1, inputs=(), params={"untimed": True}) as stage:
            stage.commit(
                [
                    Append(
                        "annotations",
                        stage.arrow(
                            "SELECT * EXCLUDE (run_id, committed_at) REPLACE ('u' || annotation_id AS annotation_id, "
                            "'Zoe' AS annotator, 0.0 AS seconds) FROM annotations"
                        ),
                    )
                ]
            )
        _, page = written(lake, tmp_path)
    place = page.tables["table-batches"][0].index("Median per label")
    assert [row[place] for row in page.tables["table-batches"][1:]] == ["12.5 s", "12.5 s", "–"]


def test_a_skip_is_an_answer_without_a_label_and_its_time_not_that_of_one(tmp_path: Path) -> None:
    with report_lake.full_lake(tmp_path / "lake") as lake:
        with lake.stage("collect", version=1, inputs=(), params={"skips": True}) as stage:
            rows = stage.arrow(
                "SELECT 's' || q.item_id AS annotation_id, q.item_id, q.project, q.task_id, 'Ann' AS annotator, "
                "'skipped' AS action, NULL::INTEGER AS class_id, false AS simulated, now() AS created_at, "
                "now() AS updated_at, 100.0 AS seconds FROM queue q WHERE q.cycle = 3 OR q.cycle = q.rank"
            )
            answered = stage.arrow(
                "SELECT * EXCLUDE (run_id, committed_at) REPLACE ('answered' AS state) FROM queue "
                "WHERE cycle = 3 AND rank < 3"
            )
            stage.commit([Append("annotations", rows), Upsert("queue", answered)])
        text, page = written(lake, tmp_path)
    assert "12.5 s per label" in text
    assert "18 of 20 tasks in 3 batches are answered, 2 of them by a skip" in text
    place = page.tables["table-batches"][0].index("Answered")
    assert [row[place : place + 2] for row in page.tables["table-batches"][1:]] == [["8", "0"], ["8", "0"], ["2", "2"]]


def test_classes_are_named_as_the_warehouse_names_them(tmp_path: Path) -> None:
    with report_lake.full_lake(tmp_path / "lake") as lake:
        _, page = written(lake, tmp_path, classes=CLASSES[::-1])
    assert {row[0] for row in page.tables["table-confusion"][1:4]} == set(CLASSES)
    assert page.tables["table-confusion"][1][0] == CLASSES[0]


def test_what_grows_is_cut_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.report.sample.MAP_ITEMS", 15)
    monkeypatch.setattr("flows.report.sample.SELECTED_ITEMS", 10)
    monkeypatch.setattr("flows.report.facts.NEWEST_ROWS", 2)
    with report_lake.full_lake(tmp_path / "lake") as lake:
        text, page = written(lake, tmp_path)
    data = json.loads(re.search(r'id="map-data">(.*?)</script>', text, re.S)[1])  # type: ignore[index]
    assert sorted(p[3] for p in data["points"]) == [0] * 5 + [2] * 6 + [3] * 4
    assert "15 items of 60, 10 of the 20 selected ones among them, the latest first." in text
    assert "The last 2 of 15 runs" in text
    assert len(page.tables["table-runs"]) == 1 + 2
    assert "The last 2 of 3 models" in text
    assert [row[1] for row in page.tables["table-models"][1:]] == ["2", "3"]
    assert "15 committed stage runs" in text


def test_an_end_model_has_the_figures_that_it_was_scored_with_itself(tmp_path: Path) -> None:
    """As `siftline status` says them; the curve has those of now."""
    with report_lake.full_lake(tmp_path / "lake") as lake:
        with lake.read() as reader:
            model = reader.scalar("SELECT end_model_id FROM cycle_summary WHERE cycle = 1")
        own = {"series": "end_model", "split": "test", "labels": 8, "seed": 0}
        rows = [
            {**own, "metric_id": name, "name": name, "value": value, "detail": json.dumps({"model_id": model})}
            for name, value in (("accuracy", 0.123), ("calibration_error", 0.456))
        ]
        with lake.stage("evaluate", version=1, inputs=(), params={"of": "a model"}) as stage:
            stage.commit([report_lake.Upsert("metrics", pa.Table.from_pylist(rows))])
        _, page = written(lake, tmp_path)
        with lake.read() as reader:
            assert reader.scalar("SELECT test_accuracy FROM cycle_summary WHERE cycle = 1") == 0.123
    others = [accuracy("siftline", labels) for labels in LABELS]
    assert [row[3] for row in page.tables["table-cycles"][1:]] == [f"{others[0]:.3f}", "0.123", f"{others[2]:.3f}"]
    assert page.tables["table-cycles"][2][6] == "0.456"
    assert f"{others[1]:.3f}" in {row[3] for row in page.tables["table-curve"][1:]}


def test_figures_are_those_of_the_split_that_is_scored_now(tmp_path: Path) -> None:
    """70 classes of which the first is read as the second; an agreement between people who no longer disagree."""
    many = np.diag(np.full(70, 2))
    many[0] = [0, 2, *[0] * 68]
    rows = [
        {
            **{"metric_id": f"{series}/{split}", "series": series, "name": name, "split": split},
            **{"labels": labels, "seed": 0, "value": value, "detail": json.dumps({"confusion": many.tolist()})},
        }
        for series, name, split, labels, value in (
            ("siftline", "accuracy", "valid", 16, 0.7654),
            ("annotators", "krippendorff_alpha", "train", 99, 0.123),
        )
    ]
    with report_lake.full_lake(tmp_path / "lake") as lake:
        with lake.stage("evaluate", version=1, inputs=(), params={"split": "valid"}) as stage:
            stage.commit([report_lake.Upsert("metrics", pa.Table.from_pylist(rows))])
        text, page = written(lake, tmp_path, classes=tuple(f"class {n}" for n in range(70)))
    assert page.by_id["figure-accuracy"] == "0.765"
    assert [row[3] for row in page.tables["table-cycles"][1:]] == ["–", "–", "0.765"]
    assert "Nobody can be compared" in text
    matrix = page.tables["table-confusion"]
    assert len(matrix) == 1 + 60 + 2
    assert matrix[0][1:3] == ["1", "2"], "columns with the names of many classes are too wide for any screen"
    assert matrix[1][:3] == ["grain 1", "·", "2"]
    assert matrix[4][0] == "class 3 4"
    assert matrix[2][-1] == "100%"
    assert matrix[-1][:3] == ["precision, %", "–", "50"]
    assert "Of 70 classes the 60 with the most mistakes" in text
    assert "138 of 140 items are classified rightly" in text


def test_an_empty_warehouse_gives_a_page_that_says_what_is_missing(tmp_path: Path) -> None:
    with copy_of(Lake, tmp_path / "lake") as lake:
        text, page = written(lake, tmp_path)
    assert [i for i in page.ids if i in SECTIONS] == list(SECTIONS)
    assert text.count("Not there yet") == len(SECTIONS)
    assert "Nothing has been read yet." in text


@pytest.mark.parametrize("items", [1, 3, 70])
def test_items_without_cycles_or_scores(tmp_path: Path, items: int) -> None:
    with copy_of(Lake, tmp_path / "lake") as lake:
        report_lake.add_items(lake, items=items, classes=("only",))
        report_lake.add_vectors(lake)
        text, page = written(lake, tmp_path, classes=("only",))
    assert page.by_id["figure-items"] == str(items)
    assert "none is selected yet" in text
    assert "no accuracy has been measured yet" in text


def test_before_an_end_model_the_page_says_what_one_takes(full: tuple[str, Page], tmp_path: Path) -> None:
    takes = "labeling functions that vote, or answers, for more than one class"
    with copy_of(Lake, tmp_path / "lake") as lake:
        report_lake.add_items(lake)
        text, _ = written(lake, tmp_path)
    assert text.count(takes) == 2
    assert "name a file with their labels" not in text, "that may be done, and scores nothing yet"
    assert takes not in full[0]


def test_what_the_figures_of_a_task_are_stands_below_those_that_have_them(
    full: tuple[str, Page], tmp_path: Path
) -> None:
    percentage, value = "The percentage is the end model's confidence", "The value is that beside the tasks chosen"
    assert percentage in html.unescape(full[0])
    assert value in full[0]
    with report_lake.full_lake(tmp_path / "lake") as lake:
        with lake.stage("bare", version=1, inputs=()) as stage:
            bare = "* EXCLUDE (run_id, committed_at) REPLACE (0::FLOAT AS value, -1 AS prediction)"
            stage.commit([Upsert("queue", stage.arrow(f"SELECT {bare} FROM queue"))])
        text = html.unescape(written(lake, tmp_path)[0])
    assert percentage not in text
    assert value not in text


def test_more_classes_than_colours(tmp_path: Path) -> None:
    classes = tuple(f"class {n}" for n in range(25))
    with copy_of(Lake, tmp_path / "lake") as lake:
        report_lake.add_items(lake, items=160, classes=classes)
        report_lake.add_vectors(lake)
        with lake.stage("end_model", version=1, inputs=()) as stage:
            ids = [str(i) for (i,) in stage.rows("SELECT item_id FROM items ORDER BY item_id")]
            n = len(ids)
            one = {"class_id": [k % 25 for k in range(n)], "confidence": [0.5] * n, "probs": [[0.04] * 25] * n}
            model = {"model_id": ["m"], "stage": ["end_model"], "kind": ["k"], "gold_labels": [0], "items": [0]}
            stage.commit(
                [
                    report_lake._up("predictions", item_id=ids, end_model_id=["m"] * n, **one),
                    report_lake._up("models", sequence=[1], detail=["{}"], **model),
                ]
            )
        text, _ = written(lake, tmp_path, classes=classes[:20])
    styles = set(re.findall(r'<path class="cloud ([^"]+)" d="M7', text))
    assert len(styles) == 21  # ten colours in two shapes, and the rest
    assert "class 24" in text  # named although siftline.toml no longer names it


def test_hostile_texts_are_text(full: tuple[str, Page]) -> None:
    text, page = full
    assert page.tags.count("script") == 2  # ours and the map's data
    assert "img" not in page.tags
    assert not [a for a in page.attributes if a[1].startswith("on") or a[1] == "style"]
    assert "ship <b>" not in text  # the name of a class, also in the pictures
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\u2028" not in text
    assert "{{7*7}}" in html.unescape(text)
    assert "⟨U+001B⟩[31mred" in text
    assert "⟨U+202E⟩gnp.exe" in text


def test_the_policy_allows_nothing_from_outside(full: tuple[str, Page]) -> None:
    policy = next(
        value for tag, name, value in full[1].attributes if (tag, name) == ("meta", "content") and ";" in value
    )
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    links = [v for _, name, v in full[1].attributes if name in ("href", "src", "action") and not v.startswith("#")]
    assert links == ["data:,"]


def test_the_page_is_replaced_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "report.html"
    with copy_of(Lake, tmp_path / "lake") as lake:
        write_report(lake, target, title="first", classes=("a", "b"))
        before = target.read_text("utf-8")

        def broken(source: str, destination: Path) -> None:
            raise OSError("no space left")

        monkeypatch.setattr("warehouse.files.atomic_file.os.replace", broken)
        with pytest.raises(SettingsError, match="no space left"):
            write_report(lake, target, title="second", classes=("a", "b"))
    assert target.read_text("utf-8") == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lake", "report.html"]
