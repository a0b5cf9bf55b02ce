"""A project that moves between a folder of tasks and a server: where its tasks went last, what would be left behind.

The queue itself tells: tasks of a folder are named by a hash of their item, and those of a server have numbers. A
project that only changed its name would leave all of it behind.
"""

import pyarrow as pa

from active.task_folder.service import TaskFolder
from warehouse import Delete, Lake, Reader, SettingsError, Upsert

_NAMES = """
    SELECT project, bool_or(state <> 'planned') OR project IN (SELECT b.project FROM asked_before b)
    FROM queue GROUP BY project ORDER BY project
"""
"""Names in the queue, and whether people were asked under each."""
_UNSENT = """project <> $1 AND NOT EXISTS (FROM queue q WHERE q.project = $1)
    AND NOT EXISTS (FROM queue q WHERE q.state <> 'planned')"""


def check_name(reader: Reader, project: str) -> None:
    """Refuse a name under which nobody was ever asked, where people were under another.

    Tasks and answers are stored under the project's name: its open tasks would get no answers any more, those in files
    would be collected twice, and the label budget would begin anew.

    Args:
        reader: the warehouse.
        project: name of the project in the settings.

    Raises:
        SettingsError: tasks were sent under other names only.
    """
    names: dict[str, bool] = dict(reader.rows(_NAMES))
    former = [name for name, asked in names.items() if asked]
    if former and project not in names:
        raise SettingsError(
            f"[project] name is {project!r}, and the tasks and answers in the warehouse are those of {former[-1]!r}, "
            f"which would stay behind. Put the former name back; people are shown [project] title. To begin anew, name "
            "another folder, or another database, under [warehouse]."
        )


def take_over_planned(lake: Lake, project: str) -> None:
    """Bring what was selected under another name, and never sent, under this one.

    So a name that the service refused, because somebody's own project there has it, can be changed.
    """
    with lake.read() as reader:
        others = reader.arrow(f"SELECT * EXCLUDE (run_id, committed_at) FROM queue WHERE {_UNSENT}", [project])
    if not others.num_rows:
        return
    place = others.column_names.index("project")
    ours = others.set_column(place, "project", pa.array([project] * others.num_rows))
    with lake.stage("select", version=1, inputs=("queue",), params={"renamed": project}) as stage:
        stage.commit([Delete("queue", others.select(["item_id", "project"])), Upsert("queue", ours)])


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
