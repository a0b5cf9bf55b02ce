"""Two machines that run one project have a task folder each: what was not answered in one was not deleted there."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from active.annotation.service import Pulled
from active.queue.collect import collect
from active.queue.folder_state import Held
from active.queue.outbox import QueueConfig
from active.task_folder.service import TaskFolder
from tests.active.task_folders import CONFIG, annotation, export, exported, task, write
from tests.lakes import copy_of
from tests.warehouse.test_commit_is_atomic import items
from warehouse import Lake, StageResult, Upsert

EARLY, LATE = "2026-01-01T10:00:00Z", "2026-01-01T11:00:00Z"


class Server(TaskFolder):
    """Says of itself what a server does: all machines share it."""

    def pull_since(self, cursor: str) -> Pulled:
        return replace(super().pull_since(cursor), of_many=False)


class Machine:
    """Its folder of tasks, and what it knows of it."""

    def __init__(self, root: Path, lake: Lake) -> None:
        self.lake = lake
        self.folder = TaskFolder(root / "tasks", "p")
        self.folder.ensure_project(["a", "b"])
        self.folder.push([task(f"i{k:05d}") for k in range(3)])
        self.held = Held(root / "state" / "held.json")

    def collect(self, config: QueueConfig = CONFIG) -> StageResult:
        return collect(self.lake, self.folder, config, held=self.held)

    def write(self, label: str | None, at: str | None = None) -> None:
        """What ann's task says, or that it has no answer."""
        times = {"updated_at": at} if at else {}
        write(self.folder, "i00000", [annotation(label, id="1", **times)] if label else [])


@pytest.fixture
def here(tmp_path: Path, stocked: Lake) -> Machine:
    return Machine(tmp_path / "here", stocked)


@pytest.fixture
def there(tmp_path: Path, stocked: Lake) -> Machine:
    return Machine(tmp_path / "there", stocked)


def said(lake: Lake) -> list[tuple[str, int]]:
    with lake.read() as reader:
        return reader.rows("SELECT item_id, class_id FROM opinions ORDER BY ALL")


def history(lake: Lake) -> list[tuple[str, int]]:
    with lake.read() as reader:
        return reader.rows("SELECT action, class_id FROM annotations ORDER BY updated_at, committed_at")


def at_rest(*machines: Machine) -> bool:
    return not any(machine.collect().committed for machine in [*machines, *machines])


@pytest.mark.parametrize("first", [True, False], ids=["collected first", "collected last"])
def test_an_answer_that_is_in_one_folder_was_not_deleted_in_the_other(
    here: Machine, there: Machine, stocked: Lake, first: bool
) -> None:
    """It was deleted and back again with each pair of collects."""
    if first:
        there.collect()
    here.write("a", EARLY)
    here.collect()
    found = there.collect()
    assert not found.committed
    assert ("answers kept that are gone there" in found.detail) is not first, "it is known that nothing was there"
    assert at_rest(here, there)
    assert said(stocked) == [("i00000", 0)]
    here.write(None)
    assert here.collect().committed, "and here it was"
    assert at_rest(here, there)
    assert history(stocked) == [("labelled", 0), ("deleted", -1)]


@pytest.mark.parametrize("forgets", [False, True])
@pytest.mark.parametrize("later_first", [False, True])
def test_of_one_person_s_two_answers_the_later_is_in_force_and_both_are_kept(
    here: Machine, there: Machine, stocked: Lake, later_first: bool, forgets: bool
) -> None:
    here.write("a", EARLY)
    there.write("b", LATE)
    for machine in (there, here) if later_first else (here, there):
        assert machine.collect().committed
    for machine in (here, there, here, there):
        if forgets:
            machine.held.path.unlink()
        assert not machine.collect().committed
    assert said(stocked) == [("i00000", 1)]
    assert history(stocked) == [("labelled", 0), ("labelled", 1)]


@pytest.mark.parametrize("at", [EARLY, LATE, None], ids=["by hand", "anew", "without times"])
def test_what_changes_here_counts_whatever_came_from_there(
    here: Machine, there: Machine, stocked: Lake, at: str | None
) -> None:
    here.write("a", EARLY)
    here.collect()
    there.write("b", LATE)
    there.collect()
    here.write("b", at)
    here.collect()
    here.write("a", at)
    assert here.collect().committed
    assert said(stocked) == [("i00000", 0)]
    assert at_rest(there, here)


def test_the_same_answer_given_anew_counts_again(here: Machine, there: Machine, stocked: Lake) -> None:
    here.write("a", EARLY)
    here.collect()
    there.write("b", LATE)
    there.collect()
    here.write("a", "2026-01-01T12:00:00Z")
    assert here.collect().committed
    assert said(stocked) == [("i00000", 0)]
    assert at_rest(there, here)


def test_an_answer_that_was_deleted_in_one_folder_counts_while_a_copy_of_it_lies_in_the_other(
    here: Machine, there: Machine, stocked: Lake
) -> None:
    """It may be an earlier Siftline that called it deleted."""
    for machine in (here, there):
        machine.write("a", EARLY)
        machine.collect()
    there.write(None)
    assert there.collect().committed
    assert here.collect().committed
    assert at_rest(there, here)
    assert said(stocked) == [("i00000", 0)]
    here.write(None)
    assert here.collect().committed
    assert at_rest(there, here)
    assert said(stocked) == []
    there.write("a", EARLY)
    assert there.collect().committed, "it was put back"
    assert at_rest(here, there)
    assert said(stocked) == [("i00000", 0)]


def test_an_export_that_is_removed_takes_its_own_answers_along(here: Machine, there: Machine, stocked: Lake) -> None:
    here.write("a", EARLY)
    here.collect()
    export(there.folder, "a.json", exported("i00001", annotation("b", id="2", updated_at=EARLY)))
    there.collect()
    assert said(stocked) == [("i00000", 0), ("i00001", 1)]
    (there.folder.path / "import" / "a.json").unlink()
    there.collect()
    assert said(stocked) == [("i00000", 0)]
    assert at_rest(here, there)


@contextmanager
def unreadable(machine: Machine) -> Generator[None]:
    path = machine.folder.path / f"{machine.folder.task_id('i00000')}.json"
    whole = path.read_text("utf-8")
    path.write_text("{", "utf-8")
    yield
    path.write_text(whole, "utf-8")


def test_a_file_that_cannot_be_read_for_a_while_deletes_nothing_and_is_known_again(
    here: Machine, there: Machine, stocked: Lake
) -> None:
    here.write("a", EARLY)
    here.collect()
    there.write("b", LATE)
    there.collect()
    with unreadable(here):
        assert not here.collect().committed
    assert at_rest(here, there)
    assert said(stocked) == [("i00000", 1)]


def test_an_answer_that_goes_while_its_file_cannot_be_read_was_deleted(here: Machine, stocked: Lake) -> None:
    here.write("a", EARLY)
    here.collect()
    with unreadable(here):
        here.collect()
    here.write(None)
    assert here.collect().committed
    assert said(stocked) == []


def test_another_folder_says_nothing_of_what_the_first_one_held(here: Machine, there: Machine, stocked: Lake) -> None:
    here.write("a", EARLY)
    here.collect()
    there.held = here.held
    assert not there.collect().committed
    assert said(stocked) == [("i00000", 0)]


def test_two_sets_of_classes_of_one_time_are_two_answers(here: Machine, there: Machine, stocked: Lake) -> None:
    config = replace(CONFIG, multi_label=True)
    for machine, chosen in ((here, ["a"]), (there, ["a", "b"])):
        machine.folder.multi_label = True
        answer = annotation("a", id="1", updated_at=EARLY)
        answer["result"][0]["value"]["choices"] = chosen
        write(machine.folder, "i00000", [answer])
        assert machine.collect(config).committed
    for machine in (here, there):
        machine.held.path.unlink()
        assert not machine.collect(config).committed


def test_an_answer_that_was_left_out_for_its_class_is_taken_once_there_is_one(
    here: Machine, there: Machine, stocked: Lake
) -> None:
    here.write("a", EARLY)
    here.collect()
    here.write("c", LATE)
    here.collect()
    assert said(stocked) == [("i00000", 0)]
    here.collect(QueueConfig(project="p", classes=("a", "b", "c")))
    assert said(stocked) == [("i00000", 2)]


def test_a_warehouse_that_lacks_what_was_collected_from_here_gets_it_again(
    tmp_path: Path, here: Machine, there: Machine
) -> None:
    there.write("b", EARLY)
    there.collect()
    here.write("a", LATE)
    here.collect()
    with copy_of(Lake, tmp_path / "anew") as anew:
        with anew.stage("ingest", version=1, inputs=()) as stage:
            stage.commit([Upsert("items", items(5))])
        collect(anew, there.folder, CONFIG)
        collect(anew, here.folder, CONFIG, held=here.held)
        assert said(anew) == [("i00000", 0)]


def test_what_a_server_does_not_hold_any_more_was_deleted(here: Machine, stocked: Lake) -> None:
    here.folder = Server(here.folder.path, "p")
    here.write("a", EARLY)
    here.collect()
    assert not here.held.path.exists()
    here.write(None)
    assert here.collect().committed
    assert said(stocked) == []


def test_the_file_holds_no_ids_and_no_labels(here: Machine) -> None:
    here.write("a", EARLY)
    here.collect()
    (name, state) = next(iter(json.loads(here.held.path.read_text("utf-8"))["states"].items()))
    assert (len(name), len(state)) == (16, 16)
    assert here.held.path.stat().st_mode & 0o077 == 0
