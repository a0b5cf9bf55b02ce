"""Answers of one Label Studio server stay as they are when another one, which gives the same ids, takes over."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from active.label_studio.service import LabelStudioService
from active.queue.collect import collect
from active.queue.cursor import Cursor
from active.queue.outbox import QueueConfig
from active.queue.push import push
from active.queue.reconcile import reconcile
from flows.servers.label_studio import StudioInfo, StudioServer
from tests.active.plans import plan
from tests.studio import CLASSES, api
from warehouse import Lake

pytestmark = pytest.mark.studio


def answer(service: LabelStudioService, items: Sequence[str], label: str, annotator: str) -> list[str]:
    """Answer these items in this order; returns the ids of the answers."""
    for item in items:
        service.annotate(service.find([item])[item][0], labels=[label], annotator=annotator, seconds=1)
    return [said.annotation_id for item in items for said in service.pull() if said.item_id == item]


def opinions(lake: Lake) -> list[tuple[str, str, int]]:
    with lake.read() as reader:
        return reader.rows("SELECT item_id, annotator, class_id FROM opinions ORDER BY ALL")


@pytest.fixture
def next_studio(studio: StudioInfo, studio_copy: StudioServer) -> StudioInfo:
    """Another server, which gives the same ids as the first one from here on."""
    return studio_copy.start()


def test_labels_of_the_former_server_stay_and_none_of_the_next_is_dropped(
    lake: Lake, service: LabelStudioService, next_studio: StudioInfo, tmp_path: Path
) -> None:
    config = QueueConfig(project=service.project, classes=CLASSES, annotators_per_task=2)
    cursor = Cursor(tmp_path / "collect.json")
    other = LabelStudioService(next_studio.url, next_studio.api_key, service.project)
    other.url = service.url  # at the former one's address, as the cursor sees it
    a, b, c, d, e = plan(lake, service.project, [1 - number / 10 for number in range(5)])
    push(lake, service, config)
    former = answer(service, [a, b, c], "acq", "ann")
    collect(lake, service, config, cursor=cursor)
    expected = [(a, "ann", 1), (b, "ann", 1), (c, "ann", 1)]
    assert opinions(lake) == expected

    reconcile(lake, other, config)  # the server is empty: all five wait for a second person, or for the first
    # The first id is reused for the same item by somebody else, the second for another item, and the third not yet.
    assert answer(other, [a, d], "acq", "ben") == former[:2]
    collect(lake, other, config, cursor=cursor)
    expected += [(a, "ben", 1), (d, "ben", 1)]
    assert opinions(lake) == sorted(expected)
    assert answer(other, [e], "earn", "ben") == former[2:]
    collect(lake, other, config, cursor=cursor)
    expected += [(e, "ben", 0)]
    assert opinions(lake) == sorted(expected)
    assert not collect(lake, other, config).committed  # reading everything finds nothing more

    mine = {said.item_id: said.annotation_id for said in other.pull()}
    api(next_studio, "DELETE", f"/api/annotations/{mine[a]}/")
    collect(lake, other, config, cursor=cursor)
    expected.remove((a, "ben", 1))
    assert opinions(lake) == sorted(expected)
