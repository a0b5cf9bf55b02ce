"""A server whose clock was ahead and is put right: what is answered then is found, and whose it is stays right."""

import json
import re
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from urllib.parse import unquote

import pytest

from active.label_studio.answers import People, answers_of
from active.label_studio.service import LabelStudioService
from tests.active.test_label_studio_faults import CANARY, answering
from tests.studio import http_server


@pytest.mark.parametrize(
    ("ahead", "before"),
    [(timedelta(days=365), timedelta(hours=1)), (timedelta(seconds=30), timedelta(0))],
    ids=["a year", "a little, so that not each pull reads an hour of answers"],
)
def test_a_pull_goes_on_before_our_own_time_where_the_servers_clock_is_ahead(
    ahead: timedelta, before: timedelta
) -> None:
    """Else, once it is put right, no answer is found by the times of changes until that day is there again."""
    labels = {"label": {"labels": ["a", "b"], "to_name": ["text"], "type": "Choices", "inputs": []}}
    made = {"created_at": "2026-01-01T00:00:00Z", "task_number": 0}
    project = {"id": 1, "title": "some project", "parsed_label_config": labels, **made}
    changed = (datetime.now(UTC) + ahead).isoformat()
    task = {"id": 1, "data": {"item_id": "i"}, "annotations": [], "updated_at": changed}
    asked: list[str] = []

    def answer(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        found = {"count": 1, "results": [project]} if "/projects" in handler.path else {"total": 1, "tasks": [task]}
        asked.append(unquote(handler.path))
        answering(200, json.dumps(found))(handler, body)

    with http_server(answer) as url:
        service = LabelStudioService(url, CANARY, "some project", timeout_s=10)
        cursor = service.pull_since("").cursor
        assert service.pull_since(cursor).tasks is not None
    [after] = {time for path in asked for time in re.findall(r"20\d\d-[0-9T:.-]+Z", path)}
    back = datetime.now(UTC) - datetime.fromisoformat(after)
    assert before < back < before + timedelta(minutes=30)


@pytest.mark.parametrize("saved", ["2026-01-01T09:00:00Z", "2026-01-01T11:00:00Z"])
def test_an_edit_is_one_whichever_way_the_clock_went(saved: str) -> None:
    choice = {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": ["a"]}}
    said = {"id": 1, "result": [choice], "was_cancelled": False, "lead_time": 1.0, "completed_by": 1, "updated_by": 2}
    said |= {"created_at": "2026-01-01T10:00:00Z", "updated_at": saved}
    people = People(several=True, name_of=lambda number: f"person {number}", is_own=lambda number: False)
    task = {"id": 1, "data": {"item_id": "i"}, "annotations": [said]}
    [answer] = answers_of(task, "there", multi_label=False, people=people)
    assert answer.annotator == "person 1", "where several answer, it stays its author's"
