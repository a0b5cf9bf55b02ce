"""The client of the language model that functions made by `prompt` ask: it keeps their cost and their time in hand.

It speaks the chat completions of an OpenAI-compatible endpoint and is off unless the project configures one. Every
answer is kept in a SQLite file, by model, instruction and text, and what was spent beside it
(`weak_labels.prompting.answer_cache`); requests are spread to a rate; and a run waits for answers no longer than it
may.
"""

import hashlib
import json
import re
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx

from warehouse import ServiceError, SettingsError
from warehouse.catalog.address import authorities, is_own, is_plain_address, way_to_trust
from weak_labels.functions.call import NotAVote
from weak_labels.prompting.answer_cache import PaidAnswers
from weak_labels.prompting.function import Refused
from weak_labels.prompting.time_budget import RunClock

_MAX_BODY_BYTES = 1 << 20
_UNPACKED = frozenset({"gzip", "deflate", "identity"})
"""Packed once by one of these, what is read at a time grows a thousandfold at most."""
_MOST_TOKENS = 2**53  # what a float holds
_OVERHEAD_TOKENS = 64  # of the messages' frame
_RETRIED = (408, 409, 425, 429, 500, 502, 503, 504)
_ASKED_FOR = {
    401: "it takes no request without its key; set SIFTLINE_PROMPT_API_KEY",
    402: "the account there has no credit left; the answers so far are kept, run again once it has",
    403: "it refuses the key in SIFTLINE_PROMPT_API_KEY, or that key may not use the model",
    **dict.fromkeys(
        (404, 405, 410),
        "does it have the model that the function names, and does url in [weak_labels.prompt] end before "
        "/chat/completions?",
    ),
}
"""What to look at, by status; asking again changes nothing."""
_LONGEST_WAIT_S = 60.0
CHECK_S = 10.0
"""How long a person who asks whether the service is there waits at most, whatever `timeout_s` its requests get."""
_SHORTEST_SECRET = 8
"""A shorter key is a stand-in for none, such as `no`, and may be a word of an answer."""


_NOT_ASKED = Refused("not asked")


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptConfig:
    """Where the language model is and what it may cost.

    Attributes:
        url: base of the endpoint, such as http://localhost:8000/v1; it gets /chat/completions appended.
        cache: SQLite file of answers and costs.
        api_key: sent as a bearer token; empty for none.
        requests_per_minute: highest rate, over all functions.
        limit: highest total of costs, in the currency of the prices, over the life of the cache.
        price_in: price of a million tokens that are sent.
        price_out: price of a million tokens that are answered.
        max_requests: highest number of requests over the life of the cache.
        timeout_s: seconds for one request.
        run_limit_s: seconds that one run may wait for answers in all, over all functions; 0 for no limit. The
            default is more than `max_requests` take at `requests_per_minute`, so it ends what is ill, not what is slow.
        attempts: tries of one request.
        parallel: requests in flight at once.
        max_answer_tokens: longest answer; a model that thinks first needs some hundreds.
    """

    url: str
    cache: Path
    api_key: str = field(default="", repr=False)
    requests_per_minute: float = 60.0
    limit: float = 1.0
    price_in: float = 0.0
    price_out: float = 0.0
    max_requests: int = 10_000
    timeout_s: float = 30.0
    run_limit_s: float = 14_400.0
    attempts: int = 4
    parallel: int = 4
    max_answer_tokens: int = 16

    def __post_init__(self) -> None:
        if not is_plain_address(self.url):  # not repeated: it may hold a password
            raise SettingsError(
                "The prompt url must look like http://localhost:8000/v1, without a log-in and without a question mark: "
                "it stands in messages and reports. A key belongs into SIFTLINE_PROMPT_API_KEY."
            )
        if not re.fullmatch(r"[!-~]*", self.api_key):
            raise SettingsError(
                "SIFTLINE_PROMPT_API_KEY holds a blank, a line end or a character that is not ASCII; copy it again."
            )
        for name in ("requests_per_minute", "timeout_s", "attempts", "parallel", "max_answer_tokens"):
            if getattr(self, name) <= 0:
                raise SettingsError(f"The prompt setting {name} is {getattr(self, name)}; it must be above 0.")
        for name in ("limit", "price_in", "price_out", "max_requests", "run_limit_s"):
            if getattr(self, name) < 0:
                raise SettingsError(f"The prompt setting {name} is {getattr(self, name)}; it must be 0 or more.")


class PromptClient:
    """Asks the endpoint, or the cache. Safe to use from several threads; a context manager.

    Raises:
        SettingsError: the cache, or the proxy or SSL_CERT_FILE that the environment names, cannot be used.
    """

    def __init__(self, config: PromptConfig) -> None:
        trusted = authorities()
        self.config = config
        self._base = config.url.rstrip("/")
        self._address = f"{self._base}/chat/completions"
        self._answered = 0  # texts, of all threads
        self._answered_at_failure = 0  # when a text last failed in all its attempts
        self._paid = PaidAnswers(config.cache, config.limit, config.max_requests)
        self._lock = threading.Lock()
        self._next_at = 0.0
        self._clock = RunClock(config.run_limit_s)
        headers = {"Accept-Encoding": "gzip, deflate"}
        headers |= {"Authorization": f"Bearer {config.api_key}"} if config.api_key else {}
        self._slots = threading.BoundedSemaphore(config.parallel)  # of all threads that ask, not of each
        self._form: dict[str, object] = {"temperature": 0, "max_tokens": config.max_answer_tokens}
        try:
            self._http = httpx.Client(
                timeout=config.timeout_s,
                headers=headers,
                follow_redirects=False,
                trust_env=not is_own(config.url),  # no proxy can reach this machine's own addresses
                verify=trusted,
            )
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            self._paid.close()
            # What is taken for a wrong port is the beginning of a password that holds a slash.
            why = "it is no address" if isinstance(error, httpx.InvalidURL) else error
            raise SettingsError(
                f"The proxy that the environment names cannot be used ({why}). Give HTTP_PROXY, HTTPS_PROXY and "
                "ALL_PROXY an address that begins with http://, or unset them."
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and the cache."""
        self._http.close()
        self._paid.close()

    def begin_run(self) -> None:
        """Give the functions the whole `run_limit_s` again."""
        self._clock.restart()

    def ask(
        self, model: str, instruction: str, texts: Sequence[str], stop: threading.Event | None = None
    ) -> list[str | Refused]:
        """Answers of a model to an instruction about each text, from the cache where they are there.

        Once `stop` is set no further request is made; the texts left get a `Refused`. An interrupt sets it.

        Raises:
            NotAVote: a limit of cost, requests or time is reached, or the service is away; what was answered is kept.
        """
        unique = list(dict.fromkeys(texts))
        stop = stop or threading.Event()
        failed = threading.Event()

        def one(text: str) -> str | Refused:
            with self._slots:
                if stop.is_set() or failed.is_set():
                    return _NOT_ASKED
                try:
                    return self._one(model, instruction, text, stop)
                except NotAVote:
                    failed.set()
                    raise

        with self._clock.waiting(), ThreadPoolExecutor(self.config.parallel) as pool:
            try:
                answer_of = dict(zip(unique, pool.map(one, unique), strict=True))
            except NotAVote:
                raise
            except BaseException:  # such as Ctrl-C: who waits for a turn or a busy service waits no longer
                stop.set()
                raise
        return [answer_of[text] for text in texts]

    def spent(self) -> tuple[int, float]:
        """As `PaidAnswers.spent`."""
        return self._paid.spent()

    def account(self) -> str:
        """What was spent, and of what, in words; empty where nothing ever was asked."""
        try:
            requests, cost = self.spent()
        except NotAVote as error:
            return f"How many requests were made to the language model cannot be told: {error}"
        if not requests:
            return ""
        told = f"Requests to the language model: {requests:,} of at most {self.config.max_requests:,}"
        priced = self.config.price_in or self.config.price_out
        return f"{told}, for {cost:.4f} of at most {self.config.limit:g}" if priced else told

    def check(self) -> None:
        """Ask the endpoint which models it has, which costs nothing; one without such a list is well too.

        Raises:
            ServiceError: it does not answer, with a fault of its own, or not with this key.
        """
        limit_s = min(CHECK_S, self.config.timeout_s)
        try:
            status, _, content = self._send("GET", f"{self._base}/models", limit_s=limit_s)
        except (httpx.RequestError, ValueError) as error:
            within = f" within {limit_s:g} s" if isinstance(error, httpx.TimeoutException) else ""
            why = f"{within}: {self._failure(error)}"
            raise ServiceError(
                f"{self.config.url} in [weak_labels.prompt] does not answer{why}. Functions by `prompt` need it."
            ) from None
        if status in (401, 402, 403) or (status >= 500 and status != 501):  # 501: it knows no such list
            what = _ASKED_FOR.get(status, "it is ill or still starting; look at its log, or try again later")
            raise ServiceError(f"{self.config.url} answered HTTP {status}{self._because(content)}: {what}")

    def _one(self, model: str, instruction: str, text: str, stop: threading.Event) -> str | Refused:
        key = _key(model, instruction, text)
        cut_key = _key(model, instruction, text, self.config.max_answer_tokens)
        for place in (key, cut_key):
            if (known := self._paid.answer(place)) is not None:
                return known
        # A token is at least a byte, so this is never less than the real cost.
        sent = len(instruction.encode()) + len(text.encode("utf-8", "surrogatepass")) + _OVERHEAD_TOKENS
        most = self._cost(sent, self.config.max_answer_tokens)
        messages = [{"role": "system", "content": instruction}, {"role": "user", "content": text}]
        problem, status = "", 0
        attempt, answered = 0, self._answered
        while True:
            form = self._form
            request = self._paid.reserve(most)
            cost: float | None = None  # no request is made yet
            wait_s = min(_LONGEST_WAIT_S, 0.5 * 2**attempt)
            try:
                if self._take_turn(stop):
                    return _NOT_ASKED
                cost, status = most, 0
                body = {"model": model, **form, "messages": messages}
                status, headers, content = self._send("POST", self._address, body)
                no_credit = status == 429 and b'"insufficient_quota"' in content  # as OpenAI says it
                if what := _ASKED_FOR.get(402 if no_credit else status):
                    cost = 0.0
                    raise NotAVote("raised", f"{self._address} answered HTTP {status}{self._because(content)}: {what}")
                elif status in _RETRIED:
                    cost = 0.0
                    problem = f"HTTP {status}{self._because(content)}"
                    wait_s = _retry_after(headers, wait_s)
                elif status == 400 and (other := _other_form(form, content)):
                    cost = 0.0
                    self._form = other
                    continue
                elif 400 <= status < 500:
                    cost = 0.0
                    return Refused(f"HTTP {status}: {self._said(content.decode('utf-8', 'replace'))}")
                elif status != 200:
                    cost = 0.0
                    what = "is it the base of an OpenAI-compatible service, such as .../v1?"
                    raise NotAVote("raised", f"{self._address} answered HTTP {status}{self._because(content)}: {what}")
                else:
                    answer, tokens, is_cut = _read(content)
                    answer = self._without_key(answer)
                    cost = most if tokens is None else self._cost(*tokens)
                    # One that was cut off is asked for again once it may be longer.
                    self._paid.keep(cut_key if is_cut else key, answer, cost)
                    self._answered += 1
                    return answer
            except httpx.RequestError as error:  # also of a body that cannot be unpacked
                if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
                    cost = None  # it was not sent
                # Else it may have been answered and charged: the full cost stays.
                problem = self._failure(error)
            except ValueError as error:
                said = self._said(str(error))
                raise NotAVote("raised", f"{self.config.url} did not answer as a chat completion: {said}") from None
            finally:
                self._paid.settle(request, cost)
            attempt += 1
            left_s = self._clock.left_s()
            if attempt == self.config.attempts:
                break
            if stop.wait(min(wait_s, left_s)):
                return _NOT_ASKED
        if status == 500:
            first, self._answered_at_failure = self._answered > self._answered_at_failure, self._answered
            if first or self._answered > answered:  # a service that is down answers no other text from here on
                return Refused(f"{problem}, each of {attempt} times, while other texts were answered")
        raise NotAVote(
            "raised",
            f"{self.config.url} failed {self.config.attempts} times, last with {problem}; the answers so far are kept, "
            "run again later",
        )

    def _send(
        self, method: str, address: str, body: Mapping[str, Any] | None = None, *, limit_s: float = float("inf")
    ) -> tuple[int, httpx.Headers, bytes]:
        timeout_s = min(self.config.timeout_s, self._clock.left_s(), limit_s)
        ends = time.monotonic() + timeout_s
        with self._http.stream(method, address, json=body, timeout=timeout_s) as response:
            packed = response.headers.get_list("content-encoding", split_commas=True)
            if len(packed) > 1 or not _UNPACKED.issuperset(packed):
                raise ValueError(f"it is packed as {', '.join(packed)[:80]}, which may unpack to any size")
            content = b""
            for part in response.iter_bytes():
                if time.monotonic() > ends:  # an answer that trickles in ends no read
                    raise httpx.ReadTimeout(f"no whole answer in {timeout_s:g} s")
                content += part
                if len(content) > _MAX_BODY_BYTES:
                    raise ValueError(f"it is longer than {_MAX_BODY_BYTES} bytes")
            return response.status_code, response.headers, content

    def _take_turn(self, stop: threading.Event) -> bool:
        """Wait until the rate allows a request; True where none is wanted any more."""
        with self._lock:
            now = time.monotonic()
            at = max(now, self._next_at)
            self._next_at = at + 60 / self.config.requests_per_minute
        stopped = stop.wait(min(max(0.0, at - now), self._clock.left_s()))
        self._clock.left_s()
        return stopped

    def _without_key(self, text: str) -> str:
        """What the service said, which may repeat what it was sent, without the key."""
        key = self.config.api_key
        return text.replace(key, "***") if len(key) >= _SHORTEST_SECRET else text

    def _because(self, content: bytes) -> str:
        """What the service said, in brackets; nothing where it said nothing."""
        said = " ".join(self._said(content.decode("utf-8", "replace")).split())
        return f" ({said})" if said else ""

    def _failure(self, error: Exception) -> str:
        """What ended a request, with the way out where it is known."""
        what = f"{type(error).__name__}{self._because(str(error).encode())}"
        return f"{what}. {way_to_trust(what)}" if "CERTIFICATE_VERIFY_FAILED" in what else what

    def _said(self, text: str) -> str:
        return self._without_key(text)[:200]

    def _cost(self, sent: float, answered: float) -> float:
        return (sent * self.config.price_in + answered * self.config.price_out) / 1e6


def _key(*asked: object) -> str:
    """What an answer is kept under."""
    return hashlib.sha256(json.dumps(asked).encode("utf-8", "surrogatepass")).hexdigest()


def _other_form(form: Mapping[str, object], content: bytes) -> dict[str, object] | None:
    """The form of requests without what a service says it does not take; None where it says something else.

    Of OpenAI's models those that think take no `max_tokens` and no `temperature`.
    """
    try:
        wrong = json.loads(content)["error"]["param"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    if wrong not in ("temperature", "max_tokens") or wrong not in form:
        return None
    other = {name: value for name, value in form.items() if name != wrong}
    return other | {"max_completion_tokens": form["max_tokens"]} if wrong == "max_tokens" else other


def _read(content: bytes) -> tuple[str, tuple[int, int] | None, bool]:
    """The answer, empty where the model gave none, the tokens sent and answered where they are told, and whether the
    answer was cut off at the most tokens.

    Raises:
        ValueError: it is no chat completion.
    """
    try:
        value = json.loads(content)
        choice = value["choices"][0]
        answer = choice["message"].get("content")
        if isinstance(answer, list):  # of parts, of which some are thoughts
            answer = "".join(part["text"] for part in answer if part["type"] == "text")
        answer = "" if answer is None else answer  # a refusal, or thoughts that used up the tokens
        is_cut = choice.get("finish_reason") == "length"
        usage = value.get("usage") or {}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(content.decode("utf-8", "replace")) from error
    if not isinstance(answer, str):
        raise ValueError(f"its content is {answer!r}")
    sent, answered = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if type(sent) is int and type(answered) is int and min(sent, answered) >= 0 and max(sent, answered) <= _MOST_TOKENS:
        return answer, (sent, answered), is_cut
    return answer, None, is_cut


def _retry_after(headers: httpx.Headers, otherwise_s: float) -> float:
    try:
        return min(_LONGEST_WAIT_S, max(0.0, float(headers.get("retry-after", ""))))
    except ValueError:
        return otherwise_s
