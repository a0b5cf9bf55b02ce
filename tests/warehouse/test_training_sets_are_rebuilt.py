"""A training set is files with a manifest, and its snapshot gives the same bytes until it is expired on purpose."""

import contextlib
import csv
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.flows.report_lake import full_lake
from tests.warehouse.test_what_changed import answer, commit, predict, up
from tests.weak_labels.lf_helpers import CLASSES, add_items, run_vote
from warehouse import Delete, Lake, SettingsError, SnapshotNotFound, Upsert
from warehouse.catalog.connection import connect
from warehouse.export.formats import new_file
from warehouse.export.training_set import Format, export_training_set
from weak_labels import keywords

FORMATS: tuple[Format, ...] = ("parquet", "jsonl", "csv", "datasets")


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    with full_lake(tmp_path_factory.mktemp("exported") / "lake") as opened:
        yield opened


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_manifest_says_what_it_is_and_its_checksums_hold(lake: Lake, tmp_path: Path) -> None:
    for form in FORMATS:
        made = export_training_set(lake.path, tmp_path / form, format=form, where="split = 'train'")
        written = json.loads((tmp_path / form / "manifest.json").read_text("utf-8"))
        assert written == made
        assert made["snapshot"] == lake.snapshot()
        assert made["counts"]["rows"] == sum(made["counts"]["by_label"].values()) == 60
        assert set(made["counts"]["by_label"]) <= set(made["classes"])
        assert made["counts"]["by_split"] == {"train": 60}
        assert made["counts"]["by_label_source"] == {"gold": 16, "predicted": 44}
        assert made["counts"]["simulated"] == 16
        assert made["code"]["models"] == {"end_model": "m2"}
        assert "lf_ship" in made["code"]["functions"]
        found = content(tmp_path / form)
        assert {f["path"] for f in made["files"]} == set(found) - {"manifest.json"}
        for file in made["files"]:
            assert file["sha256"] == hashlib.sha256(found[file["path"]]).hexdigest()


def test_every_form_holds_the_same_rows(lake: Lake, tmp_path: Path) -> None:
    counts = [export_training_set(lake.path, tmp_path / form, format=form)["counts"] for form in FORMATS]
    assert (counts[0]["rows"], counts[0]["simulated"]) == (90, 16)
    assert counts == [counts[0]] * len(FORMATS)  # also where each split is a file
    with lake.read() as reader:
        labels = dict(reader.rows("SELECT item_id, label FROM training_set"))
        texts = dict(reader.rows("SELECT item_id, content FROM training_set"))
    table = pq.read_table(tmp_path / "parquet" / "training_set.parquet")
    assert dict(zip(table["item_id"].to_pylist(), table["content"].to_pylist(), strict=True)) == texts
    assert table["item_id"].to_pylist() == sorted(labels)
    lines = (tmp_path / "jsonl" / "training_set.jsonl").read_text("utf-8").split("\n")[:-1]
    assert {row["item_id"]: row["label"] for row in map(json.loads, lines)} == labels
    with (tmp_path / "csv" / "training_set.csv").open(encoding="utf-8", newline="") as file:
        assert {row["item_id"]: row["label"] for row in csv.DictReader(file)} == labels
    parts = pa.concat_tables([pq.read_table(p) for p in sorted((tmp_path / "datasets" / "data").glob("*.parquet"))])
    assert dict(zip(parts["item_id"].to_pylist(), parts["label_name"].to_pylist(), strict=True)) == labels
    card = (tmp_path / "datasets" / "README.md").read_text("utf-8")
    assert "path: data/train-*.parquet" in card
    assert "labels in `test` and\n`validation` tell nothing of how right a model is" in card
    assert "'1': \"ship <b>&\"" in card


def loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An export as a person's `datasets.load_dataset` reads it."""
    import datasets

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", folder.parent / "cache")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    return datasets.load_dataset(str(folder))


def test_the_datasets_folder_is_what_load_dataset_reads(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_training_set(lake.path, tmp_path / "labels", format="datasets")
    with lake.read() as reader:
        rows = reader.rows("SELECT item_id, label, split, content, confidence, simulated, probs FROM training_set")
    found = loaded(tmp_path / "labels", monkeypatch)
    assert set(found) == {"train", "test"}
    features = found["train"].features
    assert (features["content"].dtype, features["simulated"].dtype) == ("string", "bool")
    assert features["confidence"].dtype == "float32", "as in the file"
    names = features["label"].names
    read = {row["item_id"]: row for part in found.values() for row in part}
    assert len(read) == len(rows)
    for item, label, split, content, confidence, simulated, probs in rows:
        row = read[item]
        assert (names[row["label"]], row["label_name"], row["split"], row["content"]) == (label, label, split, content)
        assert (row["confidence"], row["simulated"], row["probs"]) == (confidence, simulated, probs)
    assert found["train"].filter(lambda row: row["label_source"] == "gold", cache_file_name=None).num_rows == 16


def test_the_card_of_a_datasets_folder_names_the_classes_in_any_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = 'grain \U0001f600 \u00e9 "quoted"'
    with full_lake(tmp_path / "lake") as lake:
        cursor = lake.new_cursor()
        cursor.execute("UPDATE classes SET name = ? WHERE class_id = 0", [name])
        cursor.close()
        export_training_set(lake.path, tmp_path / "set", format="datasets")
        with pytest.raises(SettingsError, match="needs rows"):
            export_training_set(lake.path, tmp_path / "none", format="datasets", where="false")
    assert not (tmp_path / "none").exists()
    head = yaml.safe_load((tmp_path / "set" / "README.md").read_text("utf-8").split("---\n")[1])
    label = next(f for f in head["dataset_info"]["features"] if f["name"] == "label")
    assert label["dtype"]["class_label"]["names"]["0"] == name
    assert loaded(tmp_path / "set", monkeypatch)["train"].features["label"].names[0] == name


def test_a_text_that_looks_like_a_formula_is_none_in_csv_and_itself_elsewhere(tmp_path: Path) -> None:
    with full_lake(tmp_path / "lake") as lake:
        with lake.read() as reader:
            rows = reader.arrow("SELECT * EXCLUDE (run_id, committed_at) FROM items WHERE item_id < 'i008' ORDER BY 1")
        texts = ["=cmd|'/C calc'!A0", "+1", "-2", "@sum(A1)", "\t=1", "\n=1", "\uff1d1", "\uff20sum(A1)"]
        commit(lake, "hostile", Upsert("items", rows.set_column(1, "content", pa.array(texts))))
        for form in ("csv", "jsonl"):
            export_training_set(lake.path, tmp_path / form, format=form, where="item_id < 'i008'")
    with (tmp_path / "csv" / "training_set.csv").open(encoding="utf-8", newline="") as file:
        assert [row["content"] for row in csv.DictReader(file)] == [f"'{text}" for text in texts]
    lines = (tmp_path / "jsonl" / "training_set.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["content"] for line in lines] == texts


@pytest.mark.parametrize(
    ("trouble", "told"), [(OSError("no"), SettingsError), (KeyboardInterrupt(), KeyboardInterrupt)], ids=repr
)
def test_an_earlier_export_comes_back_where_the_new_one_does_not_come(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: BaseException, told: type[BaseException]
) -> None:
    place = tmp_path / "set"
    export_training_set(lake.path, place, format="parquet")
    before = content(place)
    replace = os.replace

    def stop(source: Path, target: Path) -> None:
        if Path(target) == place and "earlier" not in Path(source).name:
            raise trouble
        replace(source, target)

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(told):
        export_training_set(lake.path, place, format="csv", force=True)
    assert content(place) == before


@pytest.mark.parametrize(
    ("step", "force", "told"), [("fsync", False, "exists already"), ("replace", True, "at the same moment")]
)
def test_of_two_exports_to_one_place_the_second_says_so(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, force: bool, told: str
) -> None:
    """Another one comes as the first is on its way to the disk, or has just moved an earlier one."""
    place = tmp_path / "set"
    if force:
        export_training_set(lake.path, place, format="parquet")
    real = getattr(os, step)

    def other_comes(*given: Any) -> None:
        real(*given)
        monkeypatch.undo()
        export_training_set(lake.path, place, format="csv")

    monkeypatch.setattr(os, step, other_comes)
    with pytest.raises(SettingsError, match=told):
        export_training_set(lake.path, place, format="jsonl", force=force)
    assert set(content(place)) == {"manifest.json", "training_set.csv"}


def test_a_file_that_came_while_another_was_written_stays(tmp_path: Path) -> None:
    place = tmp_path / "labels.csv"
    with contextlib.ExitStack() as stack:
        stack.enter_context(pytest.raises(SettingsError, match="exists already"))
        stack.enter_context(new_file(place)).write_text("first")
        with new_file(place) as second:
            second.write_text("second")
    with new_file(place, force=True) as third:
        assert place.read_text() == "second"
        third.write_text("third")
    assert (place.read_text(), list(tmp_path.iterdir())) == ("third", [place])


def test_an_export_is_on_disk_before_it_takes_the_place_of_an_earlier_one(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "set"
    export_training_set(lake.path, place, format="parquet")
    sync, synced = os.fsync, set[str]()

    def noting(handle: int) -> None:
        synced.add(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        sync(handle)

    monkeypatch.setattr(os, "fsync", noting)
    export_training_set(lake.path, place, format="csv", force=True)
    assert set(content(place)) == {"manifest.json", "training_set.csv"} <= synced
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_every_cycles_training_set_comes_back_bit_for_bit_until_it_is_expired(tmp_path: Path) -> None:
    """After later cycles, edits, deletions, compaction and the removal of files that compaction replaced."""
    with full_lake(tmp_path / "lake") as lake:
        with lake.read() as reader:
            cycles = [n for (n,) in reader.rows("SELECT snapshot_id FROM runs WHERE stage = 'collect' ORDER BY 1")]
            edited = reader.arrow("SELECT * EXCLUDE (run_id, committed_at) FROM items WHERE item_id < 'i030'")
        kept: dict[tuple[int, Format], dict[str, bytes]] = {}
        for number in cycles:
            for form in FORMATS[:2] if number == cycles[0] else FORMATS[::3]:
                export_training_set(lake.path, tmp_path / f"{number}-{form}", format=form, at=number)
                kept[number, form] = content(tmp_path / f"{number}-{form}")
        assert kept[cycles[0], "parquet"] != kept[cycles[1], "parquet"]

        texts = pa.array([f"edited {n}" for n in range(edited.num_rows)])
        commit(lake, "edit", Upsert("items", edited.set_column(1, "content", texts)), answer("i050", 2))
        commit(lake, "remove", Delete("items", pa.table({"item_id": ["i003", "i004"]})))
        commit(lake, "learn", *predict("m9", 9, {f"i{n:03d}": 0 for n in range(90)}))
        commit(
            lake, "vote", up("lf_votes", item_id=["i1"], lf_name=["f"], lf_version=["1"], input_hash=["h"], vote=[1])
        )
        with contextlib.closing(connect(lake.location, read_only=False)) as own:
            own.execute("SET threads = 1")  # a flush with two may kill the process: warehouse/maintenance/compaction.py
            own.execute("CALL ducklake_flush_inlined_data('lake')")
        cursor = lake.new_cursor()
        for call in (
            "ducklake_merge_adjacent_files('lake')",
            "ducklake_rewrite_data_files('lake', delete_threshold => 0)",
            "ducklake_cleanup_old_files('lake', cleanup_all => true)",
        ):
            cursor.execute(f"CALL {call}")
        for (number, form), before in kept.items():
            again = tmp_path / f"again-{number}-{form}"
            export_training_set(lake.path, again, format=form, at=number)
            assert content(again) == before

        cursor.execute(f"CALL ducklake_expire_snapshots('lake', versions => [{cycles[0]}])")
        cursor.execute("CALL ducklake_cleanup_old_files('lake', cleanup_all => true)")
        cursor.close()
        with pytest.raises(SnapshotNotFound, match="expired"):
            export_training_set(lake.path, tmp_path / "gone", format="parquet", at=cycles[0])
        export_training_set(lake.path, tmp_path / "still", format="parquet", at=cycles[1])
        assert content(tmp_path / "still") == kept[cycles[1], "parquet"]


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("splt = 'train'", "splt"),
        ("split =", "syntax error"),
        ("true) ; DELETE FROM items; SELECT (1", "more than one expression"),
        ("true) ; SELECT 1 FROM items WHERE (true", "is no condition"),
        ("item_id IN (SELECT content FROM read_text('/etc/hostname'))", "disabled"),
        ("true -- all", ""),
    ],
)
def test_a_condition_is_one_expression_that_reads_the_warehouse_only(
    lake: Lake, tmp_path: Path, where: str, words: str
) -> None:
    if not words:
        assert export_training_set(lake.path, tmp_path / "out", format="csv", where=where)["counts"]["rows"] == 90
        return
    with pytest.raises(SettingsError, match=words):
        export_training_set(lake.path, tmp_path / "out", format="csv", where=where)
    assert list(tmp_path.iterdir()) == []


def test_an_export_is_its_owners_only(lake: Lake, tmp_path: Path) -> None:
    for form in FORMATS:
        export_training_set(lake.path, tmp_path / form, format=form)
        paths = [tmp_path / form, *(tmp_path / form).rglob("*")]
        assert [path for path in paths if path.stat().st_mode & 0o077] == []


def test_a_place_that_is_taken_is_left_alone(lake: Lake, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    for force, words in ((False, "exists already"), (True, "no earlier export")):
        with pytest.raises(SettingsError, match=words):
            export_training_set(lake.path, mine, format="csv", force=force)
    with pytest.raises(SettingsError, match="does not exist"):
        export_training_set(lake.path, tmp_path / "none" / "out", format="csv")
    with pytest.raises(SettingsError, match="/proc/out cannot be written"):
        export_training_set(lake.path, Path("/proc/out"), format="csv")
    export_training_set(lake.path, tmp_path / "out", format="csv")
    export_training_set(lake.path, tmp_path / "out", format="jsonl", force=True)
    assert set(content(tmp_path / "out")) == {"training_set.jsonl", "manifest.json"}
    assert (mine / "thesis.txt").read_text() == "years of work"
    assert {p.name for p in tmp_path.iterdir()} == {"mine", "out"}


@pytest.mark.heavy  # 2 GiB of texts
def test_texts_of_more_than_arrow_holds_in_one_piece_are_exported_and_voted_on(tmp_path: Path) -> None:
    ids, long = [f"i{n:04}" for n in range(2100)], "goal " * 209_716
    with Lake(tmp_path / "lake") as lake:
        for start in range(0, len(ids), 210):
            add_items(lake, {item_id: long for item_id in ids[start : start + 210]})
        commit(lake, "classes", Upsert("classes", pa.table({"class_id": range(3), "name": list(CLASSES)})))
        commit(lake, "end_model", *predict("m1", 1, dict.fromkeys(ids, 0)))
        assert run_vote(lake, [keywords("sports", ["goal"], name="goal")], processes=1).detail["votes"] == len(ids)
        made = export_training_set(lake.path, tmp_path / "labels", format="parquet")
    assert made["counts"]["rows"] == len(ids)
