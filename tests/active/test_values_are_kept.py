"""Values that stay as they were are not written again, and what stands there is what a whole computation gives."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from active.value.stage import ValueConfig, estimate_values
from active.value.value_cache import KEPT_WITHIN, changed
from tests.active.pools import SmallPool, clusters, small_pool
from tests.lakes import copy_of
from warehouse import Delete, Lake, Upsert

N, NEW = 600, 6
FIGURES = ("value", "representativeness", "uncertainty", "disagreement", "redundancy")
Rows = dict[str, dict[str, object]]


def values(lake: Lake) -> Rows:
    with lake.read() as reader:
        found = reader.arrow('SELECT * FROM "values"').to_pylist()
    return {str(row["item_id"]): row for row in found}


def told(row: dict[str, object]) -> str:
    """The reason without its share."""
    return re.sub(r"[0-9.]+% of", "% of", str(row["reason"]))


def share(row: dict[str, object]) -> float:
    found = re.search(r"remove ([0-9.]+)% of", str(row["reason"]))
    return float(found[1]) if found else 0.0


def estimate(pool: SmallPool) -> int:
    """Values written by one run of the stage."""
    return estimate_values(pool.lake, pool.index(), ValueConfig(neighbors=5)).rows_written.get("values", 0)


def made(folder: Path, seed: int, *, weak: bool) -> SmallPool:
    vectors, classes = clusters(N, seed)
    generator = np.random.default_rng(seed)
    predicted = generator.dirichlet(np.ones(3), N)
    votes = {row: [int(classes[row])] for row in range(0, N, 2)}
    lake, index = copy_of(Lake, folder / "lake"), folder / "index"
    if not weak:
        return small_pool(lake, index, vectors, predicted)
    return small_pool(lake, index, vectors, predicted, weak=np.eye(3)[classes], votes=votes)


def grown(folder: Path, seed: int, *, weak: bool) -> tuple[SmallPool, int]:
    """A pool whose last items came after the values of the others, and how many values were written then."""
    pool = made(folder, seed, weak=weak)
    with pool.lake.read() as reader:
        late = reader.arrow("SELECT * EXCLUDE (run_id, committed_at) FROM items ORDER BY item_id").slice(N - NEW)
    with pool.lake.stage("leave", version=1, inputs=()) as stage:
        stage.commit([Delete("items", late.select(["item_id"]))])
    assert estimate(pool) == N - NEW
    with pool.lake.stage("come", version=1, inputs=()) as stage:
        stage.commit([Upsert("items", late)])
    return pool, estimate(pool)


@pytest.mark.parametrize(
    ("value", "share", "written"),
    [(0.504, 2.03, []), (0.516, 2.0, ["off"]), (0.5, 2.09, ["off"]), (0.53, 2.2, ["", "off"])],
)
def test_what_figures_may_be_off_already_counts(value: float, share: float, written: list[str]) -> None:
    def row(value: float, share: float) -> pa.Table:
        said = f"Speaks for 3 records; a label would remove {share:.2f}% of the model's doubt about all records."
        return pa.table({"item_id": ["i"], "value": [value], "reason": [said]})

    stored, now = row(0.5, 2.0), row(value, share)
    assert [name for name, off in (("", 0.0), ("off", 0.015)) if changed(stored, now, off=off).num_rows] == written


@pytest.mark.parametrize(("seed", "weak"), [(0, False), (1, True)])
def test_what_is_kept_is_what_a_whole_computation_gives(seed: int, weak: bool, tmp_path: Path) -> None:
    pool, written = grown(tmp_path / "grown", seed, weak=weak)
    anew = made(tmp_path / "anew", seed, weak=weak)
    estimate(anew)
    kept, whole = values(pool.lake), values(anew.lake)
    assert kept.keys() == whole.keys()
    for item, row in kept.items():
        assert told(row) == told(whole[item])
        assert share(row) == pytest.approx(share(whole[item]), rel=0.06, abs=0.02)
        assert [row[name] for name in FIGURES] == pytest.approx(
            [whole[item][name] for name in FIGURES], abs=KEPT_WITHIN
        )
    assert NEW <= written < N / 2
    runs = {str(row["run_id"]) for item, row in kept.items() if int(item[1:]) < N - NEW}
    assert len(runs) == 2  # those whose neighbourhood changed are new too
    again, _ = grown(tmp_path / "again", seed, weak=weak)
    assert {item: row["value"] for item, row in values(again.lake).items()} == {
        item: row["value"] for item, row in kept.items()
    }
