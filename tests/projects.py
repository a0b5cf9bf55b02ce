"""A small real project for tests: a few hundred Reuters news, the demo's labeling functions, a small label budget."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from features.samples import SampleFiles, get_sample

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "examples" / "reuters"


@pytest.fixture(scope="session")
def reuters(tmp_path_factory: pytest.TempPathFactory) -> SampleFiles:
    """The whole Reuters R8 sample."""
    return get_sample("reuters-r8", tmp_path_factory.mktemp("reuters"))


def make_small_project(folder: Path, reuters: SampleFiles, *, train: int = 240, test: int = 60) -> Path:
    """Write a project over the first items of each split; its gold file holds the labels of these items only."""
    (folder / "data").mkdir(parents=True)
    items = pq.read_table(reuters.items)
    chosen = []
    left = {"train": train, "test": test}
    for row, split in enumerate(items.column("split").to_pylist()):
        if left[split] > 0:
            left[split] -= 1
            chosen.append(row)
    items = items.take(chosen)
    kept = set(items.column("id").to_pylist())
    gold = pq.read_table(reuters.gold)
    gold = gold.filter([item in kept for item in gold.column("id").to_pylist()])
    pq.write_table(items, folder / "data" / "items.parquet")
    pq.write_table(gold, folder / "data" / "gold.parquet")
    settings = (DEMO / "siftline.toml").read_text("utf-8")
    settings = settings.replace("budget = 128", "budget = 16").replace("batch = 32", "batch = 8")
    settings = settings.replace("max_tokens = 128", "max_tokens = 32")
    (folder / "siftline.toml").write_text(settings, "utf-8")
    shutil.copyfile(DEMO / "labeling_functions.py", folder / "labeling_functions.py")
    return folder
