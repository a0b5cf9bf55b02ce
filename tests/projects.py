"""A small real project for tests: a few hundred Reuters news, the demo's labeling functions, a small label budget."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from filelock import FileLock

from features.ingest.samples import SampleFiles, get_sample

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "examples" / "reuters"
PLAIN_FUNCTIONS = """
from weak_labels import keywords

results = keywords("earn", ["net", "shr", "qtr"])
oil = keywords("crude", ["oil", "crude", "barrels"])
buys = keywords("acq", ["acquire", "acquisition", "merger"])
"""
"""In place of the demo's, which import Snorkel: two seconds for each process that reads them."""


@pytest.fixture(scope="session")
def reuters(tmp_path_factory: pytest.TempPathFactory) -> SampleFiles:
    """The whole Reuters R8 sample."""
    return get_sample("reuters-r8", tmp_path_factory.mktemp("reuters"))


_MIGRATE = """
import sys
from pathlib import Path
from flows.servers.prefect_server import prefect_api
with prefect_api(Path(sys.argv[1])):
    pass
"""


@pytest.fixture(scope="session")
def prefect_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of a Prefect server that has started once, for `give_prefect_database`.

    A first start applies all of Prefect's migrations and takes three times as long as another. All workers share one.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if base.name.startswith("popen-") else base  # a worker's folder is below the session's
    database = shared / "migrated-prefect.db"
    with FileLock(shared / "migrated-prefect.lock"):
        if not database.exists():
            folder = tmp_path_factory.mktemp("prefect")
            environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
            environment["PREFECT_PROFILES_PATH"] = str(folder / "no-profiles.toml")
            subprocess.run([sys.executable, "-c", _MIGRATE, str(folder)], cwd=ROOT, env=environment, check=True)
            with sqlite3.connect(folder / "prefect" / "prefect.db") as source:
                source.execute("VACUUM INTO ?", [str(database)])
            source.close()
    return database


_SERVE = """
import sys
from pathlib import Path
from flows.servers.prefect_server import prefect_api
with prefect_api(Path(sys.argv[1])) as url:
    print(url, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory, prefect_database: Path) -> Iterator[str]:
    """A Prefect server; a run that gets its address as PREFECT_API_URL starts none of its own, which takes seconds."""
    state = tmp_path_factory.mktemp("prefect-server")
    give_prefect_database(state, prefect_database)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    environment["PREFECT_PROFILES_PATH"] = str(state / "no-profiles.toml")
    with subprocess.Popen(
        [sys.executable, "-c", _SERVE, str(state)],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url, "Prefect's server did not start; what it said is above"
        yield url
        process.stdin.close()


def give_prefect_database(state: Path, database: Path) -> None:
    """Let the Prefect server of a state folder begin with a migrated database."""
    (state / "prefect").mkdir(mode=0o700, parents=True)
    shutil.copyfile(database, state / "prefect" / "prefect.db")


def write_first_items(folder: Path, reuters: SampleFiles, *, train: int, test: int) -> None:
    """Write items.parquet and gold.parquet as those of the sample, of the first items of each split only."""
    folder.mkdir(parents=True)
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
    pq.write_table(items, folder / "items.parquet")
    pq.write_table(gold, folder / "gold.parquet")


def make_small_project(
    folder: Path, reuters: SampleFiles, *, train: int = 240, test: int = 60, prefect: Path | None = None
) -> Path:
    """Write a project over the first items of each split; its gold file holds the labels of these items only.

    Args:
        folder: of the new project.
        reuters: the sample.
        train: items of the split train.
        test: items of the split test.
        prefect: database that its Prefect server begins with; without one its first start makes it.
    """
    write_first_items(folder / "data", reuters, train=train, test=test)
    if prefect is not None:
        (folder / ".siftline").mkdir(mode=0o700)
        give_prefect_database(folder / ".siftline", prefect)
    settings = (DEMO / "siftline.toml").read_text("utf-8")
    settings = settings.replace("budget = 128", "budget = 16").replace("batch = 32", "batch = 8")
    settings = settings.replace("max_tokens = 128", "max_tokens = 32")
    (folder / "siftline.toml").write_text(settings, "utf-8")
    shutil.copyfile(DEMO / "labeling_functions.py", folder / "labeling_functions.py")
    return folder
