"""Gains that are kept between runs are those of a whole computation, as near as is said, and cost what came."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from active.pool.graph import Floats, PoolGraph, Rows, Vectors
from active.value.gain_cache import WIDEST, Gains, kept_gains
from active.value.information_gain import Information
from active.value.stage import ValueConfig, estimate_values, shares
from active.value.value_cache import KEPT_WITHIN
from features.neighbors import search
from tests.active.pools import small_pool, unit
from tests.lakes import copy_of
from warehouse import Delete, Lake, Upsert
from warehouse.files.array_cache import read_arrays, write_arrays

N, D, NEW, CLASSES, RIDGE = 8000, 4, 60, 3, 0.02


@dataclass(frozen=True)
class Pool:
    """What gains are made of; an item's key is the number that its vector was drawn as."""

    vectors: Vectors
    openness: Floats
    keys: Rows
    taken: Rows

    @classmethod
    def drawn(cls, seed: int) -> "Pool":
        nobody = cls(np.empty((0, D), np.float32), np.empty(0), np.empty(0, np.int64), np.arange(5))
        return nobody.grown(np.random.default_rng(seed), N)

    def grown(self, generator: np.random.Generator, count: int) -> "Pool":
        """With others, some of them copies of each other, in among those that are there."""
        vectors = unit(generator.standard_normal((count, D)) + np.arange(D))
        keys = np.arange(count) + self.keys.max(initial=-1) + 1
        vectors[:2], keys[:2] = vectors[-1], keys[-1]
        openness = generator.random(count)
        at = np.sort(generator.integers(10, len(self.keys) + 1, count)) if len(self.keys) else np.zeros(count, int)
        return replace(
            self,
            vectors=np.insert(self.vectors, at, vectors, axis=0),
            openness=np.insert(self.openness, at, openness),
            keys=np.insert(self.keys, at, keys),
        )

    def without(self, rows: Sequence[int]) -> "Pool":
        left = (np.delete(self.vectors, rows, 0), np.delete(self.openness, rows), np.delete(self.keys, rows))
        return Pool(*left, self.taken)

    def opened(self, rows: slice, openness: float) -> "Pool":
        changed = self.openness.copy()
        changed[rows] = openness
        return replace(self, openness=changed)


def asked(pool: Pool, path: Path | None, *, ridge: float = RIDGE, classes: int = CLASSES) -> dict[str, Gains]:
    """The gains, after all that is promised of them was compared with a whole computation."""
    none = np.empty((len(pool.keys), 0), np.int64)
    graph = PoolGraph.build(pool.vectors, none.astype(np.float32), none, pool.keys.astype(np.uint64))
    questions = {"doubt": pool.openness, "typical": np.ones(len(pool.keys))}
    found, nearest = kept_gains(path, graph, pool.taken, questions, classes=classes, ridge=ridge)
    assert nearest == pytest.approx(graph.nearest(pool.taken), abs=1e-6)
    everyone = np.arange(len(pool.keys))
    for name, openness in questions.items():
        whole = Information(pool.vectors, openness, openness, pool.taken, classes=classes, ridge=ridge)
        some = found[name]
        assert some.off <= WIDEST < KEPT_WITHIN
        assert shares(some.gains, everyone) == pytest.approx(shares(whole.gains, everyone), abs=some.off + 1e-4)
        assert some.gains / some.doubt == pytest.approx(whole.gains / whole.doubt, rel=some.off + 1e-3, abs=1e-7)
        assert some.doubt == pytest.approx(whole.doubt, rel=1e-4)
    return dict(found)


def anew(found: dict[str, Gains]) -> int:
    return max(some.anew for some in found.values())


@pytest.mark.parametrize("seed", range(3))
def test_what_comes_is_worked_out_and_the_others_stand(seed: int, tmp_path: Path) -> None:
    path, pool, generator = tmp_path / "gains.npz", Pool.drawn(seed), np.random.default_rng([1, seed])
    assert anew(asked(pool, path)) == N
    steps: list[int] = []
    for step in range(10):
        pool = pool.grown(generator, NEW).opened(slice(100 * step + 10, 100 * step + 20), generator.random())
        found = asked(pool, path)
        steps.append(anew(found))
        assert all(some.anew == (NEW if some.off > 0 else len(pool.keys)) for some in found.values())
    assert steps[0] == NEW  # a whole computation would be N and more
    assert max(steps) > N  # and one comes when the bound has become too wide
    assert anew(asked(pool, path)) == 0


@pytest.fixture
def kept(tmp_path: Path) -> tuple[Pool, Path]:
    pool, path = Pool.drawn(0), tmp_path / "gains.npz"
    asked(pool, path)
    return pool, path


def test_labels_that_come_make_all_anew(kept: tuple[Pool, Path]) -> None:
    pool, path = kept
    assert anew(asked(replace(pool, taken=np.arange(8)), path)) == N
    assert anew(asked(replace(pool, taken=np.arange(8)[::-1]), path)) == 0  # queued ones that were labelled
    assert anew(asked(replace(pool, taken=np.arange(2)), path)) == N


def test_another_openness_of_a_labelled_item_makes_all_anew(kept: tuple[Pool, Path]) -> None:
    pool, path = kept
    assert anew(asked(pool.opened(slice(0, 1), 0.123), path)) == N


def test_items_that_go_or_are_edited_are_taken_out(kept: tuple[Pool, Path]) -> None:
    pool, path = kept
    left = pool.without(range(200, 230))
    assert anew(asked(left, path)) == 0
    edited = left.without(range(300, 310)).grown(np.random.default_rng(3), 10)
    assert anew(asked(edited, path)) == 10


def test_much_that_changed_makes_all_anew(kept: tuple[Pool, Path]) -> None:
    pool, path = kept
    assert anew(asked(pool.opened(slice(100, N // 2), 0.5), path)) == N


def test_other_settings_and_lengths_make_all_anew(kept: tuple[Pool, Path]) -> None:
    pool, path = kept
    assert anew(asked(pool, path, ridge=1.0)) == N
    assert anew(asked(pool, path, ridge=1.0, classes=5)) == N
    assert anew(asked(replace(pool, vectors=unit(pool.vectors[:, :-1])), path, ridge=1.0, classes=5)) == N


def test_a_damaged_file_is_not_believed(kept: tuple[Pool, Path]) -> None:
    pool, path = kept
    whole = path.read_bytes()
    for place in np.linspace(0, len(whole) - 1, 12).astype(int):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        asked(pool, path)
    path.write_bytes(whole[: len(whole) // 2])
    assert anew(asked(pool, path)) == N
    write_arrays(path, {**read_arrays(path), "format": 0})
    assert anew(asked(pool, path)) == N


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    pool = Pool.drawn(0)
    assert anew(asked(pool, tmp_path / "nowhere" / "gains.npz")) == N


def test_a_stage_says_how_many_were_worked_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "EXACT_UP_TO", 1000)
    generator = np.random.default_rng(0)
    vectors, predicted = unit(generator.standard_normal((2000, 2))), generator.dirichlet(np.ones(3), 2000)
    pool = small_pool(copy_of(Lake, tmp_path / "lake"), tmp_path / "index", vectors, predicted)
    with pool.lake.read() as reader:
        late = reader.arrow("SELECT * EXCLUDE (run_id, committed_at) FROM items ORDER BY item_id").slice(1980)
    with pool.lake.stage("leave", version=1, inputs=()) as stage:
        stage.commit([Delete("items", late.select(["item_id"]))])
    config = ValueConfig(neighbors=5)
    assert estimate_values(pool.lake, pool.index(), config).detail["worked_out"] == 1980
    with pool.lake.stage("come", version=1, inputs=()) as stage:
        stage.commit([Upsert("items", late)])
    assert estimate_values(pool.lake, pool.index(), config).detail["worked_out"] == 20
    assert len(list((tmp_path / "index").glob("*.gains.npz"))) == 1
