"""A project of this name may be another warehouse's, whose items have the same ids: then nothing is shared with it.

Where two projects number their records from 1 and have one name, each would take the other's tasks for its own, and
answers about one text would become labels of another. The texts of the tasks tell them apart.
"""

from active.annotation.service import AnnotationService, text_key
from active.queue.outbox import QueueConfig
from warehouse import Lake, ServiceRefused

FOREIGN_FRAC = 0.5
"""Share of tasks with another text than their item's above which a project is another's: some texts may have been
edited since a warehouse that began anew sent them."""
_KNOWN = """
    SELECT item_id, task_id FROM queue WHERE project = $project AND task_id <> ''
    UNION ALL SELECT item_id, task_id FROM asked_before WHERE project = $project
"""


def refuse_other(lake: Lake, service: AnnotationService, config: QueueConfig) -> None:
    """Look at the tasks that the service holds of this warehouse's items, as long as none is known to be from here.

    Raises:
        ServiceRefused: more than half of them show another text.
    """
    with lake.read() as reader:
        if any(service.gave(*task) for task in reader.rows(_KNOWN, {"project": config.project})):
            return
    there = {task.item_id: task.data for task in service.stored()}
    with lake.read() as reader:
        items = reader.rows(
            "SELECT item_id, content, metadata FROM items WHERE item_id IN (SELECT unnest(?::VARCHAR[])) ORDER BY 1",
            [list(there)],
        )
    others = [
        item_id
        for item_id, content, metadata in items
        if any(
            there[item_id].get(text_key(n)) != text for n, text in enumerate(config.content.texts(content, metadata))
        )
    ]
    if len(others) > FOREIGN_FRAC * len(items):
        raise ServiceRefused(
            f"{service.describe()} has tasks of {len(items)} of this project's items, and {len(others)} of them show "
            f"another text, such as that of item {others[0][:80]!r}: they are another project's of the same name, "
            "and answers to them would become labels here. Give this one another [project] name in siftline.toml, and "
            "another folder under [warehouse]; or, if its records were edited since a former warehouse sent them, "
            "delete these tasks there."
        )
