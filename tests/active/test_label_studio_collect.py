"""Collect with a cursor on the real server: it reads what changed, and ends where a collect of everything ends."""

import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest

import active.label_studio.service
from active.label_studio.service import LabelStudioService
from active.queue.collect import collect
from active.queue.cursor import Cursor
from active.queue.outbox import QueueConfig
from active.queue.push import push
from flows.servers.label_studio import StudioInfo, StudioServer
from tests.active.plans import plan
from tests.studio import CLASSES, api, choose
from warehouse import Append, Delete, Lake, Upsert

pytestmark = pytest.mark.studio

TRADE = [{"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": ["trade"]}}]


def write(lake: Lake, what: Delete | Upsert) -> None:
    with lake.stage("ingest", version=1, inputs=("items",)) as stage:
        stage.commit([what])


def copy_database(source: Path, target: Path) -> None:
    """As the page on operations backs a server up, and back again while it runs."""
    with closing(sqlite3.connect(source)) as read, closing(sqlite3.connect(target)) as write:
        read.backup(write)


def gold(lake: Lake) -> dict[str, int]:
    with lake.read() as reader:
        return dict(reader.rows("SELECT item_id, class_id FROM gold_labels"))


def test_edits_skips_and_deletions_are_found_by_what_changed_alone(
    lake: Lake, studio: StudioInfo, service: LabelStudioService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(active.label_studio.service, "MARGIN", timedelta(0))
    config = QueueConfig(project=service.project, classes=CLASSES)
    ids = plan(lake, service.project, [1 - number / 10 for number in range(6)])
    push(lake, service, config)
    cursor = Cursor(tmp_path / "collect.json")
    tasks = {item: held[0] for item, held in service.find(ids).items()}
    for item in ids[:4]:
        service.annotate(tasks[item], labels=["acq"], annotator="simulated", seconds=1)
    collect(lake, service, config, cursor=cursor)
    answers = {answer.item_id: answer.annotation_id for answer in service.pull()}
    api(studio, "PATCH", f"/api/annotations/{answers[ids[0]]}/", json={"result": TRADE})
    api(studio, "PATCH", f"/api/annotations/{answers[ids[1]]}/", json={"was_cancelled": True})
    api(studio, "DELETE", f"/api/annotations/{answers[ids[2]]}/")
    service.annotate(tasks[ids[4]], labels=["earn"], annotator="simulated", seconds=1)
    with lake.read() as reader:
        since = cursor.read(reader, service.describe(), CLASSES)
    changed = service.pull_since(since).tasks
    assert changed is not None
    assert changed.keys() == {(tasks[item], item) for item in (*ids[:3], ids[4])}
    collect(lake, service, config, cursor=cursor)
    assert gold(lake) == {ids[0]: 3, ids[3]: 1, ids[4]: 0}
    assert not collect(lake, service, config).committed  # reading everything finds nothing more
    with lake.read() as reader:
        said = reader.rows("SELECT item_id, action FROM annotations ORDER BY item_id, committed_at")
    assert [action for item, action in said if item in ids[:3]] == [
        "labelled", "labelled", "labelled", "skipped", "labelled", "deleted",
    ]  # fmt: skip

    with lake.read() as reader:
        columns = "* EXCLUDE (run_id, committed_at, changed_at)"
        late = reader.arrow(f"SELECT {columns} FROM items WHERE item_id = ?", [ids[5]])
    write(lake, Delete("items", late.select(["item_id"])))
    service.annotate(tasks[ids[5]], labels=["earn"], annotator="simulated", seconds=1)
    for _ in range(2):  # the second reads nothing, and must not forget what the first left out
        assert not collect(lake, service, config, cursor=cursor).committed
    write(lake, Upsert("items", late))
    collect(lake, service, config, cursor=cursor)
    assert gold(lake)[ids[5]] == 0


def test_a_server_set_back_to_a_backup_deletes_no_answers_and_gets_the_tasks_that_it_lost(
    lake: Lake, studio: StudioInfo, studio_server: StudioServer, service: LabelStudioService, tmp_path: Path
) -> None:
    config = QueueConfig(project=service.project, classes=CLASSES)
    cursor = Cursor(tmp_path / "collect.json")
    ids = plan(lake, service.project, [0.9, 0.8, 0.7])
    push(lake, service, config)
    tasks = service.find(ids)
    choose(studio, tasks[ids[0]][0], "acq")
    collect(lake, service, config, cursor=cursor)
    live, kept = studio_server.folder / "data" / "label_studio.sqlite3", tmp_path / "backup.sqlite3"
    copy_database(live, kept)
    choose(studio, tasks[ids[1]][0], "trade")
    later = plan(lake, service.project, [0.6, 0.5], cycle=2, name="later")
    push(lake, service, config)
    choose(studio, service.find(later)[later[0]][0], "crude")
    collect(lake, service, config, cursor=cursor)
    copy_database(kept, live)
    collected = collect(lake, service, config, cursor=cursor)
    assert not collected.committed
    assert collected.detail == {"answers kept that are gone there": 2}
    assert gold(lake) == {ids[0]: 1, ids[1]: 3, later[0]: 2}
    push(lake, service, config)
    assert service.find([ids[2], *later]).keys() == {ids[2], later[1]}
    [answer] = service.pull()
    api(studio, "DELETE", f"/api/annotations/{answer.annotation_id}/")
    collect(lake, service, config, cursor=cursor)
    assert gold(lake) == {ids[1]: 3, later[0]: 2}, "a deletion after that is one"


@pytest.mark.parametrize("fault", ["lost", "torn", "old", "other answers", "future"])
def test_a_cursor_that_cannot_be_believed_reads_everything(lake: Lake, tmp_path: Path, fault: str) -> None:
    cursor = Cursor(tmp_path / "collect.json", full_every_s=0.0 if fault == "old" else 3600.0)
    with lake.read() as reader:
        assert cursor.read(reader, "there", CLASSES) == ""
        cursor.write(reader, "there", CLASSES, "7 somewhere", unknown_items=False)
        assert cursor.read(reader, "there", CLASSES) == ("" if fault == "old" else "7 somewhere")
        assert cursor.read(reader, "elsewhere", CLASSES) == ""
        assert cursor.read(reader, "there", CLASSES[:2]) == ""
    if fault == "lost":
        cursor.path.unlink()
    elif fault == "torn":
        cursor.path.write_text('{"key": "')
    elif fault == "future":
        cursor.path.write_text(cursor.path.read_text().replace('"full_at": ', '"full_at": 9'))
    elif fault == "other answers":
        with lake.stage("collect", version=1, inputs=()) as stage:
            row = {"annotation_id": "a", "item_id": "i", "project": "p", "task_id": "", "annotator": "ann"}
            more = {"action": "labelled", "class_id": 0, "simulated": False, "seconds": 1.0}
            at = pa.array([0], pa.timestamp("us", "UTC"))
            table = pa.Table.from_pylist([{**row, **more}])
            stage.commit([Append("annotations", table.append_column("created_at", at).append_column("updated_at", at))])
    with lake.read() as reader:
        assert cursor.read(reader, "there", CLASSES) == ""
