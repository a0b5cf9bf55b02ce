"""The file of neighbour lists: used when it fits, joined by what is new, and worked out anew in every other case."""

from pathlib import Path

import numpy as np
import pytest

from features.neighbors import checkpoint as begun_file
from features.neighbors import neighbor_file, search
from features.neighbors.checkpoint import Begun
from features.neighbors.faiss_index import IndexConfig, VectorIndex, build_index, open_index
from tests.features.test_index_search import brute_force, put_vectors, unit
from warehouse import Lake

N, K = 900, 5
Work = list[str]


def crowd(count: int) -> np.ndarray:
    generator = np.random.default_rng(0)
    return unit(generator.normal(size=(30, 24))[np.arange(count) % 30] + 0.4 * generator.normal(size=(count, 24)))


@pytest.fixture
def config(tmp_path: Path) -> IndexConfig:
    return IndexConfig(folder=tmp_path / "index")


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    """What was done to get lists, in order."""
    done: Work = []
    monkeypatch.setattr(search, "EXACT_UP_TO", 500)
    for name in ("neighbor_lists", "joined"):

        def noted(
            *given: object, name: str = name, does: object = getattr(neighbor_file, name), **more: object
        ) -> object:
            done.append(name)
            return does(*given, **more)  # pyright: ignore[reportCallIssue]

        monkeypatch.setattr(neighbor_file, name, noted)
    return done


def neighbors(lake: Lake, config: IndexConfig, k: int = K) -> np.ndarray:
    return open_index(lake, config, "e").neighbors(k)[1]


def recall(found: np.ndarray, vectors: np.ndarray) -> float:
    truth = brute_force(vectors, vectors, K + 1)[1][:, 1:]
    return float(np.mean([len(np.intersect1d(a, b)) / K for a, b in zip(found, truth, strict=True)]))


def test_lists_are_worked_out_once_and_joined_by_what_is_new(lake: Lake, config: IndexConfig, work: Work) -> None:
    vectors = crowd(N)
    put_vectors(lake, vectors[: N - 20])
    assert build_index(lake, config, "e").detail["count"] == N - 20
    first = neighbors(lake, config)
    assert neighbors(lake, config).tolist() == first.tolist()
    assert work == ["neighbor_lists"]
    assert {path.suffix for path in config.folder.iterdir()} == {".npz", ".vectors"}
    put_vectors(lake, vectors, read=2)
    grown = neighbors(lake, config)
    assert work == ["neighbor_lists", "joined"]
    assert recall(grown, vectors) >= 0.95
    assert neighbors(lake, config).tolist() == grown.tolist()
    assert work == ["neighbor_lists", "joined"]


def test_the_stage_uses_the_index_that_is_open_and_none_when_it_was_run(
    lake: Lake, config: IndexConfig, work: Work
) -> None:
    put_vectors(lake, crowd(N))
    opened: list[VectorIndex] = []

    def index() -> VectorIndex:
        opened.append(open_index(lake, config, "e"))
        return opened[-1]

    result = build_index(lake, config, "e", index)
    assert (len(opened), result.detail["count"], result.detail["distinct"]) == (1, N, N)
    assert build_index(lake, config, "e", index).detail == result.detail
    assert len(opened) == 1
    assert np.array_equal(opened[0].vectors, crowd(N))  # rows lie in the warehouse in another order


def test_an_edited_text_leaves_its_old_neighbours(lake: Lake, config: IndexConfig, work: Work) -> None:
    vectors = crowd(N)
    put_vectors(lake, vectors)
    neighbors(lake, config)
    edited = vectors.copy()
    edited[7] = unit(vectors[8:9] + 0.01)[0]
    put_vectors(lake, edited, read=2)
    found = neighbors(lake, config)
    assert work == ["neighbor_lists", "joined"]
    assert found[7, 0] == 8
    assert found[8, 0] == 7
    assert recall(found, edited) >= 0.95


def test_equal_texts_are_each_others_nearest(lake: Lake, config: IndexConfig, work: Work) -> None:
    vectors = np.vstack([crowd(N), crowd(N)[:40], np.repeat(crowd(N)[50:51], 30, axis=0)])
    put_vectors(lake, vectors)
    similarity, rows = open_index(lake, config, "e").neighbors(K)
    assert work == ["neighbor_lists"]
    assert rows[:40, 0].tolist() == list(range(N, N + 40))
    copies = {50, *range(N + 40, N + 70)}
    assert all(set(rows[row].tolist()) < copies - {row} for row in copies)
    assert not (rows == np.arange(len(vectors))[:, None]).any()
    assert (np.diff(similarity, axis=1) <= 1e-6).all()


@pytest.mark.parametrize("harm", ["cut", "flipped", "encrypted", "packed", "forged", "gone", "other k"])
def test_a_file_that_cannot_be_believed_is_worked_out_anew(
    harm: str, lake: Lake, config: IndexConfig, work: Work
) -> None:
    put_vectors(lake, crowd(N))
    first = neighbors(lake, config)
    (file,) = config.folder.glob("*.npz")
    content = bytearray(file.read_bytes())
    if harm == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif harm == "flipped":
        content[len(content) // 2] ^= 0xFF
        file.write_bytes(content)
    elif harm in ("encrypted", "packed"):  # as the first entry of the directory says of itself
        entry = content.index(b"PK\x01\x02")
        content[entry + (8 if harm == "encrypted" else 10)] ^= 1
        file.write_bytes(content)
    elif harm == "forged":
        with np.load(file) as stored:
            arrays = dict(stored)
        arrays["rows"] = arrays["rows"] + N
        np.savez(file, **arrays)
    elif harm == "gone":
        file.unlink()
    elif harm == "other k":
        (config.folder / file.name.replace(f"-{K}.", f"-{K + 1}.")).write_bytes(content)
        assert neighbors(lake, config, K + 1).shape == (N, K + 1)
    assert neighbors(lake, config).tolist() == first.tolist()
    assert work == ["neighbor_lists", "neighbor_lists"]


def test_a_file_without_a_sample_is_of_an_older_version_and_joined(lake: Lake, config: IndexConfig, work: Work) -> None:
    put_vectors(lake, crowd(N - 20))
    neighbors(lake, config)
    (file,) = config.folder.glob("*.npz")
    with np.load(file) as stored:
        arrays = {name: array for name, array in stored.items() if name not in ("sample", "near", "close")}
    np.savez(file, **arrays)
    put_vectors(lake, crowd(N), read=2)
    neighbors(lake, config)
    with np.load(file) as stored:
        arrays = dict(stored)
        assert len(arrays["sample"]) == 200
    np.savez(file, **{**arrays, "near": arrays["near"] + N})
    neighbors(lake, config)
    assert work == ["neighbor_lists", "joined", "neighbor_lists"]


def test_a_write_that_dies_leaves_the_lists_before(
    lake: Lake, config: IndexConfig, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_vectors(lake, crowd(N - 20))
    neighbors(lake, config)
    (file,) = config.folder.glob("*.npz")
    before = file.read_bytes()
    put_vectors(lake, crowd(N), read=2)

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", die)
        with pytest.raises(KeyboardInterrupt):
            neighbors(lake, config)
    assert [path.read_bytes() for path in config.folder.glob("*.npz")] == [before]
    neighbors(lake, config)
    assert work == ["neighbor_lists", "joined", "joined"]


def test_a_search_that_was_cut_off_goes_on_from_what_it_had_found(
    lake: Lake, config: IndexConfig, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a million vectors it takes 25 minutes."""
    monkeypatch.setattr(begun_file, "EVERY_S", 0.0)
    put_vectors(lake, crowd(N))
    whole = open_index(lake, IndexConfig(folder=config.folder / "whole"), "e").neighbors(K)
    told: list[int] = []

    def cut_off(done: int, lists: int) -> None:
        told.append(done)
        if done >= lists // 2:
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            open_index(lake, config, "e").neighbors(K, cut_off)
    assert told[-2] == told[-1] == len(told) - 2 > 20
    (begun,) = config.folder.glob("*.npz")
    assert begun.name.endswith(".begun.npz")
    content = begun.read_bytes()
    going_on: list[int] = []
    found = open_index(lake, config, "e").neighbors(K, lambda done, _: going_on.append(done))
    assert going_on[0] == told[-1]
    assert [array.tolist() for array in found] == [array.tolist() for array in whole]
    (file,) = config.folder.glob("*.npz")
    assert not file.name.endswith(".begun.npz")

    # What was found of other vectors is not believed, nor a file that is damaged.
    for harmed in (content, content[:1000]):
        file.unlink()
        begun.write_bytes(harmed)
        put_vectors(lake, crowd(N)[::-1].copy(), read=2)
        going_on.clear()
        open_index(lake, config, "e").neighbors(K, lambda done, _: going_on.append(done))
        assert going_on[0] == 0
        (file,) = config.folder.glob("*.npz")


def test_what_another_search_found_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where all look into the same lists: a text that was edited a little is another vector in the same place."""
    monkeypatch.setattr(begun_file, "EVERY_S", 0.0)
    vectors, looks, rows = crowd(20), np.zeros((20, 2), np.int32), np.arange(60).reshape(20, 3)
    path = tmp_path / "some.begun.npz"
    Begun.of(path, vectors, looks).keep(rows.astype(np.float32), rows, 7)
    found = Begun.of(path, vectors, looks).found((20, 3))
    assert found is not None
    assert (found[1].tolist(), found[2]) == (rows.tolist(), 7)
    assert Begun.of(path, vectors, looks).found((20, 4)) is None
    assert Begun.of(path, vectors, looks + 1).found((20, 3)) is None
    vectors[3, 0] += 1e-6
    assert Begun.of(path, vectors, looks).found((20, 3)) is None
