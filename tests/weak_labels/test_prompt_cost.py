"""What prompts may cost holds over runs, processes and kills: money and requests."""

import contextlib
import dataclasses
import hashlib
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from features.ingest.stage import ingest
from flows.cli.main import run_command
from flows.cli.summary import print_summary
from flows.pipelines.stages import RunSummary
from flows.project.project import Project
from tests.projects import ROOT
from tests.weak_labels.chat_service import ASKS, Service, run, settings
from tests.weak_labels.lf_helpers import add_items, config, votes
from warehouse import Lake, SettingsError
from weak_labels.applying.stage import vote
from weak_labels.functions.call import NotAVote
from weak_labels.prompting.answer_cache import PaidAnswers
from weak_labels.prompting.client import PromptClient, PromptConfig

ASK = """
import sys
from pathlib import Path
from weak_labels.prompting.client import PromptClient, PromptConfig
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


def test_a_service_that_takes_no_connection_costs_nothing(service: Service, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.create_connection(full.getsockname()):
        url = f"http://127.0.0.1:{full.getsockname()[1]}/v1"
        given = settings(service, tmp_path, url=url, timeout_s=0.3, attempts=1, price_in=1.0)
        with PromptClient(given) as client:
            with pytest.raises(NotAVote, match="last with ConnectTimeout"):
                client.ask("tiny", "q", ["a goal"])
            assert client.spent() == (0, 0.0)


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


def test_a_failure_after_one_with_500_is_none_of_the_text(service: Service, tmp_path: Path) -> None:
    """Else it would be a fault of its item, which no later run asks about."""
    with PromptClient(settings(service, tmp_path, attempts=2)) as client:
        assert client.ask("tiny", "q", ["a goal"]) == ["Yes."]
        service.failures = [(500, {}, b""), (200, {"content-encoding": "gzip"}, b"no gzip")]
        with pytest.raises(NotAVote, match="failed 2 times, last with DecodingError"):
            client.ask("tiny", "q", ["another goal"])


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
