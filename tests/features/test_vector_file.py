"""The file of vectors: it gives what the warehouse would, reads only what is new, and is believed no further."""

import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from features.neighbors import search, vector_file
from features.neighbors.faiss_index import IndexConfig, VectorIndex, open_index
from tests.features.test_index_search import D, brute_force, put_vectors, random_vectors
from warehouse import DataError, Lake, Reader, SettingsError
from warehouse.maintenance.compaction import maintain

N = 60
HEAD_BYTES = 8 * 6
ROW_BYTES = 40


@pytest.fixture
def config(tmp_path: Path) -> IndexConfig:
    return IndexConfig(folder=tmp_path / "index")


@pytest.fixture(autouse=True)
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many vectors were read from the warehouse, in order."""
    counts: list[int] = []
    monkeypatch.setattr(search, "EXACT_UP_TO", 40)
    matrix_of = Reader.matrix_of

    def noted(reader: Reader, ids: pa.ChunkedArray, *given: object) -> np.ndarray:
        counts.append(len(ids))
        return matrix_of(reader, ids, *given)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(Reader, "matrix_of", noted)
    return counts


def opened(lake: Lake, config: IndexConfig) -> VectorIndex:
    """The index, after it was compared with the warehouse bit by bit."""
    index = open_index(lake, config, "e")
    with lake.read() as reader:
        found = reader.rows(
            "SELECT item_id, vector FROM vectors v JOIN items i USING (item_id, content_hash) "
            "WHERE encoder_id = 'e' AND split = 'train' ORDER BY item_id"
        )
    assert index.item_ids == [item_id for item_id, _ in found]
    assert np.array_equal(index.vectors, np.array([vector for _, vector in found], np.float32))
    return index


def file_of(config: IndexConfig) -> Path:
    (file,) = config.folder.glob("*.vectors")
    return file


def sql(lake: Lake, statement: str) -> None:
    with closing(lake.new_cursor()) as cursor:
        cursor.execute(statement)


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_only_new_and_changed_vectors_are_read(lake: Lake, config: IndexConfig, read: list[int]) -> None:
    put_vectors(lake, random_vectors(N))
    first = opened(lake, config)
    assert not first.vectors.flags.writeable
    written = file_of(config).stat().st_ino
    opened(lake, config)
    assert file_of(config).stat().st_ino == written
    assert read == [N]
    sql(lake, "UPDATE vectors SET vector = list_reverse(vector) WHERE item_id IN ('i0000', 'i0031')")
    opened(lake, config)
    sql(lake, "INSERT INTO vectors SELECT * REPLACE ('early' AS item_id) FROM vectors WHERE item_id = 'i0005'")
    sql(lake, "INSERT INTO items SELECT * REPLACE ('early' AS item_id) FROM items WHERE item_id = 'i0005'")
    assert opened(lake, config).item_ids[0] == "early"
    assert read == [N, 2, 1]
    assert np.array_equal(first.vectors, random_vectors(N))  # who has the file before mapped goes on with it


@pytest.mark.parametrize(
    ("statement", "also_read"),
    [
        ("DELETE FROM vectors WHERE item_id = 'i0007'", []),
        ("UPDATE items SET split = 'test' WHERE item_id > 'i0049'", []),
        ("UPDATE items SET content_hash = 'x' WHERE item_id = 'i0000'", []),
        ("UPDATE vectors SET item_id = 'x' WHERE item_id = 'i0001'", []),
        ("UPDATE vectors SET encoder_id = 'x' WHERE item_id = 'i0001'", []),
        ("UPDATE vectors SET tokens = 6 WHERE item_id = 'i0001'", [1]),
    ],
)
def test_what_left_is_gone_and_what_came_back_is_there(
    statement: str, also_read: list[int], lake: Lake, config: IndexConfig, read: list[int]
) -> None:
    put_vectors(lake, random_vectors(N))
    opened(lake, config)
    sql(lake, statement)
    opened(lake, config)
    assert [count for count in read[1:] if count] == also_read
    put_vectors(lake, random_vectors(N, seed=1), read=2)
    opened(lake, config)


def test_maintenance_changes_no_vector(lake: Lake, config: IndexConfig, read: list[int]) -> None:
    for number in range(1, 4):
        put_vectors(lake, random_vectors(20 * number), read=number)
    sql(lake, "UPDATE vectors SET vector = list_reverse(vector) WHERE item_id = 'i0003'")  # stands in the catalogue
    opened(lake, config)
    done = maintain(lake, grace_h=0)
    assert done.rows_flushed
    assert done.files_merged
    opened(lake, config)
    maintain(lake, expire_older_than_days=0, grace_h=0)
    opened(lake, config)
    assert read[0] == N


def test_merged_files_are_not_read_again(lake: Lake, config: IndexConfig, read: list[int]) -> None:
    put_vectors(lake, random_vectors(N))
    for name in ("a", "b", "c"):
        for table in ("items", "vectors"):
            sql(lake, f"INSERT INTO {table} SELECT * REPLACE (item_id || '{name}' AS item_id) FROM {table}")
    opened(lake, config)
    assert maintain(lake, grace_h=0).files_merged
    opened(lake, config)
    assert read == [8 * N]


def flip(place: int) -> Callable[[bytes], bytes]:
    return lambda content: content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], int]] = {
    "cut": (lambda content: content[: len(content) // 2], N),
    "empty": (lambda _: b"", N),
    "garbage": (lambda content: b"\x93NUMPY" * (len(content) // 6), N),
    "too long": (lambda content: content + bytes(8), N),
    **{f"head flipped at {place}": (flip(place), N) for place in range(0, HEAD_BYTES, 8)},
    **{f"row flipped at {place}": (flip(HEAD_BYTES + ROW_BYTES + place), N) for place in range(0, ROW_BYTES, 8)},
    "vector flipped": (flip(HEAD_BYTES + N * ROW_BYTES + 4 * D + 7), 1),
    "vectors lost": (lambda content: content[: HEAD_BYTES + N * ROW_BYTES] + bytes(4 * D * N), N),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_written_anew(damage: str, lake: Lake, config: IndexConfig, read: list[int]) -> None:
    put_vectors(lake, random_vectors(N))
    first = opened(lake, config).neighbors(3)
    file, (harm, read_again) = file_of(config), DAMAGE[damage]
    good = file.read_bytes()
    file.unlink()  # a file that is mapped must not shrink
    file.write_bytes(harm(good))
    assert opened(lake, config).neighbors(3)[1].tolist() == first[1].tolist()
    assert file.read_bytes() == good
    assert read == [N, read_again]
    file.unlink()
    opened(lake, config)
    assert file.read_bytes() == good


def test_files_of_other_encoders_and_warehouses_are_not_believed(
    lake: Lake, config: IndexConfig, tmp_path: Path, read: list[int]
) -> None:
    put_vectors(lake, random_vectors(N))
    put_vectors(lake, random_vectors(N, seed=1), encoder_id="x")
    open_index(lake, config, "x")
    (other,) = config.folder.glob("*.vectors")
    opened(lake, config)
    (mine,) = set(config.folder.glob("*.vectors")) - {other}
    shutil.copyfile(other, mine.with_suffix(".new"))
    mine.with_suffix(".new").replace(mine)
    opened(lake, config)
    with Lake(tmp_path / "made anew") as anew:  # the same numbers, other vectors
        put_vectors(anew, random_vectors(N, seed=2))
        put_vectors(anew, random_vectors(N, seed=1), encoder_id="x")
        assert anew.snapshot() == lake.snapshot()
        opened(anew, config)
    assert read == [N] * 4


def test_a_warehouse_brought_back_from_a_backup_is_read_again(tmp_path: Path, config: IndexConfig) -> None:
    here, backup = tmp_path / "here", tmp_path / "backup"
    with Lake(here) as lake:
        put_vectors(lake, random_vectors(N))
    shutil.copytree(here, backup)
    with Lake(here) as lake:
        sql(lake, "UPDATE vectors SET vector = list_reverse(vector)")
        opened(lake, config)
        lost = lake.snapshot()
    with Lake(backup) as lake:
        sql(lake, "UPDATE vectors SET vector = list_transform(vector, x -> -x)")
        assert lake.snapshot() == lost
        opened(lake, config)


def test_a_write_that_dies_leaves_the_file_before(
    lake: Lake, config: IndexConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_vectors(lake, random_vectors(N))
    opened(lake, config)
    before = file_of(config).read_bytes()
    put_vectors(lake, random_vectors(N + 5), read=2)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(vector_file, "_mapped", die)
        patch.setattr(vector_file, "_read", lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            open_index(lake, config, "e")
    assert [path.read_bytes() for path in config.folder.iterdir()] == [before]
    opened(lake, config)


def test_without_room_it_says_so(lake: Lake, config: IndexConfig) -> None:
    put_vectors(lake, random_vectors(15 * N))
    with no_file_larger_than(65_536), pytest.raises(SettingsError, match=r"vectors cannot be written: File too"):
        open_index(lake, config, "e")
    assert list(config.folder.iterdir()) == []
    opened(lake, config)


def test_vectors_that_are_wrong_are_named(lake: Lake, config: IndexConfig) -> None:
    put_vectors(lake, random_vectors(N))
    opened(lake, config)
    sql(lake, "UPDATE vectors SET vector = list_transform(vector, x -> 'nan'::FLOAT) WHERE item_id = 'i0009'")
    with pytest.raises(DataError, match="1 vectors of encoder e are not finite, items i0009"):
        open_index(lake, config, "e")
    sql(lake, "UPDATE vectors SET vector = [1, 0, 0] WHERE item_id = 'i0009'")
    with pytest.raises(DataError, match=rf"mixes vectors of lengths \[3, {D}\]"):
        open_index(lake, config, "e")
    sql(lake, "UPDATE vectors SET vector = vector[:3]")
    assert opened(lake, config).vectors.shape == (N, 3)


def test_few_different_vectors_of_many_items_are_searched_exactly(
    lake: Lake, config: IndexConfig, read: list[int]
) -> None:
    vectors = np.vstack([random_vectors(30)] * 3)
    put_vectors(lake, vectors)
    for _ in range(2):
        assert np.array_equal(opened(lake, config).search(vectors, 4)[1], brute_force(vectors, vectors, 4)[1])
    assert read == [90]
