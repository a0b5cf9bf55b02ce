"""Sets of classes in the warehouse: gold labels class by class, sets in the views, and nothing changed without them."""

import csv
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from active.quality.consensus import consensus
from features.ingest.stage import IngestConfig, ingest
from features.readers.label_file import one_class, read_label_file
from features.readers.source import SourceConfig
from tests.active.test_consensus import say
from tests.warehouse.test_commit_is_atomic import classes, items
from warehouse import Append, DataError, Lake, Upsert
from warehouse.commits.row_hash import hash_rows
from warehouse.queries.saved_questions import questions


def several(lake: Lake, *names: str, count: int = 8) -> Lake:
    """A multi-label warehouse with items i00000, i00001, ..."""
    table = classes(*names)
    with lake.stage("ingest", version=1, inputs=()) as stage:
        marked = table.append_column("multi_label", pa.array([True] * table.num_rows))
        stage.commit([Upsert("classes", marked), Upsert("items", items(count))])
    return lake


def test_each_class_is_decided_on_its_own_and_none_is_a_label(lake: Lake) -> None:
    several(lake, "a", "b", "c")
    say(
        lake,
        {
            ("i00000", "ann"): [0],
            ("i00000", "ben"): [0, 1],
            ("i00000", "cem"): [1],
            ("i00001", "ann"): [],
            ("i00002", "ann"): [0, 2],
            ("i00002", "ben"): [2],  # a tie about class 0: the later answer says no
        },
    )
    with lake.read() as reader:
        found = reader.rows(
            "SELECT item_id, class_id, class_ids, labels, label, annotations, agreeing, decided_by FROM gold_labels "
            "ORDER BY item_id"
        )
        contested = reader.rows("SELECT item_id, opinions FROM contested ORDER BY item_id")
        assert reader.scalar("SELECT confidence FROM gold_labels WHERE item_id = 'i00001'") == pytest.approx(0.8)
    assert found == [
        ("i00000", -1, [0, 1], ["a", "b"], "a, b", 3, 1, "majority"),
        ("i00001", -1, [], [], "(none)", 1, 1, "single"),
        ("i00002", -1, [2], ["c"], "c", 2, 1, "majority"),
    ]
    assert contested == [
        ("i00000", ["ann: a", "ben: a, b", "cem: b"]),
        ("i00002", ["ann: a, c", "ben: c"]),
    ]


def test_a_tie_of_answers_of_one_time_is_decided_alike_at_every_reading(lake: Lake) -> None:
    several(lake, "a", "b", count=300)
    at = datetime(2026, 1, 1, tzinfo=UTC)
    for who, label in {"ann": [0], "ben": [1], "cem": [0], "dan": [1]}.items():
        same = {"project": "p", "task_id": "t", "annotator": who, "action": "labelled", "class_id": -1}
        same |= {"simulated": False, "created_at": at, "updated_at": at, "seconds": 1.0, "class_ids": label}
        rows = [{"annotation_id": f"{who}{n}", "item_id": f"i{n:05}", **same} for n in range(300)]
        with lake.stage("collect", version=1, inputs=(), params={"who": who}) as stage:
            stage.commit([Append("annotations", pa.Table.from_pylist(rows))])
    for _ in range(3):
        with lake.read() as reader:
            assert reader.rows("SELECT class_ids, count(*) FROM gold_labels GROUP BY ALL") == [([1], 300)]


def test_opinions_weigh_by_skill_class_by_class(lake: Lake) -> None:
    several(lake, "a", "b")
    say(lake, {("i00000", "ann"): [0], ("i00000", "ben"): [1], ("i00000", "cem"): [1]})
    skills = {"annotator": ["ann", "ben", "cem"], "accuracy": [0.9] * 3, "weight": [3.0, 1.0, 1.0], "compared": [9] * 3}
    with lake.stage("consensus", version=1, inputs=()) as stage:
        stage.commit([Upsert("annotator_skills", pa.table(skills))])
    with lake.read() as reader:
        assert reader.rows("SELECT class_ids, decided_by FROM gold_labels") == [([0], "skill")]


def test_a_reviewers_set_is_the_label_also_without_a_class_and_judges_nobody(lake: Lake) -> None:
    several(lake, "a", "b", "c")
    people = {(f"i{n:05}", who): [0] for n in range(3) for who in ("ann", "ben")}
    say(lake, people | {("i00000", "lead"): [], ("i00001", "lead"): [0, 2]})
    assert consensus(lake, ["lead"]).detail["items with several opinions"] == 3
    with lake.read() as reader:
        found = reader.rows("SELECT label, confidence, decided_by FROM gold_labels ORDER BY item_id LIMIT 2")
        skills = reader.rows("SELECT annotator, accuracy IS NULL, compared FROM annotator_skills ORDER BY 1")
    assert found == [("(none)", 1.0, "reviewer"), ("a, c", 1.0, "reviewer")]
    assert skills == [("ann", False, 3), ("ben", False, 3), ("lead", True, 0)]


def test_predictions_are_the_classes_from_one_half_on(lake: Lake) -> None:
    several(lake, "a", "b", "c")
    predictions = {
        "item_id": ["i00000", "i00001"],
        "end_model_id": ["m"] * 2,
        "probs": pa.array([[0.9, 0.2, 0.5], [0.1, 0.4, 0.3]], pa.list_(pa.float32())),
        "class_id": [0, 1],
        "confidence": [0.5, 0.6],
    }
    model = {"model_id": ["m"], "stage": ["end_model"], "kind": ["k"], "gold_labels": [0], "items": [2]}
    with lake.stage("end_model", version=1, inputs=()) as stage:
        more = {**model, "sequence": [1], "detail": ["{}"]}
        stage.commit([Upsert("predictions", pa.table(predictions)), Upsert("models", pa.table(more))])
    say(lake, {("i00001", "ann"): [1, 2]})
    with lake.read() as reader:
        assert reader.rows("SELECT label, class_ids FROM latest_predictions ORDER BY item_id") == [
            ("a, c", [0, 2]),
            ("(none)", []),
        ]
        assert reader.rows("SELECT item_id, labels, label_source FROM training_set ORDER BY item_id") == [
            ("i00000", ["a", "c"], "predicted"),
            ("i00001", ["b", "c"], "gold"),
        ]
        assert reader.rows("SELECT item_id, gold FROM disagreements") == [("i00001", "b, c")]
        for asked in questions():
            reader.rows(asked.sql)


def test_without_several_classes_rows_and_hashes_are_what_they_were(lake: Lake) -> None:
    with lake.stage("ingest", version=1, inputs=()) as stage:
        stage.commit([Upsert("classes", classes("a", "b")), Upsert("items", items(2))])
    say(lake, {("i00000", "ann"): 1})
    with lake.read() as reader:
        assert reader.rows("SELECT class_id, label, class_ids, labels FROM gold_labels") == [(1, "b", [1], ["b"])]
        assert reader.scalar("SELECT count(class_ids) FROM annotations") == 0
        stored = reader.arrow("SELECT * FROM annotations")
    assert hash_rows("annotations", stored) == hash_rows("annotations", stored.drop_columns(["class_ids"]))
    said = stored.drop_columns(["class_ids"]).append_column("class_ids", pa.array([[1]], pa.list_(pa.int32())))
    assert hash_rows("annotations", said) != hash_rows("annotations", stored)


def labels_in(path: Path) -> list[tuple[str, tuple[str, ...] | None]]:
    return [(row.item_id, row.labels) for row in read_label_file(path)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("gold.jsonl", '{"id": 1, "label": ["a", "b"]}\n{"id": 2, "label": []}\n{"id": 3, "label": "c"}\n'),
        ("gold.csv", 'id,label\n1,"[""a"", ""b""]"\n2,[]\n3,c\n'),
        ("gold.csv", 'label;id\r\n"[""a"", ""b""]";1\r\n[];2\r\nc;3\r\n'),
    ],
)
def test_a_label_file_may_hold_lists(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, "utf-8")
    assert labels_in(tmp_path / name) == [("1", ("a", "b")), ("2", ()), ("3", ("c",))]
    with pytest.raises(DataError, match=r"item '1' 2 classes.*multi_label = true"):
        one_class(tmp_path / name, "1", ("a", "b"))


@pytest.mark.parametrize(
    ("name", "text"), [("gold.jsonl", '{"id": 1, "label": "a"}\n'), ("gold.csv", "id,label\n1,a\n")]
)
def test_a_label_file_may_begin_with_a_mark_of_utf8(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, "utf-8-sig")  # as spreadsheets write it
    assert labels_in(tmp_path / name) == [("1", ("a",))]


@pytest.mark.parametrize(
    ("ids", "texts"),
    [
        (pa.array([1.0, 1e15]), ["1", "1000000000000000"]),
        (pa.array([Decimal("1.00"), Decimal("20.00")]), ["1", "20"]),
        (pa.array(["1.0", "x"]).dictionary_encode(), ["1.0", "x"]),
        (pa.array([b"x", b"y"]), ["x", "y"]),
        (pa.ExtensionArray.from_storage(pa.uuid(), pa.array([bytes(16)], pa.binary(16))), [str(UUID(int=0))]),
    ],
    ids=["floats", "decimals", "categories", "bytes", "uuids"],
)
def test_ids_of_a_label_file_are_those_of_items(lake: Lake, tmp_path: Path, ids: pa.Array, texts: list[str]) -> None:
    labels = ["a"] * len(ids)
    pq.write_table(pa.table({"id": ids, "label": labels, "text": labels}), tmp_path / "gold.parquet")
    assert [item_id for item_id, _ in labels_in(tmp_path / "gold.parquet")] == texts
    source = SourceConfig(name="s", path="gold.parquet", id="id")
    ingest(lake, IngestConfig(root=tmp_path, classes=("a",), sources=(source,)))
    with lake.read() as reader:
        assert sorted(reader.rows("SELECT item_id FROM items")) == sorted((text,) for text in texts)


@pytest.mark.parametrize(
    ("name", "text"),
    [("gold.jsonl", '{"item_id": 1, "label": "a"}\n'), ("gold.csv", "item_id,label\n1,a\n")],
)
def test_ids_of_a_label_file_may_be_called_as_the_warehouse_does(tmp_path: Path, name: str, text: str) -> None:
    """`siftline import`, which takes such a file, names `gold` for what nobody learns from."""
    (tmp_path / name).write_text(text, "utf-8")
    assert labels_in(tmp_path / name) == [("1", ("a",))]


def test_half_a_surrogate_pair_in_an_id_is_refused(tmp_path: Path) -> None:
    (tmp_path / "gold.jsonl").write_text('{"id": "a\\ud800", "label": "a"}\n', "utf-8")
    with pytest.raises(DataError, match="where a character lacks its half"):
        read_label_file(tmp_path / "gold.jsonl")


@pytest.mark.parametrize("label", ['["a", "a"]', "[7]", "7", "{}"])
def test_a_label_that_is_none_is_refused(tmp_path: Path, label: str) -> None:
    (tmp_path / "gold.jsonl").write_text(f'{{"id": 1, "label": {label}}}\n', "utf-8")
    with pytest.raises(DataError, match=r"gold\.jsonl has the label .* for item '1'"):
        read_label_file(tmp_path / "gold.jsonl")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("gold.csv", "id,label,label\n1,a,b\n", "column 'label' 2 times. Rename all but one"),
        ("gold.jsonl", '{"id": "1", "label": "a", "label": "b"}\n', "line 1 the field 'label' stands 2 times"),
    ],
)
def test_two_columns_of_one_name_are_refused(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text, "utf-8")
    with pytest.raises(DataError, match=said):
        read_label_file(tmp_path / name)


def test_a_label_file_may_have_a_text_of_any_length_beside_the_label(tmp_path: Path) -> None:
    before = csv.field_size_limit(131_072)  # what a new process has
    try:
        (tmp_path / "gold.csv").write_text(f"id,text,label\n1,{'long ' * 40_000},a\n", "utf-8")
        assert labels_in(tmp_path / "gold.csv") == [("1", ("a",))]
    finally:
        csv.field_size_limit(max(before, csv.field_size_limit()))


def test_a_label_file_that_is_nested_too_deep_is_named(tmp_path: Path) -> None:
    (tmp_path / "gold.jsonl").write_text("[" * 100_000, "utf-8")
    with pytest.raises(DataError, match=r"gold\.jsonl cannot be read as JSON lines"):
        read_label_file(tmp_path / "gold.jsonl")
