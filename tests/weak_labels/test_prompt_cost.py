"""What prompts may cost holds over runs, processes and kills: money, requests, their rate, and the time of a run."""

import contextlib
import dataclasses
import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType

import pytest
from httpx import Headers

from features.ingest import ingest
from flows.cli.main import run_command
from flows.cli.summary import print_summary
from flows.project import Project
from flows.stages import RunSummary
from tests.projects import ROOT
from tests.weak_labels.chat_service import ASKS, Service, run, settings
from tests.weak_labels.lf_helpers import add_items, config, votes
from warehouse import Lake, SettingsError
from weak_labels import keywords, prompt
from weak_labels.apply import vote
from weak_labels.calls import NotAVote
from weak_labels.paid_answers import PaidAnswers
from weak_labels.prompt_client import PromptClient, PromptConfig, Refused, _retry_after
from weak_labels.run_clock import RunClock

ASK = """
import sys
from pathlib import Path
from weak_labels.prompt_client import PromptClient, PromptConfig
with PromptClient(PromptConfig(url=sys.argv[1], cache=Path(sys.argv[2]), price_in=1.0)) as client:
    client.ask("tiny", "q", ["a goal"])
"""


def test_requests_that_were_never_made_use_up_none(service: Service, tmp_path: Path) -> None:
    given = settings(service, tmp_path, requests_per_minute=60.0, run_limit_s=0.3)
    with PromptClient(given) as client:
        with pytest.raises(NotAVote, match="time limit"):
            client.ask("tiny", "q", [f"text {number}" for number in range(4)])
        assert client.spent()[0] == len(service.requests) == 1


@pytest.mark.parametrize("tokens", ["1" + "0" * 400, "-5", "true", "null"])
def test_a_count_of_tokens_that_is_none_counts_as_the_dearest(service: Service, tmp_path: Path, tokens: str) -> None:
    usage = f'{{"prompt_tokens": {tokens}, "completion_tokens": 1}}'
    answer = f'{{"choices": [{{"message": {{"content": "yes"}}}}], "usage": {usage}}}'
    service.failures = [(200, {}, answer.encode())]
    with PromptClient(settings(service, tmp_path, price_in=1.0)) as client:
        assert client.ask("tiny", "question", ["text"]) == ["yes"]
        assert client.spent()[1] == pytest.approx((len("question") + len("text") + 64) / 1e6)


@pytest.mark.parametrize(("named", "waited_s"), [("3600", 60.0), ("-1", 0.0), ("7", 7.0), ("tomorrow", 2.0)])
def test_nobody_waits_for_a_service_longer_than_a_minute_at_a_time(named: str, waited_s: float) -> None:
    assert _retry_after(Headers({"retry-after": named}), 2.0) == waited_s


def test_spending_stops_before_the_limit_and_what_was_paid_for_is_kept(
    lake: Lake, service: Service, tmp_path: Path
) -> None:
    add_items(lake, {f"i{n}": f"goal {n}" for n in range(10)})
    # An answer costs 40 + 2 tokens at 1 each; at most about 250 are set aside before it.
    given = settings(service, tmp_path, limit=400e-6, price_in=1.0, price_out=1.0, parallel=4)
    assert run(lake, given).detail["switched_off"] == ["asks"]
    paid = len(service.requests)
    assert 0 < paid < 10
    with PromptClient(given) as client:
        requests, cost = client.spent()
        assert requests == paid
        assert cost == pytest.approx(42e-6 * paid)
        assert cost <= 400e-6
    add_items(lake, {"new": "goal new"})
    run(lake, dataclasses.replace(given, limit=1.0))
    assert len(service.requests) == 11
    assert len(votes(lake)) == 11


def test_two_clients_of_one_cache_keep_to_the_limit_together(service: Service, tmp_path: Path) -> None:
    given = settings(service, tmp_path, limit=1.0, price_in=1.0, attempts=1)
    service.takes_s = 0.5
    texts = ["a" + "x" * 700_000, "b" + "x" * 700_000]  # each may cost 0.7
    refused: list[str] = []

    def ask(text: str) -> None:
        with PromptClient(given) as client:
            try:
                client.ask("tiny", "q", [text])
            except NotAVote as error:
                refused.append(str(error))

    threads = [threading.Thread(target=ask, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(service.requests) == len(refused) == 1
    assert "spending limit of 1 is reached" in refused[0]


def test_a_request_that_a_kill_cut_off_counts_as_the_dearest(service: Service, tmp_path: Path) -> None:
    given = settings(service, tmp_path, price_in=1.0, limit=100e-6)
    code = [sys.executable, "-c", ASK, given.url, str(given.cache)]
    with subprocess.Popen(code, env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
        service.answer = lambda text: str(process.kill())
    assert (process.returncode, len(service.requests)) == (-signal.SIGKILL, 1)
    with PromptClient(given) as client:
        assert client.spent() == (1, pytest.approx((len("q") + len("a goal") + 64) / 1e6))
        with pytest.raises(NotAVote, match="spending limit"):
            client.ask("tiny", "q", ["another goal"])


def test_an_answer_is_on_the_disk_once_it_is_kept(tmp_path: Path) -> None:
    first, second = (PaidAnswers(tmp_path / "answers.sqlite", 1.0, 1) for _ in range(2))
    with contextlib.closing(first), contextlib.closing(second):
        first.keep("key", "yes", 0.0)
        assert second.answer("key") == "yes"


def test_a_cache_of_which_a_part_was_lost_is_refused_before_anything_is_paid(tmp_path: Path) -> None:
    file = tmp_path / "answers.sqlite"
    paid = PaidAnswers(file, 1.0, 1)
    for number in range(100):
        paid.keep(f"{number:064d}", "spam" * 20, 0.0)
    paid.close()
    size = file.stat().st_size
    os.truncate(file, size // 2)
    os.truncate(file, size)  # zeros, as a disk without power may leave
    with pytest.raises(SettingsError, match=r"cannot be opened.*Move it away"):
        PaidAnswers(file, 1.0, 1)


def test_who_cannot_open_a_cache_that_is_well_is_not_told_to_move_it_away(tmp_path: Path) -> None:
    (tmp_path / "answers.sqlite").mkdir()
    with pytest.raises(SettingsError, match=r"cannot be opened: unable.* whether its folder can be written to") as told:
        PaidAnswers(tmp_path / "answers.sqlite", 1.0, 1)
    assert "Move it away" not in str(told.value)


def test_a_disk_that_is_full_switches_the_function_off_until_the_next_run(
    lake: Lake, service: Service, tmp_path: Path
) -> None:
    """Faults of items would say "not asked", and wait for new input."""
    add_items(lake, {f"i{n}": f"goal {n}" for n in range(6)})
    given = settings(service, tmp_path, parallel=1)
    service.answer = lambda _: "yes" + 10_000 * " "
    with PromptClient(given) as client:
        file = client._paid._file
        [pages] = file.execute("PRAGMA page_count").fetchone()
        file.execute(f"PRAGMA max_page_count = {pages}")
        told = vote(lake, [ASKS], config(), ask=client.ask).detail
    assert told["switched_off"] == ["asks"]
    assert f"{given.cache} cannot be used: database or disk is full" in told["advice"]
    assert len(service.requests) == 1
    assert run(lake, given).detail["switched_off"] == []
    assert len(votes(lake)) == 6


def test_a_cache_made_before_still_opens(service: Service, tmp_path: Path) -> None:
    given = settings(service, tmp_path, limit=0.5)
    key = hashlib.sha256(b'["tiny", "q", "a goal"]').hexdigest()
    with contextlib.closing(sqlite3.connect(given.cache)) as cache:
        cache.execute("CREATE TABLE answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL, cost REAL NOT NULL)")
        cache.execute("CREATE TABLE requests (cost REAL NOT NULL)")
        cache.execute("INSERT INTO answers VALUES (?, 'kept', 0.5)", [key])
        cache.execute("INSERT INTO requests VALUES (0.5)")
        cache.commit()
    with PromptClient(given) as client:
        assert client.ask("tiny", "q", ["a goal"]) == ["kept"]
        assert client.spent() == (1, 0.5)
    assert service.requests == []


def test_the_number_of_requests_is_limited_over_runs(service: Service, tmp_path: Path, lake: Lake) -> None:
    add_items(lake, {f"i{n}": f"goal {n}" for n in range(5)})
    for _ in range(2):
        run(lake, settings(service, tmp_path, max_requests=3))
        add_items(lake, {"new": "goal new"})
    assert len(service.requests) == 3


def test_a_model_that_costs_nothing_is_asked_where_nothing_may_be_spent(service: Service, tmp_path: Path) -> None:
    with PromptClient(settings(service, tmp_path, limit=0.0)) as client:
        assert client.ask("tiny", "question", ["a goal"]) == ["Yes."]


def test_what_is_set_aside_counts_bytes_since_a_letter_may_be_several_tokens(service: Service, tmp_path: Path) -> None:
    given = settings(service, tmp_path, price_in=1.0, limit=(len("q") + 4 * 100 + 64) / 1e6)
    with PromptClient(given) as client:
        with pytest.raises(NotAVote, match="spending limit"):
            client.ask("tiny", "q", [100 * "\U0001f600" + "!"])
        assert client.ask("tiny", "q", [100 * "\U0001f600"]) == ["no"]


@pytest.mark.parametrize("status", [302, 402, 404, 503])
def test_a_request_that_was_answered_with_an_error_costs_nothing(service: Service, tmp_path: Path, status: int) -> None:
    service.failures = [(status, {}, b"")]
    with PromptClient(settings(service, tmp_path, price_in=1.0, attempts=1)) as client:
        with pytest.raises(NotAVote, match=f"HTTP {status}"):
            client.ask("tiny", "q", ["a goal"])
        assert client.spent() == (1, 0.0)


def test_who_sets_money_aside_first_looks_what_another_program_just_did(tmp_path: Path) -> None:
    file = tmp_path / "answers.sqlite"
    with contextlib.closing(PaidAnswers(file, 1.0, 9)) as paid, contextlib.closing(sqlite3.connect(file)) as other:
        other.execute("INSERT INTO requests VALUES (0.7)")
        with ThreadPoolExecutor(1) as pool:
            waits = pool.submit(paid.reserve, 0.7)
            time.sleep(0.2)
            other.commit()
            with pytest.raises(NotAVote, match="spending limit"):
                waits.result()


def test_the_longest_answer_that_is_asked_for_has_to_fit_the_limit(service: Service, tmp_path: Path) -> None:
    given = settings(service, tmp_path, price_out=1.0, limit=0.5, max_answer_tokens=1_000_000)
    with PromptClient(given) as client, pytest.raises(NotAVote, match="limit"):
        client.ask("tiny", "q", ["a goal"])
    assert not service.requests


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


def test_a_failure_after_one_with_500_is_none_of_the_text(service: Service, tmp_path: Path) -> None:
    """Else it would be a fault of its item, which no later run asks about."""
    with PromptClient(settings(service, tmp_path, attempts=2)) as client:
        assert client.ask("tiny", "q", ["a goal"]) == ["Yes."]
        service.failures = [(500, {}, b""), (200, {"content-encoding": "gzip"}, b"no gzip")]
        with pytest.raises(NotAVote, match="failed 2 times, last with DecodingError"):
            client.ask("tiny", "q", ["another goal"])


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
    with PromptClient(settings(service, tmp_path, run_limit_s=2.0)) as client:
        with pytest.raises(NotAVote, match=r"the time limit of 2 s"):
            client.ask("tiny", "question", ["a goal"])
        service.takes_s = 0.0
        with pytest.raises(NotAVote, match=r"the time limit of 2 s"):
            client.ask("tiny", "question", ["another goal"])
        assert len(service.requests) == 1
        client.begin_run()
        assert client.ask("tiny", "question", ["another goal"]) == ["Yes."]


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "ftp://x"},
        {"requests_per_minute": 0},
        {"limit": -1},
        {"attempts": 0},
        {"timeout_s": 0},
        {"run_limit_s": -1},
        {"max_answer_tokens": 0},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        PromptConfig(**({"url": "http://x", "cache": tmp_path / "c"} | wrong))


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "http://me:canary@localhost:8000/v1"},
        {"url": "http://localhost:8000/v1?key=canary"},
        {"url": "http://localhost:canary/v1"},
        {"url": "http://"},
        {"api_key": "canary\n"},
        {"api_key": "\u201ccanary\u201d"},
    ],
)
def test_what_no_request_can_carry_is_refused_and_not_repeated(wrong: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="SIFTLINE_PROMPT_API_KEY") as raised:
        PromptConfig(**({"url": "http://x", "cache": tmp_path / "c"} | wrong))
    assert "canary" not in str(raised.value)


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


def test_a_function_that_a_limit_or_an_absent_service_switched_off_is_asked_again_by_the_next_run(
    lake: Lake, service: Service, tmp_path: Path
) -> None:
    add_items(lake, {f"i{n}": f"goal {n}" for n in range(5)})
    given = settings(service, tmp_path, max_requests=3, parallel=1)
    assert run(lake, given).detail["switched_off"] == ["asks"]
    still = run(lake, given)
    assert not still.committed
    assert "max_requests in [weak_labels.prompt]" in still.detail["advice"]
    assert (len(service.requests), votes(lake)) == (3, {})
    given = dataclasses.replace(given, max_requests=100, attempts=1)
    service.failures = [(503, {}, b"")]
    assert run(lake, given).detail["switched_off"] == ["asks"]
    assert run(lake, given).detail["switched_off"] == []
    assert len(votes(lake)) == 5
    assert len(service.requests) == 6  # each text once, and the one that failed
    assert not run(lake, given).committed


def test_people_see_what_prompts_cost(service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "texts.csv").write_text("text\na goal\nan atom\n", "utf-8")
    project = tmp_path / "p"
    made = ["init", str(project), "--source", str(tmp_path / "texts.csv"), "--classes", "sports,other"]
    assert run_command(made) == 0
    with (project / "siftline.toml").open("a", encoding="utf-8") as file:
        file.write(f'\n[weak_labels.prompt]\nurl = "{service.url}"\nprice_in = 50.0\n')
    (project / "labeling_functions.py").write_text(
        'from weak_labels import prompt\n\nasks = prompt("Sports?", {"yes": "sports", "no": "other"}, model="tiny")\n'
    )
    opened = Project(project)
    assert opened.prompt_client is not None
    ingest(opened.lake, opened.ingest_config)
    print_summary(opened, RunSummary(passes=1, results=[]), seconds=1.0)
    assert "Requests to the language model" not in capsys.readouterr().out
    paid = "Requests to the language model: 2 of at most 10,000, for 0.0040 of at most 1"
    assert run_command(["lf", "preview", "--ask", "--project", str(project)]) == 0
    assert paid in capsys.readouterr().err
    print_summary(opened, RunSummary(passes=1, results=[]), seconds=1.0)
    assert paid in capsys.readouterr().out
    with contextlib.closing(sqlite3.connect(opened.prompt_client._paid._path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        opened.prompt_client._paid._file.execute("PRAGMA busy_timeout = 0")
        print_summary(opened, RunSummary(passes=1, results=[]), seconds=1.0)
    assert "cannot be used: database is locked" in " ".join(capsys.readouterr().out.split())
    assert run_command(["doctor", "--project", str(project)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert f"language model: {service.url} answers. {paid}" in told
    service.failures = [(403, {}, b"")]
    assert run_command(["doctor", "--project", str(project)]) == 2
    assert "MEND language model: " in capsys.readouterr().out
