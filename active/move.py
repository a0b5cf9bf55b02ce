"""A project that moves between a folder of tasks and a server: where its tasks went last, what would be left behind.

The queue itself tells: tasks of a folder are named by a hash of their item, and those of a server have numbers.
"""

from active.task_folder import TaskFolder
from warehouse import Reader


def stored_last_in(reader: Reader, folder: TaskFolder) -> bool | None:
    """True where the task that was stored last is one of the folder's, False where it is a server's; else None."""
    found = reader.rows(
        "SELECT item_id, task_id FROM queue WHERE project = ? AND task_id <> '' "
        "ORDER BY committed_at DESC, cycle DESC, rank DESC LIMIT 1",
        [folder.project],
    )
    if not found:
        return None
    item_id, task_id = found[0]
    if folder.gave(item_id, task_id):
        return True
    return False if task_id.isdecimal() else None


def not_collected(reader: Reader, folder: TaskFolder) -> int:
    """How many answers in the folder the warehouse has never had."""
    known = set(
        reader.rows("SELECT DISTINCT item_id, annotation_id FROM annotations WHERE project = ?", [folder.project])
    )
    return sum(
        not {(said.item_id, said.annotation_id), (said.item_id, f"{said.annotation_id} {said.annotator}")} & known
        for said in folder.pull()
    )
