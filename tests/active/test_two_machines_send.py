"""Two machines share a catalogue in PostgreSQL and send to Label Studio at the same moment: each task is there once.

Their run locks are of one machine each, and Label Studio has no key of our own by which it could refuse a second task.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Barrier, BrokenBarrierError

import pytest

from active.annotation.service import Task
from active.label_studio.service import LabelStudioService
from active.queue.outbox import QueueConfig
from active.queue.push import push
from active.queue.reconcile import reconcile
from flows.servers.label_studio import StudioInfo
from tests.active.plans import plan
from tests.studio import CLASSES
from warehouse import Lake, Location

pytestmark = pytest.mark.studio

MEANWHILE_S = 5.0


class Meeting(LabelStudioService):
    """Waits, right before it stores tasks, until the other machine is about to do so too, or does not come."""

    both: Barrier

    def push(self, tasks: Sequence[Task]) -> Mapping[str, str]:
        with suppress(BrokenBarrierError):
            self.both.wait(MEANWHILE_S)
        return super().push(tasks)


@pytest.mark.parametrize("ways", [(push, push), (push, reconcile)], ids=["two runs", "a run and a reconcile"])
def test_what_one_sends_the_other_does_not(
    studio: StudioInfo, service: LabelStudioService, tmp_path: Path, postgres: str, ways: Sequence[object]
) -> None:
    config = QueueConfig(project=service.project, classes=CLASSES)
    service.ensure_project(CLASSES)
    both = Barrier(2)
    lakes = [Lake(Location(folder=tmp_path / "lake", catalog=postgres)) for _ in range(2)]
    items = plan(lakes[0], service.project, [0.9, 0.8, 0.7])

    def send(number: int) -> None:
        machine = Meeting(studio.url, studio.api_key, service.project)
        machine.both = both
        way = ways[number]
        assert callable(way)
        way(lakes[number], machine, config)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(send, range(2)))
    for lake in lakes:
        lake.close()
    assert sorted(task.item_id for task in service.stored()) == items
