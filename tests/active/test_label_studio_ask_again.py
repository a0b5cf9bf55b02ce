"""Asking again on the real server, which lists the tasks of all rounds: each time a fresh task, and only its answer."""

import pyarrow as pa
import pytest

from active.label_studio.service import LabelStudioService
from active.quality.relabeling import AskAgainConfig, Why, ask_again
from active.queue.collect import collect
from active.queue.outbox import QueueConfig
from active.queue.push import push
from active.queue.reconcile import reconcile
from features.neighbors.faiss_index import VectorIndex
from flows.servers.label_studio import StudioInfo
from tests.active.plans import plan
from tests.studio import CLASSES, api, choose, proxy, sign_up
from warehouse import Lake, ServiceError, Upsert

pytestmark = pytest.mark.studio


@pytest.fixture
def config(service: LabelStudioService) -> QueueConfig:
    return QueueConfig(project=service.project, classes=CLASSES)


def no_index() -> VectorIndex:
    raise AssertionError("nobody asked for the index")


def ask(lake: Lake, config: QueueConfig, why: Why) -> None:
    """Plan the one item that is to be asked about again, for this reason."""
    settings = AskAgainConfig(project=config.project, budget=100, second_opinion=1.0)
    detail = dict(ask_again(lake, no_index, settings).detail)
    detail.pop("advice", None)  # where people had answered
    assert detail == {why: 1}


def edit(lake: Lake, item: str, text: str) -> None:
    with lake.stage("ingest", version=1, inputs=("items",), params={"text": text}) as stage:
        [row] = stage.arrow("SELECT * EXCLUDE (run_id, committed_at) FROM items WHERE item_id = ?", [item]).to_pylist()
        stage.commit([Upsert("items", pa.Table.from_pylist([{**row, "content": text, "content_hash": text}]))])


def row_of(lake: Lake, item: str) -> tuple[str, str]:
    """State and task of the item in the queue."""
    with lake.read() as reader:
        return reader.rows("SELECT state, task_id FROM queue WHERE item_id = ?", [item])[0]


def former(lake: Lake, item: str) -> list[tuple[int, str]]:
    with lake.read() as reader:
        return reader.rows("SELECT round, task_id FROM asked_before WHERE item_id = ? ORDER BY round", [item])


def gold(lake: Lake, item: str) -> list[str]:
    with lake.read() as reader:
        return [CLASSES[n] for (n,) in reader.rows("SELECT class_id FROM gold_labels WHERE item_id = ?", [item])]


def test_a_text_edited_twice_is_asked_about_three_times_and_answers_to_former_texts_do_not_count(
    lake: Lake, studio: StudioInfo, service: LabelStudioService, config: QueueConfig
) -> None:
    item, _ = plan(lake, service.project, [0.9, 0.5])
    for number, (text, label) in enumerate((("first", "earn"), ("second", "acq"), ("third", "crude"))):
        if number:
            edit(lake, item, text)
            ask(lake, config, "edited")
        push(lake, service, config)
        tasks = service.find([item])[item]
        assert len(tasks) == number + 1
        collect(lake, service, config)
        assert (row_of(lake, item), gold(lake, item)) == (("confirmed", tasks[-1]), [])
        assert former(lake, item) == list(enumerate(tasks[:-1], 1))
        choose(studio, tasks[-1], label)
        collect(lake, service, config)
        assert (row_of(lake, item), gold(lake, item)) == (("answered", tasks[-1]), [label])
    assert reconcile(lake, service, config).lines() == ["1 task agrees with the service"]


def test_a_text_edited_back_has_its_answered_task_again_and_the_other_is_gone(
    lake: Lake, service: LabelStudioService, config: QueueConfig, studio: StudioInfo
) -> None:
    item, _ = plan(lake, service.project, [0.9, 0.5])
    edit(lake, item, "first")
    push(lake, service, config)
    [first] = service.find([item])[item]
    choose(studio, first, "earn")
    collect(lake, service, config)
    edit(lake, item, "second")
    ask(lake, config, "edited")
    push(lake, service, config)
    assert len(service.find([item])[item]) == 2
    edit(lake, item, "first")
    settings = AskAgainConfig(project=config.project, budget=100)
    assert ask_again(lake, no_index, settings).detail == {"edits taken back": 1}
    assert push(lake, service, config).detail["sent"] == 0
    collect(lake, service, config)
    assert service.find([item]) == {item: [first]}
    assert (row_of(lake, item), gold(lake, item)) == (("answered", first), ["earn"])


def test_a_text_edited_before_its_task_the_newest_one_was_answered_is_sent_with_its_new_words(
    lake: Lake, studio: StudioInfo, service: LabelStudioService, config: QueueConfig
) -> None:
    _, item = plan(lake, service.project, [0.9, 0.5])
    push(lake, service, config)
    numbers = [row_of(lake, item)[1]]
    for text in ("second", "third"):
        edit(lake, item, text)
        ask(lake, config, "edited")
        push(lake, service, config)
        state, number = row_of(lake, item)
        assert (state, service.find([item])) == ("confirmed", {item: [number]})
        assert api(studio, "GET", f"/api/tasks/{number}/").json()["data"]["text"] == text
        assert int(number) > int(numbers[-1])
        numbers.append(number)


def test_people_who_disagree_are_asked_for_a_second_and_a_third_opinion(
    lake: Lake, studio: StudioInfo, service: LabelStudioService
) -> None:
    two = QueueConfig(project=service.project, classes=CLASSES, annotators_per_task=2)
    service = LabelStudioService(studio.url, studio.api_key, service.project, annotators_per_task=2)
    [item] = plan(lake, service.project, [0.9])
    people = [sign_up(studio) for _ in range(6)]
    for opinions in (("earn", "acq"), ("crude", "trade"), ("earn", "acq")):
        push(lake, service, two)
        tasks = service.find([item])[item]
        assert row_of(lake, item) == ("confirmed", tasks[-1])
        for label in opinions:
            choose(people.pop(), tasks[-1], label)
        collect(lake, service, two)
        assert row_of(lake, item) == ("answered", tasks[-1])
        if people:
            ask(lake, two, "disagreement")
    assert len(tasks) == 3
    assert former(lake, item) == list(enumerate(tasks[:-1], 1))


@pytest.mark.parametrize("lost", ["the answer", "the listing"])
def test_a_fresh_task_that_was_stored_but_not_confirmed_is_recognised(
    lake: Lake, studio: StudioInfo, service: LabelStudioService, config: QueueConfig, lost: str
) -> None:
    [item] = plan(lake, service.project, [0.9])
    stored = False

    def lose(method: str, path: str) -> bool:
        nonlocal stored
        storing = method == "POST" and path == "/api/tasks/"
        stored |= storing
        return storing if lost == "the answer" else stored and not storing

    for number in range(3):
        if number:
            edit(lake, item, f"text {number}")
            ask(lake, config, "edited")
        stored = False
        with proxy(studio, lose) as url, pytest.raises(ServiceError):
            push(lake, LabelStudioService(url, studio.api_key, service.project), config)
        assert stored
        assert row_of(lake, item) == ("sent", "")
        push(lake, service, config)
        tasks = service.find([item])[item]
        assert len(tasks) == number + 1
        assert row_of(lake, item) == ("confirmed", tasks[-1])
        choose(studio, tasks[-1], "earn")
        collect(lake, service, config)


def test_a_fresh_task_that_the_server_does_not_list_is_told(
    lake: Lake, studio: StudioInfo, service: LabelStudioService, config: QueueConfig
) -> None:
    [item] = plan(lake, service.project, [0.9])
    push(lake, service, config)
    [first] = service.find([item])[item]
    choose(studio, first, "earn")
    collect(lake, service, config)
    edit(lake, item, "another text")
    ask(lake, config, "edited")

    def deleted_at_once(method: str, path: str) -> bool:
        if method == "POST" and path == "/api/tasks/":
            api(studio, "DELETE", f"/api/tasks/{service.find([item])[item][-1]}/")
        return False

    with proxy(studio, deleted_at_once) as url, pytest.raises(ServiceError, match="does not list 1 of them yet"):
        push(lake, LabelStudioService(url, studio.api_key, service.project), config)
    push(lake, service, config)
    assert row_of(lake, item) == ("confirmed", service.find([item])[item][1])


def test_a_former_task_whose_number_is_another_items_now_is_not_taken_back(
    lake: Lake, studio: StudioInfo, service: LabelStudioService, config: QueueConfig
) -> None:
    """The project moved to a server that counts from 1 again."""
    moved, other = plan(lake, service.project, [0.9, 0.5])
    push(lake, service, config)
    tasks = service.find([moved, other])
    choose(studio, tasks[moved][0], "earn")
    collect(lake, service, config)
    edit(lake, moved, "another text")
    ask(lake, config, "edited")
    with lake.stage("elsewhere", version=1, inputs=()) as stage:
        [row] = stage.arrow("SELECT * EXCLUDE (run_id, committed_at) FROM asked_before").to_pylist()
        stage.commit([Upsert("asked_before", pa.Table.from_pylist([{**row, "task_id": tasks[other][0]}]))])
    push(lake, service, config)
    assert service.find([other]) == {other: tasks[other]}
