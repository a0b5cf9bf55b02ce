"""Processes that were forked, as multiprocessing's are by default: they open a warehouse themselves, or are told to."""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import warehouse
from tests.warehouse.test_commit_is_atomic import items
from warehouse import Append, Lake, Location, WarehouseError

pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # that it has threads and is forked
COUNT = "SELECT count(*) FROM items"
UPKEEP = """
import sys
from tests.warehouse.test_commit_is_atomic import classes
from warehouse import Append, Lake
from warehouse.maintenance.compaction import maintain

with Lake(sys.argv[1]) as lake:
    with lake.stage("classes", version=1, inputs=()) as stage:
        stage.commit([Append("classes", classes("a", "b"))])
    print("vacuumed:", maintain(lake).vacuumed)
"""


def in_fork(work: Callable[[], Any]) -> str:
    """What a forked process gets, or the words of what it is refused with."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(60)  # ends one that hangs in a call of DuckDB's too
        try:
            try:
                told = str(work())
            except WarehouseError as error:
                told = f"refused: {error}"
            os.write(writing, told.encode())
        finally:
            os._exit(0)  # a child must never return into the parent's code
    os.close(writing)
    with open(reading, encoding="utf-8") as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    return told


def write(lake: Lake, rows: int) -> None:
    with lake.stage("ingest", version=rows, inputs=()) as stage:
        stage.commit([Append("items", items(rows))])


def count_of(place: Path | Location) -> int:
    with warehouse.connect(place) as reader:
        return reader.scalar(COUNT)


def test_a_fork_of_a_process_with_an_open_sqlite_catalogue_is_refused(lake: Lake) -> None:
    """It would take its parent's locks for its own: what it reads changed under it, and it read wrong counts."""
    write(lake, 5)
    with warehouse.connect(lake.path) as reader:
        for work in (lambda: count_of(lake.path), lambda: Lake(lake.path).close()):
            told = in_fork(work)
            assert told.startswith(f"refused: The warehouse at {lake.path} was open when this process was forked. ")
            assert "'spawn'" in told
        assert in_fork(lambda: in_fork(lambda: count_of(lake.path))).startswith("refused: "), "nor a fork of it"
        assert reader.scalar(COUNT) == 5


def test_a_fork_opens_what_its_parent_had_closed_and_holds_it_against_upkeep(lake: Lake) -> None:
    write(lake, 5)
    lake.close()
    with warehouse.connect(lake.path) as reader:
        assert reader.scalar(COUNT) == 5
    assert in_fork(lambda: count_of(lake.path)) == "5"

    def reads_beside_upkeep() -> list[object]:
        with warehouse.connect(lake.path) as reader:
            beside = subprocess.run([sys.executable, "-c", UPKEEP, lake.path], capture_output=True, text=True)
            return [beside.stdout, reader.scalar(COUNT)]

    assert in_fork(reads_beside_upkeep) == "['vacuumed: False\\n', 5]"


def test_readers_and_lakes_of_another_process_are_refused_and_left_alone(lake: Lake) -> None:
    write(lake, 5)
    with lake.read() as reader:
        whose = f"opened in process {os.getpid()}"
        for work in (lambda: reader.scalar(COUNT), lambda: list(reader.batches(COUNT, rows=9))):
            assert whose in in_fork(work)
        assert whose in in_fork(lambda: lake.snapshot())
        with ThreadPoolExecutor(1) as beside:  # which asks as the process is forked, and in the fork is not there
            beside.submit(reader._turn.acquire).result()
            assert whose in in_fork(lambda: reader.scalar(COUNT))
            beside.submit(reader._turn.release).result()
        assert in_fork(reader.close) == "None"
        assert reader.scalar(COUNT) == 5


def test_with_a_postgresql_catalogue_too(tmp_path: Path, postgres: str) -> None:
    """Over one connection two processes hung, and a rollback of one is the other's too."""
    place = Location(folder=tmp_path / "lake", catalog=postgres)
    with Lake(place) as lake, closing(warehouse.connect(place)) as reader:
        assert f"opened in process {os.getpid()}" in in_fork(lambda: reader.scalar(COUNT))
        assert in_fork(reader.close) == in_fork(lake.close) == "None"
        write(lake, 5)
        assert in_fork(lambda: count_of(place)) == "5"
        assert reader.scalar(COUNT) == 0


def test_an_open_one_is_not_sent_to_another_process(lake: Lake) -> None:
    """Workers of joblib, Dask and spawned ones get their arguments pickled."""
    with warehouse.connect(lake.path) as reader:
        for opened, way_out in ((reader, r"connect\(folder, at=number\)"), (lake, r"Lake\(\.\.\.\)")):
            with pytest.raises(WarehouseError, match=f"sent to another process.*{way_out}"):
                pickle.dumps(opened)
