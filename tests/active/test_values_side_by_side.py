"""Values that are worked out on several cores have the bits of one, and an index that knows more tells nothing else."""

from contextlib import closing
from pathlib import Path

import pytest

from active.pool import graph
from active.value import gain_cache, information_gain
from active.value.stage import ValueConfig, estimate_values
from features.neighbors import search
from features.neighbors.faiss_index import IndexConfig, open_index
from tests.active.test_values_are_kept import estimate, made, values
from tests.lakes import copy_of
from warehouse import Lake, numeric


def told(lake: Lake) -> dict[str, dict[str, object]]:
    return {
        item: {name: value for name, value in row.items() if name not in ("run_id", "committed_at")}
        for item, row in values(lake).items()
    }


@pytest.mark.parametrize("weak", [False, True])
def test_one_core_and_several_give_the_same_bits(weak: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (graph, information_gain, gain_cache):
        monkeypatch.setattr(module, "CHUNK", 64)
    monkeypatch.setattr(search, "EXACT_UP_TO", 200)
    found: list[dict[str, dict[str, object]]] = []
    for cores in (1, 3):
        monkeypatch.setattr(numeric, "cores", lambda cores=cores: cores)
        pool = made(tmp_path / str(cores), 0, weak=weak)
        assert estimate(pool) == 600
        found.append(told(pool.lake))
    assert found[0] == found[1]


def test_an_item_that_left_the_pool_after_the_index_was_opened_has_no_say(tmp_path: Path) -> None:
    early, late = made(tmp_path / "early", 0, weak=False), made(tmp_path / "late", 0, weak=False)
    index = early.index()
    for pool in (early, late):
        with closing(pool.lake.new_cursor()) as cursor:
            cursor.execute("UPDATE items SET split = 'test' WHERE item_id IN ('i00003', 'i00300')")
    assert len(index) == 600
    assert estimate_values(early.lake, index, ValueConfig(neighbors=5)).rows_written == {"values": 598}
    assert estimate(late) == 598
    assert told(early.lake).keys() == told(late.lake).keys()


def test_without_vectors_nothing_is_written(tmp_path: Path) -> None:
    lake = copy_of(Lake, tmp_path / "lake")
    index = open_index(lake, IndexConfig(folder=tmp_path / "index"), "e")
    assert not estimate_values(lake, index, ValueConfig()).committed
