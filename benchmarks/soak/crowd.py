"""Three annotators on a real Label Studio who answer, err, change their minds, and write down all they did.

Their log is the truth that the soak holds the warehouse against. A server that is busy or killed in the middle of a
request leaves open whether an answer was stored; then they look, as a person reloads the page.
"""

import random
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

from flows.servers.label_studio import StudioInfo

WRONG = 1 / 7
SKIPPED = 0.03
SECOND_THOUGHTS = 0.2
DELETED = 0.3
PATIENCE_S = 900.0


@dataclass(slots=True)
class Said:
    """What one annotation says now; `action` as in the table `annotations`."""

    item_id: str
    annotator: str
    action: str
    label: str


@dataclass(slots=True)
class Crowd:
    """Annotators on the server, and the log of all they did, by annotation id.

    Attributes:
        title: the project's.
        classes: that they choose from.
        truth: right class of each item.
        dice: of all they do.
        people: their own log-ins.
        log: what each annotation says now.
        doubled: items that were asked although an answer to them stood.
        withdrawn: tasks that were taken off the screen before they were answered.
    """

    title: str
    classes: tuple[str, ...]
    truth: dict[str, str]
    dice: random.Random
    people: list[StudioInfo] = field(default_factory=list[StudioInfo])
    log: dict[str, Said] = field(default_factory=dict[str, Said])
    doubled: list[str] = field(default_factory=list[str])
    withdrawn: int = 0

    def work(self, answers: int) -> None:
        """Answer some tasks, and now and then change or delete an answer."""
        projects = _read(self.people[0], "/api/projects/", title=self.title)
        project = next((p["id"] for p in projects["results"]), None) if projects else None
        if project is None:
            return
        for _ in range(answers):
            person = self.dice.choice(self.people)
            task = _read(person, f"/api/projects/{project}/next")
            if task is None:  # nothing is open
                break
            self._answer(person, task)
        if self.dice.random() < SECOND_THOUGHTS:
            self._think_again()

    def labels(self) -> dict[str, str]:
        """Label of each item that has one; of an item that was asked again, the answer that stands."""
        return {said.item_id: said.label for said in self.log.values() if said.action == "labelled"}

    def _answer(self, person: StudioInfo, task: dict[str, Any]) -> None:
        item_id, path = task["data"]["item_id"], f"/api/tasks/{task['id']}/annotations/"
        if item_id in self.labels():
            self.doubled.append(item_id)
        skipped = self.dice.random() < SKIPPED
        label = "" if skipped else self._choice(item_id)
        body = {"result": [] if skipped else [_chosen(label)], "lead_time": 2.0, "was_cancelled": skipped}
        stored = _write(person, "POST", path, body)
        if stored is None:  # it may be there after all, unless the task was withdrawn
            found = _read(person, path) or []
            stored = next((one for one in found if str(one["id"]) not in self.log), None)
        if stored is None:
            self.withdrawn += 1
        else:
            action = "skipped" if skipped else "labelled"
            self.log[str(stored["id"])] = Said(item_id, person.username, action, label)

    def _think_again(self) -> None:
        labelled = [key for key, said in self.log.items() if said.action == "labelled"]
        if not labelled:
            return
        key = self.dice.choice(labelled)
        said, path = self.log[key], f"/api/annotations/{key}/"
        person = next(p for p in self.people if p.username == said.annotator)
        if self.dice.random() < DELETED:
            _write(person, "DELETE", path)
        else:
            _write(person, "PATCH", path, {"result": [_chosen(self._choice(said.item_id))]})
        now = _read(person, path)
        said.action = "deleted" if now is None else said.action
        said.label = "" if now is None else now["result"][0]["value"]["choices"][0]

    def _choice(self, item_id: str) -> str:
        label = self.truth[item_id]
        if self.dice.random() < WRONG:
            label = self.dice.choice([other for other in self.classes if other != label])
        return label


def _chosen(label: str) -> dict[str, Any]:
    return {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": [label]}}


def _read(person: StudioInfo, path: str, **params: str) -> Any:
    """What the server says, asked until it says something; None where there is nothing."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        response = _send(person, "GET", path, params=params)
        if response is not None and response.is_success:
            return response.json()
        if response is not None and response.status_code == 404:
            return None
        time.sleep(1.0)
    raise TimeoutError(f"{person.url}{path} has not answered in {PATIENCE_S:.0f} s")


def _write(person: StudioInfo, method: str, path: str, body: object = None) -> dict[str, Any] | None:
    """Send once; None when it is not known whether the server took it, or it did not."""
    response = _send(person, method, path, json=body)
    return response.json() if response is not None and response.is_success and response.content else None


def _send(person: StudioInfo, method: str, path: str, **options: Any) -> httpx.Response | None:
    how = {"timeout": 60, "trust_env": False, "follow_redirects": True, **options}
    try:
        return httpx.request(method, person.url + path, headers={"Authorization": f"Token {person.api_key}"}, **how)
    except httpx.HTTPError:
        return None
