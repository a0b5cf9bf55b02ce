"""What people do to the files of a task folder, for several tests."""

import json
from pathlib import Path
from typing import Any

from active.annotation.service import Answer, Task
from active.queue.outbox import QueueConfig
from active.task_folder.service import TaskFolder

CONFIG = QueueConfig(project="p", classes=("a", "b"))


def task(item_id: str) -> Task:
    return Task(item_id=item_id, text=f"text {int(item_id[1:])}", cycle=1, rank=1, value=0.5, reason="because")


def annotation(label: str | None = "a", **changes: Any) -> dict[str, Any]:
    result = [{"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": [label]}}]
    return {"completed_by": "ann", "result": result if label else [], **changes}


def write(folder: TaskFolder, item_id: str, annotations: object) -> Path:
    path = folder.path / f"{folder.task_id(item_id)}.json"
    content = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**content, "annotations": annotations}), "utf-8")
    return path


def export(folder: TaskFolder, name: str, *tasks: dict[str, Any]) -> None:
    (folder.path / "import").mkdir(exist_ok=True)
    (folder.path / "import" / name).write_text(json.dumps(list(tasks)), "utf-8")


def exported(item_id: str, *annotations: dict[str, Any]) -> dict[str, Any]:
    return {"id": 7, "data": {"item_id": item_id}, "annotations": list(annotations)}


def answers(folder: TaskFolder) -> list[Answer]:
    return list(folder.pull())


def change_data(folder: TaskFolder, item_id: str, **changes: object) -> Path:
    path = folder.path / f"{folder.task_id(item_id)}.json"
    content = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**content, "data": {**content["data"], **changes}}), "utf-8")
    return path
