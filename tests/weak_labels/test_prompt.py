"""A prompt function asks a real HTTP server, pays once per text, and faults by item."""

import dataclasses
import gzip
import json
import socket
import ssl
import threading
from pathlib import Path

import pytest

from tests.lakes import copy_of
from tests.servers import make_certificate
from tests.studio import http_server
from tests.weak_labels.chat_service import ASKS, TEXTS, Service, run, settings
from tests.weak_labels.lf_helpers import CLASSES, add_items, batch, config, faults, votes
from warehouse import Lake, ServiceError, SettingsError
from weak_labels import prompt
from weak_labels.applying.stage import vote
from weak_labels.functions.call import MISSING, NotAVote, call_function
from weak_labels.prompting import client as prompt_client
from weak_labels.prompting.client import PromptClient, PromptConfig
from weak_labels.prompting.function import Refused


def test_votes_as_the_model_answers_and_asks_once_per_text(lake: Lake, service: Service, tmp_path: Path) -> None:
    add_items(lake, TEXTS)
    given = settings(service, tmp_path, api_key="canary-key")
    run(lake, given)
    assert votes(lake) == {("a", "asks"): 0, ("b", "asks"): -1, ("c", "asks"): 0}
    assert len(service.requests) == 2
    assert set(service.keys) == {"Bearer canary-key"}
    assert "canary-key" not in repr(given)
    assert b"canary-key" not in given.cache.read_bytes()
    assert service.requests[0]["model"] == "tiny"
    # Another warehouse, the same answers: nothing is paid again.
    with copy_of(Lake, tmp_path / "other") as other:
        add_items(other, TEXTS)
        run(other, given)
        assert votes(other) == votes(lake)
    assert len(service.requests) == 2


def test_another_question_is_another_version_and_is_asked_again(service: Service, tmp_path: Path) -> None:
    other = prompt("Is this about games?", {"yes": "sports", "no": None}, model="tiny", name="asks")
    larger = prompt("Is this about sports?", {"yes": "sports", "no": None}, model="large", name="asks")
    assert len({ASKS.version, other.version, larger.version}) == 3
    with PromptClient(settings(service, tmp_path)) as client:
        for model, question in (("tiny", "one"), ("tiny", "two"), ("large", "one"), ("tiny", "one")):
            client.ask(model, question, ["a goal"])
    assert len(service.requests) == 3


def test_an_answer_that_is_none_of_those_asked_for_is_a_fault_of_its_item(
    lake: Lake, service: Service, tmp_path: Path
) -> None:
    add_items(lake, TEXTS)
    service.answer = lambda text: "yes" if "goal" in text else "As a language model, I cannot say."
    run(lake, settings(service, tmp_path))
    assert faults(lake) == {("b", "asks"): "not_a_vote"}
    assert votes(lake) == {("a", "asks"): 0, ("c", "asks"): 0}


@pytest.mark.parametrize(
    ("answers", "answered", "voted"),
    [
        ({"n.a.": None, "yes": "sports"}, "N.A.", -1),
        ({"yes!": "sports", "no": None}, "yes", 0),
        ({"yes": "sports", "no": None}, "**Yes** .", 0),
        ({"a b.": "sports", "!": None}, "!", -1),
        ({"yes": "sports", "no": None}, "```text\nyes\n```", 0),
        ({"yes": "sports", "no": None}, "«yes»", 0),
        ({"café": "sports", "no": None}, "Cafe\u0301.", 0),
        ({"no": None, "no. 5": "sports"}, "No. 5, as it says.", 0),
    ],
)
def test_an_answer_may_have_signs_around_it(answers: dict[str, str | None], answered: str, voted: int) -> None:
    asked = prompt("What?", answers, model="tiny", name="asks")
    outcome = call_function(asked, batch(["x"], ask=lambda *_: [answered]))
    assert (outcome.votes.tolist(), outcome.faults) == ([voted], [])


SPAM = prompt("What?", {"spam": "sports", "not spam": None}, model="tiny", name="asks")


@pytest.mark.parametrize(
    ("answered", "voted"),
    [
        ("Spam, as it sells something.", 0),
        ("Spam, as spammers write it.", 0),
        ("Spam \nIt sells something", 0),
        ("Not spam.\n\nThe text is a greeting", -1),
        ("Answer: spam", 0),
        ("<think>\n\n</think>\n\nnot spam", -1),
        ("It is no spam, not spam</think>spam", 0),
    ],
)
def test_words_around_an_answer_are_left_aside(answered: str, voted: int) -> None:
    outcome = call_function(SPAM, batch(["x"], ask=lambda *_: [answered]))
    assert (outcome.votes.tolist(), outcome.faults) == ([voted], [])


@pytest.mark.parametrize(
    "answered",
    [
        "Spam, not spam",
        "Spam or not spam",
        "It is not spam",
        "Spam? Hardly",
        "spam: 0.1",
        "Spammers wrote it.",
        "Spam.org",
        "hm",
    ],
)
def test_words_that_name_no_single_answer_first_are_a_fault(answered: str) -> None:
    outcome = call_function(SPAM, batch(["x"], ask=lambda *_: [answered]))
    assert outcome.votes.tolist() == [MISSING]
    assert outcome.faults[0].detail == f"the model answered {answered!r}, not one of: spam, not spam"


def test_signs_alone_are_no_answer_that_is_made_of_signs() -> None:
    asks = prompt("What?", {"yes": "sports", "!": None}, model="tiny", name="asks")
    assert call_function(asks, batch(["x"], ask=lambda *_: ["..."])).votes.tolist() == [MISSING]


@pytest.mark.parametrize("answered", ["", "<think>The text speaks of"])
def test_a_model_that_did_not_finish_thinking_is_told_with_the_way_out(answered: str) -> None:
    outcome = call_function(SPAM, batch(["x"], ask=lambda *_: [answered]))
    assert "needs a larger max_answer_tokens" in outcome.faults[0].detail


def test_a_message_without_content_is_an_empty_answer(service: Service, tmp_path: Path) -> None:
    service.failures = [(200, {}, b'{"choices": [{"message": {"role": "assistant", "tool_calls": []}}]}')]
    with PromptClient(settings(service, tmp_path)) as client:
        assert client.ask("tiny", "question", ["a goal"]) == [""]


def test_an_answer_that_was_cut_off_is_asked_for_again_once_it_may_be_longer(service: Service, tmp_path: Path) -> None:
    cut = {"choices": [{"finish_reason": "length", "message": {"content": "<think>Well"}}]}
    service.failures = [(200, {}, json.dumps(cut).encode())]
    for tokens, asked in ((16, 1), (16, 1), (500, 2), (500, 2), (16, 2)):
        with PromptClient(settings(service, tmp_path, max_answer_tokens=tokens)) as client:
            assert client.ask("tiny", "question", ["a goal"]) == ["<think>Well" if asked == 1 else "Yes."]
        assert len(service.requests) == asked
    assert [body["max_tokens"] for body in service.requests] == [16, 500]


def test_a_model_that_takes_neither_max_tokens_nor_a_temperature_is_asked_without(
    service: Service, tmp_path: Path
) -> None:
    said = [{"error": {"message": f"{name} is not supported", "param": name}} for name in ("max_tokens", "temperature")]
    service.failures = [(400, {}, json.dumps(error).encode()) for error in said]
    with PromptClient(settings(service, tmp_path, parallel=1, attempts=1)) as client:
        assert client.ask("tiny", "question", ["a goal", "an atom"]) == ["Yes.", "no"]
    assert len(service.requests) == 4
    for body in service.requests[2:]:
        assert body.keys() == {"model", "messages", "max_completion_tokens"}
        assert body["max_completion_tokens"] == 16


def test_a_service_that_takes_no_form_of_a_request_is_not_asked_for_ever(service: Service, tmp_path: Path) -> None:
    refused = json.dumps({"error": {"message": "not supported", "param": "max_tokens"}}).encode()
    service.failures = [(400, {}, refused)] * 3
    with PromptClient(settings(service, tmp_path, price_in=50.0)) as client:
        [answer] = client.ask("tiny", "question", ["a goal"])
        assert isinstance(answer, Refused)
        assert client.ask("tiny", "question", ["an atom"]) == [answer], "the form that was left is kept"
        assert client.spent() == (3, 0.0)
    assert ["max_tokens" in body for body in service.requests] == [True, False, False]


def test_a_certificate_that_this_machine_does_not_trust_is_told_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = make_certificate(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    way = r"CERTIFICATE_VERIFY_FAILED.*\. Set SSL_CERT_FILE to a file with your authority's certificate"
    with http_server(lambda handler, _: handler.send_error(404), tls=tls) as url:
        given = PromptConfig(url=url, cache=tmp_path / "a", attempts=1)
        with PromptClient(given) as client:
            with pytest.raises(ServiceError, match=way):
                client.check()
            with pytest.raises(NotAVote, match=way):
                client.ask("tiny", "question", ["a goal"])
            assert client.spent() == (0, 0.0), "nothing was sent"
        monkeypatch.setenv("SSL_CERT_FILE", f"{certificate}.crt")
        with PromptClient(given) as client:
            client.check()


def test_a_proxy_of_the_environment_stands_before_a_service_elsewhere(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", service.url.removesuffix("/v1"))
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    given = dataclasses.replace(settings(service, tmp_path), url="http://models.invalid/v1")
    with PromptClient(given) as client:
        assert client.ask("tiny", "question", ["a goal"]) == ["Yes."]
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with PromptClient(settings(service, tmp_path)) as client:
        assert client.ask("tiny", "question", ["an atom"]) == ["no"]
    for wrong in ("ftp://me:canary@host", "http://me:canary/x@host"):
        monkeypatch.setenv("HTTP_PROXY", wrong)
        with pytest.raises(SettingsError, match="proxy that the environment names") as raised:
            PromptClient(given)
        assert "canary" not in str(raised.value)


def test_a_text_that_the_service_refuses_is_a_fault_of_its_item(lake: Lake, service: Service, tmp_path: Path) -> None:
    add_items(lake, TEXTS)
    service.failures = [(400, {}, b"too long")]
    run(lake, settings(service, tmp_path, parallel=1))
    assert {item for item, _ in faults(lake)} == {"a", "c"}
    assert ("b", "asks") in votes(lake)


ECHOED = [
    (400, {}, b"x" * 185 + b"Bearer canary-key"),
    (200, {}, json.dumps({"choices": [{"message": {"content": "Bearer canary-key"}}]}).encode()),
    (200, {}, json.dumps({"choices": [{"message": {"content": ["Bearer canary-key"]}}]}).encode()),
    (200, {}, b'{"headers": {"authorization": "Bearer canary-key"}}'),
]


@pytest.mark.parametrize("echo", ECHOED, ids=["refused", "answer", "no-text", "no-completion"])
def test_a_key_that_the_service_repeats_is_told_nowhere(
    lake: Lake, service: Service, tmp_path: Path, echo: tuple[int, dict[str, str], bytes]
) -> None:
    add_items(lake, TEXTS)
    service.failures = [echo] * 8
    given = settings(service, tmp_path, api_key="canary-key")
    detail = run(lake, given).detail
    with lake.read() as reader:
        told = reader.rows("SELECT detail FROM lf_faults")
    assert told
    assert "canary" not in repr((detail, told))
    assert b"canary" not in given.cache.read_bytes()


def test_a_stand_in_for_a_key_may_be_a_word_of_an_answer(service: Service, tmp_path: Path) -> None:
    with PromptClient(settings(service, tmp_path, api_key="no")) as client:
        assert client.ask("tiny", "question", ["an atom"]) == ["no"]


def test_a_fault_says_what_the_service_said_in_words(lake: Lake, service: Service, tmp_path: Path) -> None:
    add_items(lake, TEXTS)
    service.failures = [(400, {}, b"too long")]
    service.answer = lambda _: "maybe"
    run(lake, settings(service, tmp_path, parallel=1))
    with lake.read() as reader:
        told = reader.rows("SELECT item_id, detail FROM lf_faults WHERE fault = 'not_a_vote' ORDER BY item_id")
    assert dict(told) == {
        "a": "HTTP 400: too long",
        "b": "the model answered 'maybe', not one of: yes, no",
        "c": "HTTP 400: too long",
    }


def test_answers_are_their_owners_only(service: Service, tmp_path: Path) -> None:
    given = settings(service, tmp_path)
    with PromptClient(given):
        assert given.cache.stat().st_mode & 0o777 == 0o600


def test_a_text_without_an_answer_is_a_fault_of_its_item_and_is_not_paid_again(
    lake: Lake, service: Service, tmp_path: Path
) -> None:
    add_items(lake, TEXTS)
    nothing = {"choices": [{"message": {"content": None, "refusal": "I cannot help."}}]}
    service.failures = [(200, {}, json.dumps(nothing).encode())]
    run(lake, settings(service, tmp_path, parallel=1))
    assert faults(lake) == {("a", "asks"): "not_a_vote", ("c", "asks"): "not_a_vote"}
    assert votes(lake) == {("b", "asks"): -1}
    with PromptClient(settings(service, tmp_path)) as client:
        client.ask("tiny", service.requests[0]["messages"][0]["content"], ["a goal"])
    assert len(service.requests) == 2


def test_a_body_that_cannot_be_unpacked_is_asked_for_again(lake: Lake, service: Service, tmp_path: Path) -> None:
    add_items(lake, TEXTS)
    broken = (200, {"content-encoding": "gzip"}, b"no gzip at all")
    service.failures = [broken]
    with PromptClient(settings(service, tmp_path)) as client:
        assert client.ask("tiny", "question", ["a goal"]) == ["Yes."]
    service.failures = [broken] * 40
    service.requests.clear()
    run(lake, settings(service, tmp_path, parallel=1, attempts=2))
    assert faults(lake) == {("", "asks"): "switched_off"}
    assert len(service.requests) == 2


@pytest.mark.parametrize("packed", ["gzip, gzip", "br", "zstd"])
def test_an_answer_that_may_unpack_to_any_size_is_not_unpacked(service: Service, tmp_path: Path, packed: str) -> None:
    service.failures = [(200, {"content-encoding": packed}, gzip.compress(gzip.compress(bytes(2**20))))]
    with PromptClient(settings(service, tmp_path)) as client, pytest.raises(NotAVote, match=f"packed as {packed}"):
        client.ask("tiny", "question", ["text"])


def test_a_busy_service_is_asked_again_after_the_time_it_names(service: Service, tmp_path: Path) -> None:
    service.failures = [(429, {"retry-after": "0.2"}, b""), (503, {"retry-after": "0"}, b"")]
    with PromptClient(settings(service, tmp_path)) as client:
        assert client.ask("tiny", "question", ["a goal"]) == ["Yes."]
    assert len(service.requests) == 3
    assert service.times[1] - service.times[0] >= 0.2


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (
            (401, {}, b"no"),
            "/v1/chat/completions answered HTTP 401 (no): it takes no request without its key; set SIFTL",
        ),
        ((403, {}, b"not yours"), "HTTP 403 (not yours): it refuses the key in SIFTLINE_PROMPT_API_KEY"),
        ((404, {}, b"no\nsuch model"), "HTTP 404 (no such model): does it have the model that the function names"),
        ((405, {}, b"no\nPOST"), "HTTP 405 (no POST): does it have the model that the function names"),
        ((402, {}, b"pay"), "HTTP 402 (pay): the account there has no credit left; the answers so far are kept"),
        ((429, {}, b'{"error": {"code": "insufficient_quota"}}'), "the account there has no credit left"),
        ((302, {"location": "http://127.0.0.1:9/"}, b""), "HTTP 302: is it the base of an OpenAI-compatible service"),
        ((429, {"retry-after": "0"}, b"quota is used up"), "last with HTTP 429 (quota is used up); the answers so far"),
        ((200, {}, b"<html>log in</html>"), "did not answer as a chat completion"),
        ((200, {}, b"[]"), "did not answer as a chat completion"),
        ((200, {}, b"x" * (2 << 20)), "longer than"),
    ],
)
def test_a_service_that_cannot_be_used_switches_the_function_off_in_words(
    lake: Lake, service: Service, tmp_path: Path, failure: tuple[int, dict[str, str], bytes], words: str
) -> None:
    add_items(lake, TEXTS)
    service.failures = [failure] * 8
    assert run(lake, settings(service, tmp_path)).detail["switched_off"] == ["asks"]
    with lake.read() as reader:
        assert words in reader.scalar("SELECT detail FROM lf_faults WHERE fault = 'switched_off'")


def test_a_text_that_always_fails_is_a_fault_of_its_item_where_others_are_answered(
    lake: Lake, service: Service, tmp_path: Path
) -> None:
    add_items(lake, TEXTS)
    service.fails_on = "an atom"
    run(lake, settings(service, tmp_path, attempts=2))
    assert faults(lake) == {("b", "asks"): "not_a_vote"}
    assert votes(lake) == {("a", "asks"): 0, ("c", "asks"): 0}
    with lake.read() as reader:
        assert "HTTP 500, each of 2 times, while other texts were answered" in reader.scalar(
            "SELECT detail FROM lf_faults"
        )


def test_a_text_that_fails_after_all_others_were_answered_is_a_fault_of_its_item(
    service: Service, tmp_path: Path
) -> None:
    service.fails_on = "an atom"
    with PromptClient(settings(service, tmp_path, attempts=1, parallel=1)) as client:
        *answers, failed = client.ask("tiny", "question", ["a goal", "a poem", "an atom"])
        assert (answers, type(failed)) == (["Yes.", "no"], Refused)
        with pytest.raises(NotAVote, match="failed 1 times, last with HTTP 500"):  # and nothing was answered since
            client.ask("tiny", "question", ["an atom"])
        service.fails_with = 503  # it is busy, whatever the text
        client.ask("tiny", "question", ["a river"])
        with pytest.raises(NotAVote, match="last with HTTP 503"):
            client.ask("tiny", "question", ["an atom"])


def test_once_the_service_cannot_be_used_no_further_text_is_sent_there(service: Service, tmp_path: Path) -> None:
    """Also while a text before the one that failed is still waited for."""
    texts = ["slow", "an atom", *(f"text {number}" for number in range(10))]
    last = threading.Event()
    service.fails_on, service.fails_with = "an atom", 402
    service.answer = lambda text: str(last.set() if text == texts[-1] else text == "slow" and last.wait(0.5))
    with PromptClient(settings(service, tmp_path, parallel=2)) as client, pytest.raises(NotAVote, match="HTTP 402"):
        client.ask("tiny", "question", texts)
    assert not last.is_set()


def test_the_endpoint_is_checked_without_asking_the_model(service: Service, tmp_path: Path) -> None:
    given = settings(service, tmp_path)
    with PromptClient(given) as client:
        client.check()
        service.failures = [(401, {}, b"")]
        with pytest.raises(ServiceError, match="HTTP 401: it takes no request without its key"):
            client.check()
        service.failures = [(402, {}, b"")]
        with pytest.raises(ServiceError, match="HTTP 402: the account there has no credit left"):
            client.check()
        service.failures = [(503, {}, b"")]
        with pytest.raises(ServiceError, match="HTTP 503: it is ill or still starting"):
            client.check()
        for status in (404, 501):  # it has no list of models
            service.failures = [(status, {}, b"")]
            client.check()
        assert client.spent() == (0, 0.0)
    away = dataclasses.replace(given, url="http://127.0.0.1:9/v1")
    with PromptClient(away) as client, pytest.raises(ServiceError, match="does not answer: ConnectError"):
        client.check()
    assert not service.requests


def test_the_check_waits_no_longer_than_a_person_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_client, "CHECK_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        given = PromptConfig(url=f"http://127.0.0.1:{silent.getsockname()[1]}/v1", cache=tmp_path / "a", timeout_s=3)
        with PromptClient(given) as client, pytest.raises(ServiceError, match=r"does not answer within 0\.1 s"):
            client.check()


def test_what_was_spent_is_said(service: Service, tmp_path: Path) -> None:
    with PromptClient(settings(service, tmp_path)) as client:
        client.ask("tiny", "question", ["a goal"])
        assert client.account() == "Requests to the language model: 1 of at most 10,000"
    with PromptClient(settings(service, tmp_path, price_in=50.0)) as client:
        client.ask("tiny", "question", ["an atom"])
        assert client.account().endswith(": 2 of at most 10,000, for 0.0020 of at most 1")


def test_of_an_answer_in_parts_the_thoughts_are_left_aside(service: Service, tmp_path: Path) -> None:
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "no"}]}, {"type": "text", "text": "yes"}]
    service.failures = [(200, {}, json.dumps({"choices": [{"message": {"content": parts}}]}).encode())]
    with PromptClient(settings(service, tmp_path)) as client:
        assert client.ask("tiny", "question", ["a goal"]) == ["yes"]


def test_a_service_that_is_away_is_tried_and_then_named(service: Service, tmp_path: Path, lake: Lake) -> None:
    add_items(lake, TEXTS)
    given = dataclasses.replace(settings(service, tmp_path), url="http://127.0.0.1:9/v1", attempts=2)
    assert run(lake, given).detail["switched_off"] == ["asks"]
    with lake.read() as reader:
        told = reader.scalar("SELECT detail FROM lf_faults WHERE fault = 'switched_off'")
    assert "failed 2 times, last with ConnectError ([Errno" in told
    with PromptClient(given) as client:
        assert client.spent() == (0, 0)  # nothing was sent


def test_without_a_service_a_prompt_function_is_refused(lake: Lake) -> None:
    with pytest.raises(SettingsError, match=r"'asks' asks a language model.*\[weak_labels.prompt\]"):
        vote(lake, [ASKS], config())


@pytest.mark.parametrize(
    ("question", "answers"),
    [
        ("", {"a": "sports", "b": None}),
        ("x", {"a": "sports"}),
        ("x", {"a": None, "b": None}),
        ("x", {"A": "sports", "a": None}),
        ("x", {"yes!": "sports", "yes": None}),
    ],
)
def test_prompts_that_cannot_vote_are_refused(question: str, answers: dict[str, str | None]) -> None:
    with pytest.raises(SettingsError, match="prompt"):
        prompt(question, answers, model="tiny")


def test_classes_of_a_prompt_are_checked(lake: Lake) -> None:
    wrong = prompt("x", {"yes": "cooking", "no": None}, model="tiny", name="wrong")
    assert "cooking" not in CLASSES
    with pytest.raises(SettingsError, match="'wrong' votes for 'cooking'"):
        vote(lake, [wrong], config(), ask=lambda model, instruction, texts, stop: [])
