"""Labels from elsewhere are answers: they count until their text is edited, and no queue or service loses by them."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Self

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from active.pool.pool import read_pool
from active.quality.relabeling import ask_again
from active.queue.collect import collect
from active.queue.import_labels import (
    ACCOUNTS,
    HELD_OUT,
    MOVED,
    NO_ITEM,
    NO_TEXT,
    NUMBERS,
    UNLABELLED,
    UNNAMED,
    import_labels,
)
from active.queue.outbox import QueueConfig
from active.queue.push import push
from active.queue.reconcile import reconcile
from active.task_folder.service import TaskFolder
from tests.active.pools import CLASSES, SmallPool, clusters, small_pool
from tests.active.test_ask_again import CONFIG, OPINIONS, answer, change_text, gold, no_index, row_of, send
from warehouse import DataError, Lake, StageResult
from warehouse.export.formats import write_csv

N = 12


@pytest.fixture
def pool(lake: Lake, tmp_path: Path) -> SmallPool:
    return small_pool(lake, tmp_path, clusters(N)[0], test_rows=[N - 1])


def labels(folder: Path, *rows: Mapping[str, object], name: str = "labels.jsonl") -> Path:
    file = folder / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return file


def given(folder: Path, lake: Lake, *rows: Mapping[str, object], config: QueueConfig = CONFIG) -> StageResult:
    return import_labels(lake, labels(folder, *rows), config)


def history(lake: Lake, item: str) -> list[tuple[str, int]]:
    with lake.read() as reader:
        sql = "SELECT annotator, class_id FROM annotations WHERE item_id = ? ORDER BY committed_at, annotator"
        return reader.rows(sql, [item])


@pytest.mark.parametrize("key", ["id", "annotator"])
def test_half_a_surrogate_pair_is_refused_in_words(pool: SmallPool, tmp_path: Path, key: str) -> None:
    row = {"id": pool.ids[0], "label": "earn", "annotator": "ann", key: "a\ud800"}
    with pytest.raises(DataError, match=r"has 'a\\ud800' in it, where a character lacks its half"):
        given(tmp_path, pool.lake, row)


def test_labels_count_as_people_gave_them_and_a_second_import_changes_nothing(
    pool: SmallPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, (first, second, *_) = pool.lake, pool.ids
    file = tmp_path / "labels.csv"
    file.write_text(
        f"id,label,annotator\n{first},earn,ann\n{first},ship,bob\n{second},acq,\n{first},earn,ann\n", "utf-8"
    )
    result = import_labels(lake, file, CONFIG, annotator="team")
    assert result.rows_written == {"annotations": 3, "asked_before": 2}
    assert history(lake, first) == [("ann", 1), ("bob", 2)]
    assert history(lake, second) == [("team", 0)]
    assert gold(lake, second) == [0]
    assert not import_labels(lake, file, CONFIG, annotator="team").committed

    file.write_text(f"id,label,annotator\n{first},ship,ann\n", "utf-8")  # the others' stay
    assert import_labels(lake, file, CONFIG).rows_written == {"annotations": 1}
    assert history(lake, first) == [("ann", 1), ("bob", 2), ("ann", 2)]
    assert (gold(lake, first), gold(lake, second)) == ([2], [0])
    with lake.read() as reader:
        assert sorted(read_pool(reader, pool.ids).labelled) == [0, 1]  # nobody is asked about them

    class Back(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls(2020, 1, 1, tzinfo=tz)

    monkeypatch.setattr("active.queue.import_labels.datetime", Back)
    file.write_text(f"id,label,annotator\n{second},ship,team\n", "utf-8")
    assert import_labels(lake, file, CONFIG).committed
    assert gold(lake, second) == [2], "the later one, whatever the clock says"


def test_accounts_of_label_studio_get_their_names_where_it_can_tell(pool: SmallPool, tmp_path: Path) -> None:
    lake, (first, second, *_) = pool.lake, pool.ids
    file = tmp_path / "export.csv"
    at = "2026-11-30T10:00:00.000000Z"
    file.write_text(
        "annotation_id,annotator,created_at,item_id,label\n"
        f"66,2,{at},{first},earn\n67,3,{at},{first},ship\n68,2,{at},{second},acq\n69,ann,{at},{second},acq\n",
        "utf-8",
    )
    assert import_labels(lake, file, CONFIG).detail[NUMBERS] == "2, 3"
    asked: list[object] = []

    def accounts(annotations: Mapping[str, Sequence[tuple[str, ...]]]) -> dict[str, str]:
        asked.append(annotations)
        return {"2": "bob@siftline.local"}

    result = import_labels(lake, file, CONFIG, accounts=accounts)
    assert asked == [{"2": [("66", at), ("68", at)], "3": [("67", at)]}]
    assert {NUMBERS: "3", ACCOUNTS: 1, MOVED: 2}.items() <= result.detail.items()
    assert import_labels(lake, file, CONFIG, accounts=accounts).rows_written == {}
    with lake.read() as reader:
        people = reader.rows("SELECT annotator, class_id FROM opinions WHERE item_id = ? ORDER BY 1", [first])
    assert people == [("3", 2), ("bob@siftline.local", 1)]
    import_labels(lake, labels(tmp_path, {"id": first, "label": "earn", "annotator": "2"}), CONFIG, accounts=accounts)
    assert len(asked) == 2, "a number beside nothing of Label Studio's may be anybody's"
    import_labels(lake, file, CONFIG, accounts=accounts, withdraw=True)
    assert gold(lake, first) == gold(lake, second) == []


def test_what_is_left_out_is_told(pool: SmallPool, tmp_path: Path) -> None:
    rows = [{"id": pool.ids[0], "label": "acq"}, {"id": pool.ids[1], "label": None}, {"id": pool.ids[2], "label": ""}]
    rows += [{"id": pool.ids[-1], "label": "acq"}, {"id": "later", "label": "acq"}]
    result = given(tmp_path, pool.lake, *rows)
    assert result.rows_written["annotations"] == 1
    assert {NO_ITEM: 1, HELD_OUT: 1, UNLABELLED: 2}.items() <= result.detail.items()
    assert gold(pool.lake, pool.ids[-1]) == []
    assert not given(tmp_path, pool.lake, {"id": pool.ids[1], "label": None}).committed


def test_an_edited_text_ends_them_until_they_are_imported_again(pool: SmallPool, tmp_path: Path) -> None:
    lake, item = pool.lake, pool.ids[3]
    row = {"item_id": item, "label": "ship"}
    given(tmp_path, lake, row)
    assert gold(lake, item) == [2]
    for text in ("another", "a third"):
        change_text(lake, item, text)
        assert gold(lake, item) == []
        assert given(tmp_path, lake, row).rows_written == {"annotations": 1, "asked_before": 1}
        assert gold(lake, item) == [2]
        assert not given(tmp_path, lake, row).committed


def test_the_queue_and_the_service_are_left_alone(pool: SmallPool, tmp_path: Path) -> None:
    lake, folder, (item, other, *_) = pool.lake, TaskFolder(tmp_path / "tasks", "p"), pool.ids
    send(pool, folder, CONFIG)
    answer(folder, other, 1)
    collect(lake, folder, CONFIG)
    given(tmp_path, lake, {"id": item, "label": "ship"}, {"id": other, "label": "ship"})
    assert (row_of(lake, item)["state"], row_of(lake, other)["state"]) == ("confirmed", "answered")
    result = collect(lake, folder, CONFIG)
    assert (result.committed, result.detail) == (False, {})  # not taken for answers whose task is gone
    answer(folder, item, 0)
    collect(lake, folder, CONFIG)
    assert history(lake, item) == [("imported", 2), ("ann", 0)]
    assert row_of(lake, item)["state"] == "answered"


def test_people_are_asked_about_those_that_disagree(pool: SmallPool, tmp_path: Path) -> None:
    lake, folder, (first, second, *_) = pool.lake, TaskFolder(tmp_path / "tasks", "p"), pool.ids
    rows = [{"id": item, "label": label, "annotator": label} for item in (first, second) for label in ("earn", "ship")]
    given(tmp_path, lake, *rows[:3])
    assert ask_again(lake, no_index, OPINIONS).detail == {"disagreement": 1}
    assert not ask_again(lake, no_index, OPINIONS).committed
    push(lake, folder, CONFIG)
    assert folder.find([first, second]) == {first: [folder.task_id(first, 2)]}
    assert (row_of(lake, first)["prediction"], row_of(lake, first)["cycle"], row_of(lake, first)["rank"]) == (-1, 1, 1)
    assert reconcile(lake, folder, CONFIG).lines() == ["1 task agrees with the service"]
    given(tmp_path, lake, rows[3])
    assert ask_again(lake, no_index, OPINIONS).detail == {"disagreement": 1}
    assert row_of(lake, second)["rank"] == 2
    push(lake, folder, CONFIG)
    answer(folder, first, 1, "cy", round=2)
    collect(lake, folder, CONFIG)
    assert (gold(lake, first), row_of(lake, first)["state"]) == ([1], "answered")
    assert not ask_again(lake, no_index, OPINIONS).committed  # two to one


def test_several_classes_and_none(lake: Lake, tmp_path: Path) -> None:
    pool = small_pool(lake, tmp_path, clusters(N)[0], multi_label=True)
    several = QueueConfig(project="p", classes=CLASSES, multi_label=True)
    rows = [{"id": pool.ids[0], "label": ["ship", "acq"]}, {"id": pool.ids[1], "label": []}]
    assert given(tmp_path, lake, *rows, config=several).rows_written["annotations"] == 2
    assert not given(tmp_path, lake, *rows, config=several).committed
    two = [{"id": rows[0]["id"], "label": name} for name in CLASSES[:2]]
    with pytest.raises(DataError, match=r"Several classes of one item are one list \(.*siftline docs label-studio"):
        given(tmp_path, lake, *two, config=several)
    with lake.read() as reader:
        assert reader.rows("SELECT class_ids FROM gold_labels ORDER BY item_id") == [([0, 2],), ([],)]


def test_texts_say_which_items_a_label_is_about(pool: SmallPool, tmp_path: Path) -> None:
    """Other tools number tasks as they like, so their ids may be those of other items here."""
    lake, ids = pool.lake, pool.ids
    text = {item: f"words {max(n, 1)}" for n, item in enumerate(ids[:5])}  # the first two have one text
    for item in text:
        change_text(lake, item, text[item])
    rows = [
        {"id": ids[5], "body": text[ids[2]], "label": "ship"},
        {"id": ids[1], "body": text[ids[0]], "label": "earn"},  # its own id among those of its text
        {"id": 7, "body": text[ids[0]], "label": "acq", "annotator": "ann"},
        {"id": ids[6], "body": "no item's", "label": "acq"},
        {"id": ids[3], "body": text[ids[3]], "label": "acq", "answer": "reject"},  # as Prodigy writes it
        {"id": ids[4], "body": text[ids[4]], "label": []},  # as doccano writes it
        {"body": "", "label": "acq"},
    ]
    result = import_labels(lake, labels(tmp_path, *rows), CONFIG, texts=["body"])
    assert {NO_TEXT: 1, UNLABELLED: 2, UNNAMED: 1}.items() <= result.detail.items()
    assert (history(lake, ids[0]), history(lake, ids[1])) == ([("ann", 0)], [("ann", 0), ("imported", 1)])
    assert history(lake, ids[2]) == [("imported", 2)]
    assert [gold(lake, ids[n]) for n in (3, 4, 5, 6)] == [[], [], [], []]
    with pytest.raises(DataError, match=rf"the first is that of id '{ids[0]}'.*leave the column"):
        import_labels(lake, labels(tmp_path, {"id": ids[0], "text": "x", "label": "acq"}), CONFIG)
    with pytest.raises(DataError, match="the first is 'x'"):
        import_labels(lake, labels(tmp_path, {"text": "x", "label": "acq"}), CONFIG)
    change_text(lake, ids[2], "a\ttext of \u00a0 two\r\nlines ")
    told = rf"that of id '7', 'a text of two lines'\. Item '{ids[2]}' begins so too, but for white space or what"
    with pytest.raises(DataError, match=told):
        import_labels(lake, labels(tmp_path, {"id": 7, "text": "a text of two\nlines", "label": "acq"}), CONFIG)


def test_a_csv_of_siftlines_own_comes_back_with_its_marks_before_formulas(lake: Lake, tmp_path: Path) -> None:
    """Tweets begin with @, and classes may be called +1 and -1."""
    texts = {"-1": "@ann it broke", "@2": "'-quoted by itself", "'+3": "=3 is three", "4": "plain"}
    for item, text in texts.items():
        change_text(lake, item, text)
    signs = QueueConfig(project="p", classes=("-1", "+1"))
    for columns in (["id", "label"], ["text", "label"], ["id", "text", "label", "annotator"]):
        with (tmp_path / "found.csv").open("w", newline="") as file:
            rows = [{"id": item, "text": text, "label": "+1", "annotator": "@bo"} for item, text in texts.items()]
            write_csv(file, columns, [[row[name] for name in columns] for row in rows])
        result = import_labels(lake, tmp_path / "found.csv", signs, annotator="-".join(columns))
        assert result.rows_written["annotations"] == 4
        assert not {NO_ITEM, NO_TEXT} & result.detail.keys()
    change_text(lake, "-1", "two")
    change_text(lake, "@2", "three")
    with (tmp_path / "found.csv").open("w", newline="") as file:  # the ids have marks, the texts that nobody reads none
        write_csv(file, ["id", "content", "label"], [["-1", "two", "+1"], ["@2", "three", "+1"]])
    assert import_labels(lake, tmp_path / "found.csv", signs, annotator="cy").rows_written["annotations"] == 2
    with lake.read() as reader:
        assert reader.rows("SELECT DISTINCT annotator FROM annotations WHERE annotator LIKE '%@%'") == [("@bo",)]
        assert reader.rows("SELECT DISTINCT class_id FROM annotations") == [(1,)]


@pytest.mark.parametrize("name", ["labels.csv", "labels.jsonl", "labels.parquet"])
def test_ids_beside_texts_of_other_items_are_refused(pool: SmallPool, tmp_path: Path, name: str) -> None:
    """The column of texts has a name that nobody reads, and the ids are those of another tool."""
    lake, ids, file = pool.lake, pool.ids, tmp_path / name
    for n in range(5):
        change_text(lake, ids[n], f"words {n}")
    change_text(lake, ids[N - 1], f"words {N - 1}", "test")

    def tell(*rows: tuple[str, str]) -> StageResult:
        table = pa.table(
            {
                "annotator": ["ann"] * len(rows),
                "id": [item for item, _ in rows],
                "label": ["earn"] * len(rows),
                "message": [text for _, text in rows],
                "note": ["words 4"] * len(rows),  # a cell may be an item's text by chance
            }
        )
        if name.endswith("csv"):
            pacsv.write_csv(table, file)
        elif name.endswith("parquet"):
            pq.write_table(table, file)
        else:
            labels(tmp_path, *table.to_pylist())
        return import_labels(lake, file, CONFIG)

    told = r"texts of this project's items in its column 'message'.*Call that column 'text'"
    for shifted in ([(ids[n + 1], f"words {n}") for n in range(4)], [(str(n), f"words {n}") for n in range(4)]):
        with pytest.raises(DataError, match=told):
            tell(*shifted)
    assert not gold(lake, ids[1])
    file.write_text("")
    edited = [(ids[n], f"words {n}" if n else "words before they were edited") for n in range(4)]
    result = tell(*edited, (ids[5], f"words {N - 1}"), (ids[4], "words 4"))
    assert result.committed
    assert HELD_OUT not in result.detail  # no label is about the last item
    assert gold(lake, ids[1]) == [1]


def test_what_was_imported_can_be_taken_back(pool: SmallPool, tmp_path: Path) -> None:
    lake, (first, second, *_) = pool.lake, pool.ids
    given(tmp_path, lake, {"id": first, "label": "earn"}, {"id": first, "label": "ship", "annotator": "ann"})
    given(tmp_path, lake, {"id": second, "label": "earn"})
    file = labels(tmp_path, {"id": first, "label": "earn"}, {"id": second, "label": "acq", "annotator": "ann"})
    assert import_labels(lake, file, CONFIG, withdraw=True).rows_written == {"annotations": 1}
    assert not import_labels(lake, file, CONFIG, withdraw=True).committed
    assert (gold(lake, first), gold(lake, second)) == ([2], [1])
    with lake.read() as reader:
        assert sorted(read_pool(reader, pool.ids).labelled) == [0, 1]
    given(tmp_path, lake, {"id": first, "label": "acq"})
    assert history(lake, first)[-1] == ("imported", 0)


def test_people_s_labels_go_to_a_new_warehouse(pool: SmallPool, tmp_path: Path) -> None:
    given(tmp_path, pool.lake, *({"id": item, "label": CLASSES[n % 3]} for n, item in enumerate(pool.ids[:5])))
    with pool.lake.read() as reader:  # as docs/operations.md has it, with a class under another name
        rows = reader.arrow("SELECT item_id, labels AS label FROM gold_labels").to_pylist()
    renamed = ("bought", *CLASSES[1:])
    taken = [{**row, "label": ["bought" if name == "acq" else name for name in row["label"]]} for row in rows]
    with Lake(tmp_path / "new") as lake:
        small_pool(lake, tmp_path / "second", clusters(N)[0])
        given(tmp_path, lake, *taken, config=QueueConfig(project="q", classes=renamed))
        assert [gold(lake, item) for item in pool.ids[:5]] == [[0], [1], [2], [0], [1]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("i00000", "Earn"), ("i00001", "acq")], r"'Earn' \(once, perhaps meant as 'earn'\).*acq, earn, ship"),
        ([("i00000", "x"), ("i00001", "x"), ("i00002", "y")], r"'x' \(2 times\), 'y' \(once\)"),
        ([("i00000", "acq"), ("i00000", "earn")], r"two labels of one person: 'i00000' by 'imported'\..*annotator"),
        (
            [(f"i0000{n}", name) for n in range(5) for name in ("acq", "earn")],
            r"'i00000' by .* 'i00002' by 'imported' and 2 more",
        ),
        ([("one", "acq"), ("two", "earn")], r"Not one of the ids of the 2 rows.*such as 'one'.*siftline sql"),
        ([("i00000", ["acq", "earn"])], r"item 'i00000' 2 classes.*multi_label = true"),
        ([("", "acq")], r"neither id nor text in any row"),
        ([("i00000", 7)], r"label 7 for item 'i00000'"),
        ([("i00000", "0"), ("i00001", "2")], r"'0' \(once\), .*Names of numbers: siftline docs label-studio 'Files"),
    ],
)
def test_a_wrong_file_is_refused_whole(
    pool: SmallPool, tmp_path: Path, rows: list[tuple[str, object]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        given(tmp_path, pool.lake, *({"id": item, "label": label} for item, label in rows))
    with pool.lake.read() as reader:
        assert reader.scalar("SELECT count(*) FROM annotations") == 0


def test_a_file_without_rows_says_nothing(pool: SmallPool, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("id,label\n", "utf-8")
    assert import_labels(pool.lake, tmp_path / "labels.csv", CONFIG).rows_written == {}


def test_a_file_without_the_columns_is_refused(pool: SmallPool, tmp_path: Path) -> None:
    for mark in ",;":
        (tmp_path / "labels.csv").write_text(f"text{mark}class\na{mark}acq\n", "utf-8")
        with pytest.raises(DataError, match=r"has the columns text, class\. Call the one with the labels 'label'"):
            import_labels(pool.lake, tmp_path / "labels.csv", CONFIG)
    (tmp_path / "labels.csv").write_text('id,label\ni00000,acq\ni00001,"earn\ni00002,acq\n', "utf-8")
    with pytest.raises(DataError, match=r"cannot be read as CSV.*unexpected end of data"):
        import_labels(pool.lake, tmp_path / "labels.csv", CONFIG)
    (tmp_path / "labels.csv").write_text("id,text,label\ni00000,one, and more,acq\n", "utf-8")
    with pytest.raises(DataError, match=r"ends in line 2 has more or fewer cells"):
        import_labels(pool.lake, tmp_path / "labels.csv", CONFIG)
    with pytest.raises(DataError, match=r"export\.xlsx is not read: .*siftline docs label-studio 'Files"):
        import_labels(pool.lake, tmp_path / "export.xlsx", CONFIG)
    with pytest.raises(DataError, match=r"does not exist"):
        import_labels(pool.lake, tmp_path / "missing.parquet", CONFIG)
