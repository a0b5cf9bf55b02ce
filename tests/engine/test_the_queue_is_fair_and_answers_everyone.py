"""The queue in front of the model: batches by tokens, turns between callers, bounds, deadlines, faults, the end.

The model is a real tiny encoder. A gate in front of it holds a batch until the test lets it go, so that what waits and
what runs is known without a clock.
"""

import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from engine.errors import DeadlineError, NumericError, OverloadError, WorkerError
from engine.load import load_encoder
from engine.model.dense import pack
from engine.runtime.admission import Pace
from engine.runtime.batching import Scheduler
from engine.runtime.loading import encoder_of
from engine.runtime.local import WINDOW_TEXTS
from engine.runtime.request import Packed, Room
from tests.engine.texts import make_texts
from tests.engine.tiny import BASE, tiny_parent, tiny_routed, tiny_texts, tiny_tokenizer

WAIT_S = 30.0
POISON = BASE.vocab + 5  # no such row in the embedding table: torch raises


class Gated:
    """A tiny dense model; each batch takes one permit and is written down."""

    def __init__(self, *, open_gate: bool) -> None:
        self.model = tiny_parent()
        self.gate = threading.Semaphore(10**6 if open_gate else 0)
        self.entered = threading.Semaphore(0)
        self.batches: list[list[list[int]]] = []

    def __call__(self, sequences: list[list[int]], traced: bool) -> Packed:
        self.batches.append(sequences)
        self.entered.release()
        assert self.gate.acquire(timeout=WAIT_S)
        with torch.inference_mode():
            vectors = self.model(pack(sequences))
        return Packed(vectors, [1.0] * len(sequences), [""] * len(sequences))


class Queue:
    """A scheduler with one worker around a gated model."""

    def __init__(self, *, open_gate: bool = False) -> None:
        self.model = Gated(open_gate=open_gate)
        self.workers = ThreadPoolExecutor(1)
        self.scheduler = Scheduler(self.model, self.workers, slots=1, dimension=BASE.width)

    def hold(self) -> None:
        """One text of a caller of its own occupies the worker; all that comes later waits."""
        self.scheduler.submit([[1, 2]])
        assert self.model.entered.acquire(timeout=WAIT_S)

    def go(self, batches: int = 10**6) -> None:
        self.model.gate.release(batches)


@pytest.fixture
def held() -> Iterator[Queue]:
    queue = Queue()
    queue.hold()
    yield queue
    queue.go()
    queue.scheduler.close()
    queue.workers.shutdown()


def test_batches_keep_to_their_budget_and_hold_every_text_once(held: Queue) -> None:
    texts = tiny_texts(300, seed=1)
    request = held.scheduler.submit(texts)
    held.scheduler.batch_tokens = 100
    held.go()
    request.answer.result(WAIT_S).checked()
    batches = held.model.batches[1:]
    assert sorted(ids for batch in batches for ids in batch) == sorted(texts)
    assert all(sum(map(len, batch)) <= 100 for batch in batches)
    full = [sum(map(len, batch)) for batch in batches[:-1]]
    assert min(full[: len(full) // 2]) > 100 - 24  # nothing that would have fitted was left out
    assert held.scheduler.queued == (0, 0)


def test_a_text_longer_than_the_budget_is_a_batch_of_its_own(held: Queue) -> None:
    held.scheduler.batch_tokens = 64
    request = held.scheduler.submit([[7] * 70, [8] * 3])
    held.go()
    request.answer.result(WAIT_S).checked()
    assert [[len(ids) for ids in batch] for batch in held.model.batches[1:]] == [[70], [3]]


def test_a_caller_of_thousands_does_not_keep_others_waiting(held: Queue) -> None:
    large = held.scheduler.submit([[9] * 16] * 3000)
    held.scheduler.batch_tokens = 64
    small = [held.scheduler.submit([[number] * 16]) for number in range(1, 9)]
    held.go(4)  # the one that holds, and three batches of four texts
    for request in small:
        request.answer.result(WAIT_S).checked()
    assert not large.answer.done()


def test_no_text_waits_for_more_than_one_text_of_every_other_caller(held: Queue) -> None:
    held.scheduler.batch_tokens = 64
    for caller in range(5):
        held.scheduler.submit([[10 + caller] * 32] * 20)
    held.go()
    assert held.scheduler.drain(WAIT_S)
    order = [ids[0] for batch in held.model.batches[1:] for ids in batch]
    for caller in range(5):
        places = [place for place, first in enumerate(order) if first == 10 + caller]
        # One round is five texts; within a batch of two the order is free.
        assert max(np.diff(places)) <= 5 + 2


def test_admission_is_refused_at_once_and_nothing_of_it_is_kept(held: Queue) -> None:
    held.scheduler.room = Room(entries=10, tokens=100)
    kept = held.scheduler.submit([[1] * 10] * 9)
    with pytest.raises(OverloadError, match="9 texts of 90 tokens wait already, and 2 of 4 more"):
        held.scheduler.submit([[1] * 2] * 2)
    with pytest.raises(OverloadError):
        held.scheduler.submit([[1] * 11])
    assert held.scheduler.queued == (9, 90)
    assert not held.scheduler.full()
    held.scheduler.submit([[1] * 10])
    assert held.scheduler.full()
    held.go()
    kept.answer.result(WAIT_S).checked()


def test_the_pace_is_that_of_the_last_seconds_of_large_batches() -> None:
    pace = Pace()
    assert pace.seconds_for(10**9) == 0
    pace.begin(100.0)
    pace.done(1000, 102.0, least=250)
    assert pace.seconds_for(1500) == pytest.approx(3.0)
    pace.done(10, 109.0, least=250)  # too small to say anything
    pace.begin(500.0)  # nothing was asked for minutes
    pace.done(1000, 502.0, least=250)
    assert pace.seconds_for(1500) == pytest.approx(3.0)
    for second in range(503, 543):
        pace.done(2000, float(second), least=250)
    assert pace.seconds_for(1500) == pytest.approx(0.75, rel=0.01)


def test_what_would_wait_too_long_is_refused_at_once_and_nothing_is_where_nothing_waits() -> None:
    queue = Queue()
    queue.scheduler.batch_tokens = 64
    queue.scheduler.room = Room(entries=10**6, tokens=10**6, seconds=0.1)
    texts = [[1] * 64] * 4
    first = queue.scheduler.submit(texts)  # nothing is known yet
    for _ in texts:
        assert queue.model.entered.acquire(timeout=WAIT_S)
        time.sleep(0.05)  # at most 1,280 tokens a second
        queue.model.gate.release()
    assert not first.answer.result(WAIT_S).errors
    second = queue.scheduler.submit(texts)  # 0.2 s of work and more, but nobody is before it
    assert queue.model.entered.acquire(timeout=WAIT_S)
    assert queue.scheduler.full()
    with pytest.raises(OverloadError, match=r"3 texts wait already; with 1 more .* at the present pace"):
        queue.scheduler.submit([[1, 2]])
    queue.model.gate.release(100)
    assert not second.answer.result(WAIT_S).errors
    assert not queue.scheduler.full()
    assert not queue.scheduler.submit([[1, 2]]).answer.result(WAIT_S).errors
    queue.scheduler.close()


def test_a_batch_that_failed_says_nothing_about_the_pace() -> None:
    queue = Queue()
    queue.scheduler.batch_tokens = 64
    queue.scheduler.room = Room(seconds=1e-9)
    failed = queue.scheduler.submit([[POISON] * 64])
    assert queue.model.entered.acquire(timeout=WAIT_S)
    queue.go(1)
    assert failed.answer.result(WAIT_S).errors
    queue.hold()
    requests = [queue.scheduler.submit([[1] * 64]) for _ in range(2)]
    queue.go()
    for request in requests:
        request.answer.result(WAIT_S).checked()
    queue.scheduler.close()


def test_texts_of_callers_who_left_are_not_computed(held: Queue) -> None:
    leaves = held.scheduler.submit([[3] * 8] * 50)
    stays = held.scheduler.submit([[4] * 8] * 5)
    leaves.cancel()
    assert held.scheduler.queued == (5, 40)
    held.go()
    stays.answer.result(WAIT_S).checked()
    assert all(ids[0] != 3 for batch in held.model.batches for ids in batch)
    assert leaves.answer.cancelled()


def test_a_deadline_that_passes_is_an_error_also_while_the_worker_is_busy(held: Queue) -> None:
    late = held.scheduler.submit([[3] * 8] * 5, deadline=time.monotonic() + 0.05)
    in_time = held.scheduler.submit([[4] * 8])
    with pytest.raises(DeadlineError, match="its deadline passed"):
        late.answer.result(WAIT_S).checked()
    held.go()
    in_time.answer.result(WAIT_S).checked()
    assert all(ids[0] != 3 for batch in held.model.batches for ids in batch)


class Doorman(ThreadPoolExecutor):
    """A worker; whoever hands over a second batch is kept at the door until the test lets him go."""

    def __init__(self) -> None:
        super().__init__(2)
        self.handed, self.at_the_door, self.door = 0, threading.Event(), threading.Event()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.handed += 1
        if self.handed == 2:
            self.at_the_door.set()
            assert self.door.wait(WAIT_S)
        return super().submit(fn, *args, **kwargs)


def test_a_deadline_that_passes_before_the_queue_looks_again_is_an_error_and_no_empty_batch() -> None:
    workers, model = Doorman(), Gated(open_gate=True)
    scheduler = Scheduler(model, workers, slots=2, dimension=BASE.width)
    scheduler.submit([[1, 2]]).answer.result(WAIT_S)
    second = scheduler.submit([[1, 3]])
    assert workers.at_the_door.wait(WAIT_S)
    late = scheduler.submit([[1, 4]], deadline=time.monotonic() - 1)
    workers.door.set()
    second.answer.result(WAIT_S).checked()
    with pytest.raises(DeadlineError):
        late.answer.result(WAIT_S).checked()
    scheduler.submit([[1, 5]]).answer.result(WAIT_S).checked()
    assert model.batches == [[[1, 2]], [[1, 3]], [[1, 5]]]
    scheduler.close()
    workers.shutdown()


def test_a_failed_batch_is_not_computed_again_for_those_who_left_or_are_late(held: Queue) -> None:
    poisoned, left = held.scheduler.submit([[5, POISON]]), held.scheduler.submit([[6, 6]])
    late = held.scheduler.submit([[7, 7]], deadline=time.monotonic() + 0.3)
    stays = held.scheduler.submit([[8, 8]])
    held.go(2)  # the one that holds, and the batch of all four
    for _ in range(2):  # that batch, and the first of the four alone, which is held
        assert held.model.entered.acquire(timeout=WAIT_S)
    left.cancel()
    with pytest.raises(DeadlineError):
        late.answer.result(WAIT_S).checked()
    held.go()
    stays.answer.result(WAIT_S).checked()
    with pytest.raises(NumericError):
        poisoned.answer.result(WAIT_S).checked()
    assert held.model.batches[2:] == [[[5, POISON]], [[8, 8]]]


def test_a_result_that_cannot_be_used_leaves_nobody_waiting() -> None:
    def one_vector_for_all(sequences: list[list[int]], traced: bool) -> Packed:
        return Packed(torch.ones(1, BASE.width) / BASE.width**0.5, (), ())

    workers = ThreadPoolExecutor(1)
    scheduler = Scheduler(one_vector_for_all, workers, slots=1, dimension=BASE.width)
    plain, traced = scheduler.submit([[4] * 8] * 3), scheduler.submit([[4] * 8], traced=True)
    plain.answer.result(WAIT_S).checked()  # one by one there is a vector for each
    with pytest.raises(NumericError, match="IndexError"):
        traced.answer.result(WAIT_S).checked()
    scheduler.close()
    workers.shutdown()


def test_an_answered_request_is_not_kept_until_its_deadline(held: Queue) -> None:
    request = held.scheduler.submit([[4] * 8], deadline=time.monotonic() + 3600)
    held.go()
    request.answer.result(WAIT_S).checked()
    kept = weakref.ref(request)
    del request
    end = time.monotonic() + WAIT_S
    while kept() is not None:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_poison_input_fails_alone_among_64_callers(held: Queue) -> None:
    texts = tiny_texts(64, seed=2)
    texts[17] = [5, POISON, 6]
    requests = [held.scheduler.submit([ids]) for ids in texts]
    held.go()
    answers = [request.answer.result(WAIT_S) for request in requests]
    assert [index for index, answer in enumerate(answers) if answer.errors] == [17]
    with pytest.raises(NumericError, match="IndexError") as caught:
        answers[17].checked()
    assert caught.value.indexes == (0,)
    alone = Gated(open_gate=True)
    for index, answer in enumerate(answers):
        if index != 17:
            assert np.array_equal(answer.vectors, alone([texts[index]], False).vectors.numpy())


def test_a_vector_that_is_not_finite_fails_alone_without_a_second_computation() -> None:
    model = tiny_routed()
    with torch.no_grad():
        model.tokens.weight[4] = float("nan")  # "oil"
    broken = encoder_of(model, tiny_tokenizer(), sha256={}, active=0.3, max_tokens=8, threads=1)
    sequences = [tokens.ids for tokens in broken.tokenize(["bank", "oil", "trade"])]
    answer = broken.scheduler.submit(sequences).answer.result(WAIT_S)
    assert list(answer.errors) == [1]
    assert np.isfinite(answer.vectors[[0, 2]]).all()


def test_draining_finishes_what_is_there_and_takes_nothing_new(held: Queue) -> None:
    request = held.scheduler.submit([[4] * 8] * 5)
    drained = ThreadPoolExecutor(1).submit(held.scheduler.drain, WAIT_S)
    while not _refused(held.scheduler):
        time.sleep(0.01)
    assert not drained.done()
    held.go()
    assert drained.result(WAIT_S)
    request.answer.result(0).checked()


def test_what_is_not_drained_in_time_is_answered_too(held: Queue) -> None:
    request = held.scheduler.submit([[4] * 8] * 5)
    assert not held.scheduler.drain(0.05)
    with pytest.raises(OverloadError, match="shutting down"):
        request.answer.result(WAIT_S).checked()


def _refused(scheduler: Scheduler) -> bool:
    try:
        scheduler.submit([[1, 2]]).cancel()
    except OverloadError:
        return True
    return False


def test_dead_workers_are_noticed_and_everyone_is_answered() -> None:
    queue = Queue(open_gate=True)
    queue.workers.shutdown()
    requests = [queue.scheduler.submit([[4] * 8] * 3)]
    with pytest.raises(WorkerError, match="take no more batches"):
        requests[0].answer.result(WAIT_S).checked()
    assert queue.scheduler.dead is not None
    with pytest.raises(WorkerError):
        queue.scheduler.submit([[4] * 8])


def test_a_worker_that_does_not_come_back_is_dead(held: Queue) -> None:
    waiting = held.scheduler.submit([[4] * 8])
    held.scheduler.stall_s = held.scheduler.grace_s = 0.0
    assert held.scheduler.dead is None  # the first look may come just after the process stood still
    assert "not done after 0 s" in (held.scheduler.dead or "")
    with pytest.raises(WorkerError):
        waiting.answer.result(WAIT_S).checked()


def test_a_process_that_stood_still_goes_on(held: Queue) -> None:
    waiting = held.scheduler.submit([[4] * 8])
    held.scheduler.stall_s, held.scheduler.grace_s = 0.0, WAIT_S
    assert [held.scheduler.dead for _ in range(3)] == [None] * 3
    held.go()
    waiting.answer.result(WAIT_S).checked()
    assert held.scheduler.dead is None
    held.scheduler.submit([[4] * 8]).answer.result(WAIT_S).checked()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # that it has threads and is forked: just so
def test_in_a_fork_whose_threads_stayed_behind_nobody_waits_for_ever() -> None:
    queue = Queue(open_gate=True)
    child = os.fork()
    if not child:
        ended = 1
        try:
            queue.scheduler.submit([[1, 2]])
        except WorkerError as error:
            queue.scheduler.close()
            ended = 0 if "spawn" in str(error) else 2
        finally:
            os._exit(ended)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    queue.scheduler.submit([[1, 2]]).answer.result(WAIT_S).checked()
    queue.scheduler.close()
    queue.workers.shutdown()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize(("threads", "ends"), [(2, "refused"), (1, "loaded")])
def test_in_a_fork_of_who_loaded_an_encoder_none_is_loaded_for_ever(threads: int, ends: str) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        load_encoder("dense", max_tokens=16, threads=1)
        child = os.fork()
        if not child:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(30)  # ends it where it waits
            said = "none"
            try:
                load_encoder("dense", max_tokens=16, threads=1)
                said = "loaded"
            except WorkerError as error:
                said = "refused" if "spawn" in str(error) else str(error)
            finally:
                os._exit(0 if said == ends else 2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        torch.set_num_threads(before)


def test_an_encoder_nobody_needs_takes_its_thread_along() -> None:
    before = threading.active_count()
    encoder = load_encoder("dense", max_tokens=16, threads=1)
    encoder.encode(["oil"])
    assert threading.active_count() > before
    del encoder
    end = time.monotonic() + WAIT_S
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_callers_in_many_threads_get_the_bits_they_get_alone() -> None:
    encoder = load_encoder("routed", max_tokens=64, threads=2)
    texts = make_texts(120, longest=60, seed=3)
    alone = np.concatenate([encoder.encode([text]) for text in texts])
    with ThreadPoolExecutor(8) as callers:
        parts = list(callers.map(lambda start: encoder.encode(texts[start : start + 15]), range(0, 120, 15)))
    assert np.array_equal(np.concatenate(parts), alone)


def test_progress_ends_at_all_and_never_goes_back() -> None:
    told: list[tuple[int, int]] = []
    encoder = encoder_of(tiny_routed(), tiny_tokenizer(), sha256={}, active=0.3, max_tokens=8, threads=2)
    encoder.embed(["oil"] * 5000, lambda done, total: told.append((done, total)))
    assert told[-1] == (5000, 5000)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_progress_goes_by_tokens_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted by texts it told hours at first, since the longest come first, and then stood still over half of all."""
    encoder = encoder_of(tiny_routed(), tiny_tokenizer(), sha256={}, active=0.3, max_tokens=32, threads=1)
    encoder.scheduler.batch_tokens = 256
    compute, batches, told = encoder.scheduler._compute, list[int](), list[int]()  # pyright: ignore[reportPrivateUsage]

    def counted(sequences: list[list[int]], traced: bool) -> Packed:
        batches.append(sum(map(len, sequences)))
        return compute(sequences, traced)

    monkeypatch.setattr(encoder.scheduler, "_compute", counted)
    texts = [" ".join(["oil"] * (30 if number % 10 == 0 else 1)) for number in range(2 * WINDOW_TEXTS)]
    encoder.embed(texts[:WINDOW_TEXTS], lambda done, _: told.append(done))
    shares = np.cumsum(batches) / sum(batches)
    assert len(batches) > 20
    assert np.abs(np.array(told[: len(batches)]) / WINDOW_TEXTS - shares).max() < 0.001
    told.clear()
    encoder.embed(texts, lambda done, _: told.append(done))
    assert np.diff(told, prepend=0).max() < 0.05 * len(texts)


def test_closing_waits_for_the_thread_so_that_no_interpreter_ends_before_it() -> None:
    """It aborted the process at exit when the thread was the last to hold the model's tensors."""
    before = set(threading.enumerate())
    queue = Queue(open_gate=True)
    queue.scheduler.submit([[1, 2]]).answer.result(WAIT_S)
    queue.scheduler.close()
    queue.workers.shutdown()
    assert not set(threading.enumerate()) - before
