"""How long a language model is waited for: its rate, what is left of a run, and who is told to stop."""

import dataclasses
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType

import pytest
from httpx import Headers

from tests.weak_labels.chat_service import ASKS, Service, settings
from tests.weak_labels.lf_helpers import add_items, config, votes
from warehouse import Lake
from weak_labels import keywords, prompt
from weak_labels.applying.stage import vote
from weak_labels.functions.call import NotAVote
from weak_labels.prompting.client import PromptClient, Refused, _retry_after
from weak_labels.prompting.time_budget import RunClock


@pytest.mark.parametrize(("named", "waited_s"), [("3600", 60.0), ("-1", 0.0), ("7", 7.0), ("tomorrow", 2.0)])
def test_nobody_waits_for_a_service_longer_than_a_minute_at_a_time(named: str, waited_s: float) -> None:
    assert _retry_after(Headers({"retry-after": named}), 2.0) == waited_s


def test_requests_keep_to_the_rate(service: Service, tmp_path: Path) -> None:
    with PromptClient(settings(service, tmp_path, requests_per_minute=600)) as client:
        client.ask("tiny", "question", ["one", "two", "three", "four"])
    assert service.times[-1] - service.times[0] >= 0.25  # four turns, a tenth of a second apart


def test_all_who_ask_together_have_only_so_many_requests_in_flight(service: Service, tmp_path: Path) -> None:
    lock, flying, most = threading.Lock(), 0, 0

    def answer(text: str) -> str:
        nonlocal flying, most
        with lock:
            flying += 1
            most = max(most, flying)
        time.sleep(0.05)
        with lock:
            flying -= 1
        return "Yes."

    service.answer = answer
    with PromptClient(settings(service, tmp_path, parallel=2)) as client, ThreadPoolExecutor(4) as pool:
        texts = [[f"{batch} {number}" for number in range(4)] for batch in range(4)]
        assert list(pool.map(lambda batch: client.ask("tiny", "q", batch), texts)) == [["Yes."] * 4] * 4
    assert most == 2


def test_an_interrupt_ends_the_wait_for_a_busy_service(service: Service, tmp_path: Path) -> None:
    service.failures = [(429, {"retry-after": "60"}, b"")] * 20
    stop = threading.Event()  # as the preview gives none, it is only looked at
    main = threading.get_ident()

    def interrupt() -> None:
        while not service.requests:
            time.sleep(0.01)
        time.sleep(0.3)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with PromptClient(settings(service, tmp_path, run_limit_s=20.0, attempts=2)) as client:
        with pytest.raises(KeyboardInterrupt):
            client.ask("tiny", "q", [f"text {number}" for number in range(8)], stop)
        assert stop.is_set()
    thread.join()
    assert len(service.requests) <= 4


def test_after_the_last_attempt_nobody_waits(service: Service, tmp_path: Path) -> None:
    service.failures = [(429, {"retry-after": "60"}, b"")]
    with PromptClient(settings(service, tmp_path, attempts=1, run_limit_s=5.0)) as client:
        with pytest.raises(NotAVote, match="failed 1 times, last with HTTP 429"):
            client.ask("tiny", "question", ["a goal"])
        assert client.ask("tiny", "question", ["a goal"]) == ["Yes."]  # there is time left for it


@pytest.mark.parametrize("changes", [{}, {"requests_per_minute": 1.0}])
def test_who_is_told_to_stop_waits_no_longer(service: Service, tmp_path: Path, changes: dict[str, float]) -> None:
    """Neither for a busy service nor for its turn."""
    stop = threading.Event()

    def busy(text: str) -> str:
        service.failures = [(429, {"retry-after": "60"}, b"")] if not changes else []
        return "Yes."

    service.answer = busy
    with PromptClient(settings(service, tmp_path, run_limit_s=10.0, parallel=1, **changes)) as client:
        assert client.ask("tiny", "question", ["one"]) == ["Yes."]
        threading.Timer(0.5, stop.set).start()
        assert client.ask("tiny", "question", ["two"], stop) == [Refused("not asked")]


def test_a_run_that_waited_long_enough_ends_the_prompts_and_no_other_function(
    lake: Lake, service: Service, tmp_path: Path
) -> None:
    add_items(lake, {f"i{n}": f"goal {n}" for n in range(40)})
    again = prompt("Again?", {"yes": "sports", "no": None}, model="tiny", name="again")
    goal = keywords("sports", ["goal"], name="goal")
    service.takes_s = 0.3
    given = settings(service, tmp_path, run_limit_s=2.0, parallel=2)  # 40 texts would take 6 seconds
    with PromptClient(given) as client:
        result = vote(lake, [ASKS, again, goal], config(processes=1), ask=client.ask)
        assert result.detail["switched_off"] == ["again", "asks"]
        asked = len(service.requests)
        assert 0 < asked < 40
        assert {body["messages"][0]["content"][:6] for body in service.requests} == {"Is thi"}
        assert votes(lake) == {(f"i{n}", "goal"): 0 for n in range(40)}
        with lake.read() as reader:
            told = reader.rows("SELECT lf_name, detail FROM lf_faults WHERE fault = 'switched_off' ORDER BY 1")
        assert [name for name, _ in told] == ["again", "asks"]
        assert all("the time limit of 2 s" in detail and "run_limit_s" in detail for _, detail in told)
    # A run with more time goes on from there and pays for nothing twice.
    service.takes_s = 0.0
    add_items(lake, {"new": "goal new"})
    with PromptClient(dataclasses.replace(given, run_limit_s=0)) as client:
        assert vote(lake, [ASKS, goal], config(), ask=client.ask).detail["switched_off"] == []
    texts = [body["messages"][-1]["content"] for body in service.requests]
    assert set(texts) == {f"goal {n}" for n in range(40)} | {"goal new"}
    assert all(texts.count(text) == 1 for text in texts[: asked - 2])  # at most two were under way at the end
    assert len(votes(lake)) == 82


@pytest.mark.parametrize("limit", ["rate", "busy"])
def test_no_wait_between_requests_is_longer_than_what_is_left_of_the_run(
    service: Service, tmp_path: Path, limit: str
) -> None:
    service.failures = [(503, {"retry-after": "8"}, b"")] if limit == "busy" else []
    slow = {"requests_per_minute": 7.5} if limit == "rate" else {}
    began = time.monotonic()
    given = settings(service, tmp_path, run_limit_s=0.5, **slow)
    with PromptClient(given) as client, pytest.raises(NotAVote, match="time limit"):
        client.ask("tiny", "q", ["one", "two"] if limit == "rate" else ["one"])
    assert time.monotonic() - began < 6


def test_the_time_of_a_run_is_counted_once_for_all_who_wait_and_anew_for_the_next_run() -> None:
    clock = RunClock(10.0)

    def gone_s(seconds: float = 0.1) -> float:
        """How much of the time is used up by a wait in here."""
        before = clock.left_s()
        time.sleep(seconds)
        return before - clock.left_s()

    with clock.waiting():
        assert gone_s() >= 0.1
        with clock.waiting():
            began, left_s = time.monotonic(), clock.left_s()
            assert left_s <= 9.9, "who comes later does not begin it anew"
            assert gone_s() >= 0.1
        assert left_s - clock.left_s() <= time.monotonic() - began, "who leaves earlier is not counted beside the other"
        began = time.monotonic()
        clock.restart()
        assert 10.0 - clock.left_s() <= time.monotonic() - began, "nor is what they waited in the run before"
    assert gone_s() == 0, "nobody waits"
    brief = RunClock(0.05)
    with brief.waiting():
        time.sleep(0.06)
    with pytest.raises(NotAVote, match=r"time limit of 0\.05 s"):
        brief.left_s()


def test_a_request_is_broken_off_when_the_time_of_the_run_is_over(service: Service, tmp_path: Path) -> None:
    service.takes_s = 6.0
    with PromptClient(settings(service, tmp_path, run_limit_s=2.0, attempts=1)) as client:
        with pytest.raises(NotAVote, match=r"the time limit of 2 s"):
            client.ask("tiny", "question", ["a goal"])
        service.takes_s = 0.0
        with pytest.raises(NotAVote, match=r"the time limit of 2 s"):
            client.ask("tiny", "question", ["another goal"])
        assert len(service.requests) == 1
        client.begin_run()
        assert client.ask("tiny", "question", ["another goal"]) == ["Yes."]


def test_interrupted_run_makes_no_further_request(lake: Lake, tmp_path: Path, service: Service) -> None:
    add_items(lake, {f"i{n:03}": f"goal {n}" for n in range(120)})
    add_items(lake, {"j": "no batch before the last is taken"})
    main, noticed = threading.get_ident(), threading.Event()

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        if not noticed.is_set():
            noticed.set()
            raise KeyboardInterrupt

    def answer(text: str) -> str:
        # Once more where it comes just before the main thread falls asleep, which wakes up for the next.
        while len(service.requests) >= 10 and not noticed.wait(0.1):
            signal.pthread_kill(main, signal.SIGINT)
        return "Yes."

    service.answer = answer
    limits = settings(service, tmp_path, requests_per_minute=1200, parallel=2)
    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        with PromptClient(limits) as client, pytest.raises(KeyboardInterrupt):
            vote(lake, [ASKS], config(batch_items=30, processes=2), ask=client.ask)
    finally:
        signal.signal(signal.SIGINT, before)
    assert 10 <= len(service.requests) < 60


def test_an_answer_that_trickles_in_is_given_up(service: Service, tmp_path: Path) -> None:
    service.trickles_s = 0.05
    given = settings(service, tmp_path, timeout_s=0.3, attempts=1, price_in=1.0)
    with PromptClient(given) as client:
        with pytest.raises(NotAVote, match="last with ReadTimeout"):
            client.ask("tiny", "q", ["a goal"])
        assert client.spent() == (1, pytest.approx((len("q") + len("a goal") + 64) / 1e6))  # it may have been charged
