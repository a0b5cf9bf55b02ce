"""The index file is used only when it fits the warehouse's vectors, and is built again in every other case."""

import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pytest

from features.neighbors.faiss_index import IndexConfig, VectorIndex, build_index, open_index
from features.neighbors.unique import grouped
from features.neighbors.vector_file import digests_of
from tests.features.test_index_search import D, brute_force, put_vectors, random_vectors
from warehouse import Lake
from warehouse.files.array_cache import read_arrays, write_arrays


@pytest.fixture
def config(tmp_path: Path) -> IndexConfig:
    return IndexConfig(folder=tmp_path / "state" / "index")


def files(config: IndexConfig) -> tuple[Path, Path]:
    (index,), (sidecar,) = config.folder.glob("*.faiss"), config.folder.glob("*.json")
    return index, sidecar


def test_the_stage_writes_one_run_and_no_table(lake: Lake, config: IndexConfig) -> None:
    put_vectors(lake, random_vectors(50))
    result = build_index(lake, config, "e")
    assert result.committed
    assert result.rows_written == {}
    index, sidecar = files(config)
    assert result.detail["sha256"] == hashlib.sha256(index.read_bytes()).hexdigest()
    assert (result.detail["count"], result.detail["dimension"]) == (50, D)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (index, sidecar)} == {0o600}
    assert len(list(config.folder.iterdir())) == 2
    before = lake.snapshot()
    again = build_index(lake, config, "e")
    assert not again.committed
    assert again.detail["sha256"] == result.detail["sha256"]
    assert lake.snapshot() == before


def test_without_vectors_there_is_nothing_to_build(lake: Lake, config: IndexConfig) -> None:
    assert not build_index(lake, config, "e").committed
    assert not config.folder.exists()


def test_a_good_file_is_not_written_again(lake: Lake, config: IndexConfig) -> None:
    put_vectors(lake, random_vectors(50))
    build_index(lake, config, "e")
    before = [path.stat().st_ino for path in files(config)]
    build_index(lake, config, "e")
    open_index(lake, config, "e")
    assert [path.stat().st_ino for path in files(config)] == before


def _flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0xFF
    path.write_bytes(content)


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _forge(index: Path, sidecar: Path, content: bytes) -> None:
    """A crafted file whose sidecar vouches for it."""
    index.write_bytes(content)
    described = json.loads(sidecar.read_bytes())
    sidecar.write_text(json.dumps({**described, "sha256": hashlib.sha256(content).hexdigest()}))


def _other_kind(index: Path, sidecar: Path) -> None:
    other = faiss.IndexFlatL2(D)
    other.add(np.zeros((50, D), np.float32))
    _forge(index, sidecar, faiss.serialize_index(other).tobytes())


def _other_count(index: Path, sidecar: Path) -> None:
    other = faiss.IndexFlatIP(D)
    other.add(np.zeros((49, D), np.float32))
    _forge(index, sidecar, faiss.serialize_index(other).tobytes())


def _set(sidecar: Path, **values: object) -> None:
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_bytes()), **values}))


DAMAGE: dict[str, Callable[[Path, Path], object]] = {
    "index missing": lambda index, _: index.unlink(),
    "sidecar missing": lambda _, sidecar: sidecar.unlink(),
    "index empty": lambda index, _: index.write_bytes(b""),
    "index truncated": lambda index, _: _truncate(index),
    "sidecar truncated": lambda _, sidecar: _truncate(sidecar),
    "index header flipped": lambda index, _: _flip(index, 2),
    "index body flipped": lambda index, _: _flip(index, 900),
    "index too long": lambda index, _: index.write_bytes(index.read_bytes() + bytes(10_000)),
    "sidecar no JSON": lambda _, sidecar: sidecar.write_bytes(b"\xff{"),
    "sidecar a list": lambda _, sidecar: sidecar.write_text("[]"),
    "sidecar too deep": lambda _, sidecar: sidecar.write_text("[" * 100_000),
    "another encoder": lambda _, sidecar: _set(sidecar, encoder_id="x"),
    "another count": lambda _, sidecar: _set(sidecar, count=51),
    "another dimension": lambda _, sidecar: _set(sidecar, dimension=D + 1),
    "another format": lambda _, sidecar: _set(sidecar, format=0),
    "forged garbage": lambda index, sidecar: _forge(index, sidecar, b"IxFI" + b"\xff" * 200),
    "forged other kind": _other_kind,
    "forged other count": _other_count,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_that_does_not_fit_is_built_again(lake: Lake, config: IndexConfig, damage: str) -> None:
    vectors = random_vectors(50)
    put_vectors(lake, vectors)
    build_index(lake, config, "e")
    index, sidecar = files(config)
    good = index.read_bytes(), sidecar.read_bytes()
    before = lake.snapshot()

    for mend in (lambda: open_index(lake, config, "e"), lambda: build_index(lake, config, "e")):
        DAMAGE[damage](index, sidecar)
        assert not (index.exists() and sidecar.exists() and (index.read_bytes(), sidecar.read_bytes()) == good)
        mend()
        assert (index.read_bytes(), sidecar.read_bytes()) == good
    assert np.array_equal(open_index(lake, config, "e").search(vectors, 5)[1], brute_force(vectors, vectors, 5)[1])
    assert lake.snapshot() == before


def test_changed_vectors_make_the_old_file_unfit(lake: Lake, config: IndexConfig) -> None:
    put_vectors(lake, random_vectors(50))
    first = build_index(lake, config, "e")
    changed = random_vectors(50, seed=7)
    put_vectors(lake, changed, read=2)
    # The stage did not run yet: opening must not serve the old vectors.
    index = open_index(lake, config, "e")
    assert np.array_equal(index.search(changed, 5)[1], brute_force(changed, changed, 5)[1])
    second = build_index(lake, config, "e")
    assert second.committed
    assert second.detail["sha256"] != first.detail["sha256"]


def _neighbors(lake: Lake, config: IndexConfig, k: int = 5) -> tuple[bytes, bytes]:
    similarity, rows = open_index(lake, config, "e").neighbors(k)
    return similarity.tobytes(), rows.tobytes()


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many items were looked for, each time."""
    done: list[int] = []
    search = VectorIndex.search

    def noted(self: VectorIndex, queries: np.ndarray, k: int) -> object:
        done.append(len(queries))
        return search(self, queries, k)

    monkeypatch.setattr(VectorIndex, "search", noted)
    return done


def test_neighbours_are_searched_once_while_the_vectors_are_the_same(
    lake: Lake, config: IndexConfig, searches: list[int]
) -> None:
    vectors = random_vectors(50)
    vectors[7] = vectors[30]  # copies are each other's nearest
    put_vectors(lake, vectors)
    first = _neighbors(lake, config)
    assert _neighbors(lake, config) == first
    assert searches == [50]
    vectors[7] = random_vectors(1, seed=3)[0]
    put_vectors(lake, vectors, read=2)
    changed = _neighbors(lake, config)
    assert changed != first
    put_vectors(lake, np.vstack([vectors, vectors[3:4]]), read=3)
    grown = _neighbors(lake, config)
    assert searches == [50, 50, 51]
    assert _neighbors(lake, config, 6) != grown
    assert searches == [50, 50, 51, 51]
    alone = VectorIndex.neighbors(_without_files(open_index(lake, config, "e")), 5)
    assert grown == (alone[0].tobytes(), alone[1].tobytes())


def _without_files(index: VectorIndex) -> VectorIndex:
    return VectorIndex(index.item_ids, index.vectors, grouped(digests_of(index.vectors)))


@pytest.mark.parametrize("harm", ["cut", "flipped", "rows out of range", "another shape", "of many", "gone"])
def test_neighbours_that_cannot_be_believed_are_searched_again(
    harm: str, lake: Lake, config: IndexConfig, searches: list[int]
) -> None:
    put_vectors(lake, random_vectors(50))
    first = _neighbors(lake, config)
    (file,) = config.folder.glob("*.npz")
    content, arrays = bytearray(file.read_bytes()), dict(read_arrays(file))
    if harm == "cut":
        os.truncate(file, len(content) // 2)
    elif harm == "flipped":
        _flip(file, len(content) // 2)
    elif harm == "rows out of range":
        write_arrays(file, {**arrays, "rows": arrays["rows"] + 10})
    elif harm == "another shape":
        write_arrays(file, {**arrays, "rows": arrays["rows"][:, :4]})
    elif harm == "of many":
        write_arrays(file, {"keys": arrays.pop("items"), **arrays})
    else:
        file.unlink()
    searches.clear()
    assert [_neighbors(lake, config) for _ in range(2)] == [first, first]
    assert searches == [50]


def test_encoders_have_files_of_their_own(lake: Lake, config: IndexConfig) -> None:
    one, two = random_vectors(50), random_vectors(50, seed=1)
    hostile = "../../etc/passwd\0"[:-1]
    put_vectors(lake, one, encoder_id="e")
    put_vectors(lake, two, encoder_id=hostile)
    build_index(lake, config, "e")
    build_index(lake, config, hostile)
    assert len(list(config.folder.iterdir())) == 4
    assert np.array_equal(open_index(lake, config, "e").vectors, one)
    assert np.array_equal(open_index(lake, config, hostile).vectors, two)
    assert len(open_index(lake, config, "unknown")) == 0
