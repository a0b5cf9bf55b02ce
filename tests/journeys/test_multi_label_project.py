"""A whole multi-label project of real texts: run, collect, learn, report, export and ask, with sets of classes."""

import io
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest

from features.ingest.samples import SampleFiles
from flows.cli.lf import report_functions
from flows.cli.predict import predict_file, predict_texts
from flows.cli.status import make_report, show_queue, show_suspects
from flows.cli.summary import print_summary
from flows.pipelines.stages import RunSummary, run_passes, run_stage_in_process
from flows.project.prediction import TextPredictor
from flows.project.project import Project
from tests.digests import CLASSES, make_digest_project
from warehouse import Lake, SettingsError
from warehouse.export.training_set import export_training_set
from warehouse.queries.saved_questions import questions


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, reuters: SampleFiles) -> Path:
    root = make_digest_project(tmp_path_factory.mktemp("digests") / "project", reuters, train=100, test=30)
    project = Project(root)
    assert run_passes(run_stage_in_process(project), simulated=True).passes == 3
    return root


def test_every_stage_works_on_sets(run: Path) -> None:
    truth = {row["id"]: row["label"] for row in map(json.loads, (run / "data" / "gold.jsonl").read_text().splitlines())}
    with Lake(run / "lake", read_only=True) as lake, lake.read() as reader:
        gold = dict(reader.rows("SELECT item_id, labels FROM gold_labels"))
        assert gold == {item: truth[item] for item in gold}
        assert len(gold) == 16
        assert len({len(labels) for labels in gold.values()}) > 1
        kinds = dict(reader.rows("SELECT stage, any_value(kind) FROM models GROUP BY stage"))
        assert kinds == {"label_model": "anchored_per_class", "end_model": "one_vs_rest_logistic_regression"}
        assert reader.rows("SELECT gold_labels FROM models WHERE stage = 'end_model' ORDER BY sequence") == [
            (0,),
            (8,),
            (16,),
        ]
        assert reader.scalar("SELECT count(*) FROM predictions WHERE abs(list_sum(probs) - 1) > 0.01") > 0
        assert reader.scalar("SELECT count(*) FROM queue WHERE predictions IS NULL OR prediction <> -1") == 0
        figures = {
            (series, labels, name): value
            for series, labels, name, value in reader.rows(
                "SELECT series, labels, name, value FROM metrics WHERE series IN ('siftline', 'label_model')"
            )
        }
        assert {name for *_, name in figures} == {"accuracy", "micro_f1", "macro_f1", "calibration_error"}
        assert figures["label_model", 0, "micro_f1"] > 0.7
        for labels in (0, 8, 16):
            assert figures["siftline", labels, "micro_f1"] >= figures["label_model", 0, "micro_f1"] - 0.02
        for asked in questions():
            reader.rows(asked.sql)


def test_a_second_run_adds_no_row(run: Path) -> None:
    assert run_passes(run_stage_in_process(Project(run)), simulated=True).rows_written == 0


def test_the_report_shows_every_class(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_report(run, run / "report.html")
    page = (run / "report.html").read_text("utf-8")
    assert 'id="table-classes"' in page
    assert 'id="table-confusion"' not in page
    assert "Micro F1" in page
    assert "An item is right where all its classes are; micro F1 is 0." in page
    print_summary(Project(run), RunSummary(passes=1, results=[]), seconds=1.0)
    said = capsys.readouterr().out
    assert "# items with all classes right on test (simulated annotator)" in said
    assert "# micro F1 on test (simulated annotator)" in said
    assert "Measured on the test split, n = 30. With that n, an accuracy of" in page
    table = page.partition('id="table-classes"')[2].partition("</table>")[0]
    assert all(f"<bdi>{name}</bdi>" in table for name in CLASSES)
    best, worst = re.findall(r"\(F1 ([01]\.\d+)\), and the one that is found worst [^(]*\(([01]\.\d+)\)", page)[0]
    assert f">{best}<" in table, "the sentence and the table say F1 alike"
    assert f">{worst}<" in table
    legend = page.partition('id="map-legend"')[2].partition("</ul>")[0]
    shown = dict(re.findall(r'<bdi>(.*?)</bdi> <span class="quiet">(\d+)', legend))
    with Project(run).read_lake() as lake, lake.read() as reader:
        without = reader.scalar(
            "SELECT count(*) FROM latest_predictions JOIN items USING (item_id) WHERE split = 'train' AND labels = []"
        )
    assert without
    assert shown["(none)"] == str(without), "an item without a class has the colour of none"
    show_queue(run, 5)
    assert "The budget of 16 labels is spent" in capsys.readouterr().out


def test_no_vote_contradicts_another_where_items_have_several_classes(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report_functions(run, None, 1)
    said = capsys.readouterr().out
    head, *rows = (line.split("\t") for line in said.splitlines() if "\t" in line)
    place = head.index("conflict")
    figures = [row for row in rows if len(row) == len(head)]
    assert figures
    assert {row[place] for row in figures} == {"-"}
    assert "no vote contradicts another" in said
    make_report(run, run / "report.html")
    table = (run / "report.html").read_text("utf-8").partition('id="table-functions"')[2].partition("</table>")[0]
    assert "conflict of" not in table
    assert "overlap of" in table


def test_labels_to_look_at_again_name_the_class(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    show_suspects(run, 5)
    told = capsys.readouterr()
    assert all(float(row.split("\t")[0]) < 0.55 for row in told.out.splitlines()[2:]), "the others are rather right"
    assert re.search(r"contradict none of [\d,]+ labels|^1 of [\d,]+ labels is contradicted", told.err)
    monkeypatch.setattr("active.quality.label_errors.SUSPICIOUS", 0.0)
    show_suspects(run, 5)
    table = capsys.readouterr().out
    assert "labels to look at again" in table
    assert table.splitlines()[1] == "suspicion\titem\tlabelled\trather\ttext"
    assert any(f"{word} '{name}'" in table for word in ("with", "without") for name in CLASSES)


def test_exports_hold_the_list_of_classes(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Project(run).location
    made = export_training_set(place, tmp_path / "jsonl", format="jsonl")
    rows = [json.loads(line) for line in (tmp_path / "jsonl" / "training_set.jsonl").read_text().splitlines()]
    assert len(rows) == 130
    assert {type(row["labels"]) for row in rows} == {list}
    assert any(row["labels"] == [] and row["label"] == "(none)" for row in rows)
    assert all(row["label"] == (", ".join(row["labels"]) or "(none)") for row in rows)
    counted = Counter(name for row in rows for name in row["labels"] or ["(none)"])
    assert made["counts"]["by_label"] == counted
    again = export_training_set(place, tmp_path / "datasets", format="datasets")
    assert again["counts"] == made["counts"]
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    found: Any = datasets.load_dataset(str(tmp_path / "datasets"))
    feature = found["train"].features["labels"].feature
    by_id = {row["item_id"]: row["labels"] for row in rows}
    for row in found["train"]:
        assert [feature.int2str(c) for c in row["labels"]] == by_id[row["item_id"]]


def test_the_project_cannot_become_one_of_single_classes(run: Path) -> None:
    settings = run / "siftline.toml"
    before = settings.read_text("utf-8")
    settings.write_text(before.replace("multi_label = true", "multi_label = false"), "utf-8")
    try:
        with pytest.raises(SettingsError, match=r"multi_label under .* is false, and the warehouse holds answers"):
            run_stage_in_process(Project(run))("ingest")
    finally:
        settings.write_text(before, "utf-8")


def test_the_end_model_says_of_any_text_what_it_says_of_an_item(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output, lines = tmp_path / "said.parquet", (run / "data" / "items.jsonl").read_bytes()
    predict_file(run, run / "data" / "items.jsonl", output, "text", "id")
    said = pq.read_table(output).to_pylist()
    with Project(run).read_lake() as lake, lake.read() as reader:
        stored = {
            item_id: (labels, probs)
            for item_id, labels, probs in reader.rows("SELECT item_id, labels, probs FROM latest_predictions")
        }
    assert {row["id"]: row["label"] for row in said} == {item_id: labels for item_id, (labels, _) in stored.items()}
    for row in said:
        assert [row["probs"][name] for name in CLASSES] == pytest.approx(stored[row["id"]][1], abs=1e-5)
    told = capsys.readouterr()
    assert "learned from: labels of people 16" in told.err
    assert "just now" not in told.err
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines)))
    predict_file(run, Path("-"), None, "text", "id")
    piped = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["id"], row["label"]) for row in piped] == [(row["id"], row["label"]) for row in said]


def test_functions_that_are_others_than_the_last_run_had_are_named(
    run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = run / "labeling_functions.py"
    before = file.read_text("utf-8")
    text = "Wheat and corn of this year"
    sure = TextPredictor(run).predict([text]).probs[0]
    changed = (
        before.replace("wheat = keywords(", "gone = keywords(")
        .replace('"crop", ', "")
        .replace("vessels = ", "ships = ")
    )
    failing = """
from weak_labels import vectorized

@vectorized("ship")
def vessels(batch):
    print("looked at")
    raise ValueError("no ships")
"""
    file.write_text(changed + failing, "utf-8")
    try:
        predictor = TextPredictor(run)
        said = predictor.predict([text])
        printed = capfd.readouterr()
        predict_texts(run, [text])
    finally:
        file.write_text(before, "utf-8")
    assert (printed.out, capfd.readouterr().err.count("looked at")) == ("looked at\n", 1)  # the command's is an answer
    assert [note.partition(". ")[0].partition(": ")[::2] for note in predictor.notes] == [
        ("Labeling functions that changed since this was learned", "crops, vessels"),
        ("Labeling functions that are gone since this was learned", "wheat"),
    ]
    assert predictor.failed == {"vessels": (1, "raised: ValueError: no ships")}
    assert said.probs[0][CLASSES.index("grain")] < sure[CLASSES.index("grain")] - 0.1
