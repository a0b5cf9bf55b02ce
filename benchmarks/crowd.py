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

    def work(self, answers: int) -> int:
        """Answer some tasks, and now and then change, skip or delete; returns how many were answered."""
        projects = self._read(self.people[0], "/api/projects/", title=self.title)
        project = next((p["id"] for p in projects["results"]), None) if projects else None
        if project is None:
            return 0
        done = 0
        for _ in range(answers):
            person = self.dice.choice(self.people)
            task = self._read(person, f"/api/projects/{project}/next")
            if task is None:  # nothing is open
                break
            done += self._answer(person, task)
        if self.dice.random() < SECOND_THOUGHTS:
            self._think_again()
        return done

    def labels(self) -> dict[str, str]:
        """Label of each item that has one; of an item that was asked again, the answer that stands."""
        return {said.item_id: said.label for said in self.log.values() if said.action == "labelled"}

    def _answer(self, person: StudioInfo, task: dict[str, Any]) -> bool:
        item_id = task["data"]["item_id"]
        if item_id in self.labels():
            self.doubled.append(item_id)
        skipped = self.dice.random() < SKIPPED
        label = "" if skipped else self._choice(item_id)
        body = {"result": [] if skipped else [_chosen(label)], "lead_time": 2.0, "was_cancelled": skipped}
        stored = self._write(person, "POST", f"/api/tasks/{task['id']}/annotations/", body)
        if stored is None:
            stored = self._stored_after_all(person, task["id"])
        if stored is None:
            self.withdrawn += 1
            return False
        self.log[str(stored["id"])] = Said(item_id, person.username, "skipped" if skipped else "labelled", label)
        return True

    def _think_again(self) -> None:
        labelled = [key for key, said in self.log.items() if said.action == "labelled"]
        if not labelled:
            return
        key = self.dice.choice(labelled)
        said = self.log[key]
        person = next(p for p in self.people if p.username == said.annotator)
        if self.dice.random() < DELETED:
            self._write(person, "DELETE", f"/api/annotations/{key}/")
        else:
            self._write(person, "PATCH", f"/api/annotations/{key}/", {"result": [_chosen(self._choice(said.item_id))]})
        now = self._read(person, f"/api/annotations/{key}/")
        if now is None:
            said.action, said.label = "deleted", ""
        else:
            said.label = now["result"][0]["value"]["choices"][0]

    def _choice(self, item_id: str) -> str:
        label = self.truth[item_id]
        if self.dice.random() < WRONG:
            label = self.dice.choice([other for other in self.classes if other != label])
        return label

    def _stored_after_all(self, person: StudioInfo, task: int) -> dict[str, Any] | None:
        """The annotation that a request without an answer left; None also when its task was withdrawn."""
        found = self._read(person, f"/api/tasks/{task}/annotations/") or []
        return next((one for one in found if str(one["id"]) not in self.log), None)

    def _read(self, person: StudioInfo, path: str, **params: str) -> Any:
        """What the server says, asked until it says something; None where there is nothing.

        Raises:
            TimeoutError: it did not in a quarter of an hour.
        """
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            try:
                response = _send(person, "GET", path, params=params)
            except httpx.HTTPError:
                time.sleep(1.0)
                continue
            if response.is_success:
                return response.json()
            if response.status_code == 404:
                return None
            time.sleep(1.0)
        raise TimeoutError(f"{person.url}{path}")

    def _write(self, person: StudioInfo, method: str, path: str, body: object = None) -> dict[str, Any] | None:
        """Send once; None when it is not known whether the server took it, or it did not."""
        try:
            response = _send(person, method, path, json=body)
        except httpx.HTTPError:
            return None
        return response.json() if response.is_success and response.content else None


def _chosen(label: str) -> dict[str, Any]:
    return {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": [label]}}


def _send(person: StudioInfo, method: str, path: str, **options: Any) -> httpx.Response:
    headers = {"Authorization": f"Token {person.api_key}"}
    return httpx.request(
        method, person.url + path, headers=headers, timeout=60, trust_env=False, follow_redirects=True, **options
    )
