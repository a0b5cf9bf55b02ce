"""The vote stage: every labeling function on every item, once per content and version.

Work is done only for items and functions that have not met (see `weak_labels.applying.progress`), batch by batch from
the lake, several batches side by side. A fault is stored as a fault and leaves no vote; it is tried again by the next
run that has new input, so `lf_faults` always holds exactly the faults in force. A function with too many faults is
switched off for the run: its votes go, the other functions stay. One that asks a language model is tried again by every
run: its service may be back, and a limit of its cost may be another one.
"""

import functools
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from warehouse import Lake, Overtaken, Progress, SettingsError, StageResult, hash_token, silent
from warehouse.numeric import cores
from weak_labels.applying.batches import check_services, refused_exemplars, remember_encode, to_batch
from weak_labels.applying.prefilter import Screens
from weak_labels.applying.progress import TEXT, Asked, Pending, Reach, Rows
from weak_labels.applying.vote_buffer import Ballot, ItemLog, fault_writes, vote_rows, vote_writes
from weak_labels.applying.worker_pool import Lane
from weak_labels.functions import arguments
from weak_labels.functions.call import Outcome, call_function
from weak_labels.functions.types import Ask, Encode, ItemBatch, LabelingFunction, check_functions

TURNS = 5
"""How often a run begins where others are faster each time, before it gives up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VoteConfig:
    """Settings of the vote stage.

    Attributes:
        classes: class names; the place of a name is its class number.
        encoder_id: encoder whose vectors the functions see.
        batch_items: items per batch; of long texts fewer, see `weak_labels.applying.progress`.
        pattern_bytes: where no function can fail, as many of these batches are put together as have this size: RE2
            builds the automaton of a pattern anew for each.
        timeout_s: seconds for one call of a Python function: an item for row functions, a batch for column functions.
        max_fault_frac: share of all items on which a function may fail before it is switched off.
        min_faults: so many faults never switch a function off, however few items there are.
        processes: batches worked on side by side, each with a process of its own for Python functions.
    """

    classes: tuple[str, ...]
    encoder_id: str
    batch_items: int = 5000
    pattern_bytes: int = 4 * 1024**2
    timeout_s: float = 10.0
    max_fault_frac: float = 0.05
    min_faults: int = 10
    processes: int = field(default_factory=cores)

    def __post_init__(self) -> None:
        arguments.check_classes(self.classes)
        if self.batch_items < 1:
            raise SettingsError(f"VoteConfig: batch_items is {self.batch_items}; it must be 1 or more.")
        if self.pattern_bytes < 0:
            raise SettingsError(f"VoteConfig: pattern_bytes is {self.pattern_bytes}; it must be 0 or more.")
        if self.timeout_s <= 0:
            raise SettingsError(f"VoteConfig: timeout_s is {self.timeout_s}; it must be above 0.")
        if not 0 <= self.max_fault_frac <= 1:
            raise SettingsError(f"VoteConfig: max_fault_frac is {self.max_fault_frac}; it must be 0 to 1.")
        if self.min_faults < 0:
            raise SettingsError(f"VoteConfig: min_faults is {self.min_faults}; it must be 0 or more.")
        if self.processes < 1:
            raise SettingsError(f"VoteConfig: processes is {self.processes}; it must be 1 or more.")


def vote(
    lake: Lake,
    functions: Sequence[Any],
    config: VoteConfig,
    *,
    encode: Encode | None = None,
    ask: Ask | None = None,
    progress: Progress = silent,
) -> StageResult:
    """Let every function vote on every item that is new or changed to it; write `lf_votes` and `lf_faults`.

    Where another vote run commits meanwhile, this one begins again: which items a function has seen, and which versions
    have votes, is then something else.

    Functions that were loaded from a file and run Python code are called in a process of their own, which is ended
    when one hangs. Those made in this program are called here, where only the main thread can break off a call.

    Args:
        lake: the warehouse.
        functions: the functions in force, `LabelingFunction`s or Snorkel's own; votes of any others are removed.
        config: settings.
        encode: embeds exemplars with the encoder of `config.encoder_id`; needed by functions that use vectors.
        ask: asks a language model; needed by functions made by `prompt`.
        progress: called with items done and items to do.

    Returns:
        The result; `detail` counts items, votes, faults, and names the functions that were switched off.

    Raises:
        SettingsError: what is no function, functions without name or with one used twice, an unknown class, no `encode`
            for `nearest`, or no `ask` for `prompt`.
        Overtaken: other runs were faster `TURNS` times; nothing is committed.
        Exception: what `encode` raised; nothing is committed.
    """
    functions = check_functions(functions, config.classes, where="vote")
    check_services(functions, encode, ask)
    for _ in range(TURNS - 1):
        with suppress(Overtaken):
            return _vote_in_turn(lake, functions, config, encode, ask, progress)
    return _vote_in_turn(lake, functions, config, encode, ask, progress)


def version_in_force(function: LabelingFunction, config: VoteConfig) -> str:
    """Hash of all that decides a function's votes besides the item: its version, the classes and the encoder."""
    encoder = config.encoder_id if function.uses_vectors else ""
    return hash_token({"version": function.version, "classes": list(config.classes), "encoder": encoder})[:16]


def _vote_in_turn(
    lake: Lake,
    functions: Sequence[LabelingFunction],
    config: VoteConfig,
    encode: Encode | None,
    ask: Ask | None,
    progress: Progress,
) -> StageResult:
    needs_vectors = any(function.uses_vectors for function in functions)
    asked = [_asked(function, config) for function in functions]
    params = {
        "versions": {a.name: a.version for a in asked},
        "timeout_s": config.timeout_s,
        "max_fault_frac": config.max_fault_frac,
        "min_faults": config.min_faults,
    }
    inputs = ("items", "vectors") if needs_vectors else ("items",)
    asking = {function.name for function in functions if function.kind == "prompt"}

    def unfinished(last: Mapping[str, Any]) -> bool:
        return not asking.isdisjoint(last.get("switched_off", ()))

    with lake.stage("vote", version=2, inputs=inputs, params=params, unfinished=unfinished) as stage:
        if stage.done:
            return stage.result()
        reach = Reach(stage, asked, config.encoder_id, needs_vectors=needs_vectors)
        max_faults = max(config.min_faults, int(config.max_fault_frac * reach.total_items))
        ballots = [Ballot(f, a.version, max_faults, reach.total_items) for f, a in zip(functions, asked, strict=True)]
        log = _call_all(reach, ballots, config, encode, ask, progress)
        changed = pa.concat_arrays([*log.changed, pa.array(reach.gone_items(), pa.string())])
        off = np.array([bool(ballot.off) for ballot in ballots])
        kept = {ballot.key for place, ballot in enumerate(ballots) if reach.kept(place) and not ballot.off}
        with vote_rows(ballots, log) as rows:
            writes = [
                *vote_writes(stage, reach.voters, kept, changed, rows),
                *fault_writes(stage, ballots, any_stored=reach.any_in_faults),
                *reach.writes(log.new_inputs(), off, [len(ballot.faults) for ballot in ballots]),
            ]
            detail: dict[str, Any] = {
                "read": stage.input_versions,
                "items": log.count,
                "functions": len(functions),
                "votes": sum(ballot.cast for ballot in ballots),
                "faults": sum(len(ballot.faults) for ballot in ballots),
                "without_vector": reach.total_items - reach.with_vector if needs_vectors else 0,
                "switched_off": sorted(ballot.function.name for ballot in ballots if ballot.off),
            }
            if detail["switched_off"]:
                told = sorted(f"{ballot.function.name} ({ballot.off})" for ballot in ballots if ballot.off)
                detail["advice"] = f"Switched off, their votes do not count: {'; '.join(told)}"
            if not writes:
                return stage.nothing(**detail)
            return stage.commit(writes, rows_read=log.count, detail=detail, in_turn=True)


def _asked(function: LabelingFunction, config: VoteConfig) -> Asked:
    return Asked(
        name=function.name,
        version=version_in_force(function, config),
        input=config.encoder_id if function.uses_vectors else TEXT,
    )


def _call_all(
    reach: Reach,
    ballots: Sequence[Ballot],
    config: VoteConfig,
    encode: Encode | None,
    ask: Ask | None,
    progress: Progress,
) -> ItemLog:
    """Call all functions on what is pending, several batches at a time; results are taken in the batches' order."""
    encode = remember_encode(encode)
    stop = threading.Event()
    ask = functools.partial(ask, stop=stop) if ask else None
    total = reach.pending_items()
    log = ItemLog()
    running: deque[Future[_Called]] = deque()
    free: SimpleQueue[Lane] = SimpleQueue()
    screens = Screens([ballot.function for ballot in ballots])

    def take(called: _Called) -> None:
        for place, rows, outcome in called.outcomes:
            if not ballots[place].off:
                ballots[place].add(called.start, called.item_ids, rows, outcome)
        progress(called.start + len(called.item_ids), total)

    with ExitStack() as stack:
        for _ in range(config.processes):
            free.put(stack.enter_context(Lane([b.function for b in ballots], config.classes, config.timeout_s)))
        pool = stack.enter_context(ThreadPoolExecutor(config.processes))

        def stop_all(
            kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> None:
            if kind is not None:  # such as Ctrl-C: what is asked from now on is paid for nothing
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)

        stack.push(stop_all)
        # Which faults come first decides what is stored, so where there can be any the order must not.
        ordered = any(ballot.function.can_fail for ballot in ballots)
        least_bytes = 0 if ordered else config.pattern_bytes
        # Where only patterns were changed, the lake looks for them and gives no other text out.
        screen = screens.in_sql(reach.behind()) if reach.nothing_new else ""
        for pending in reach.pending(config.batch_items, ordered=ordered, least_bytes=least_bytes, screen=screen):
            called = _Called(*log.add(pending, config.encoder_id))
            to_call = functools.partial(to_batch, pending.items, config.classes, encode, ask)
            _embed_exemplars(called, pending, ballots, encode)
            if any(_is_local(ballot.function) for ballot in ballots):
                _call_here(called, to_call(), pending, ballots, config.timeout_s)
            running.append(pool.submit(_call_batch, called, free, screens, to_call, pending, ballots, config.timeout_s))
            if len(running) > config.processes:
                take(running.popleft().result())
        while running:
            take(running.popleft().result())
    if screen:  # the lake asked the others
        log.count = total
        progress(total, total)
    return log


@dataclass(slots=True)
class _Called:
    """Outcomes of one batch: the function's place, the rows it was called on, and what it gave."""

    start: int
    item_ids: pa.Array
    outcomes: list[tuple[int, Rows, Outcome]] = field(default_factory=list[tuple[int, Rows, Outcome]])


def _is_local(function: LabelingFunction) -> bool:
    # Only the main thread can break off Python code of this process.
    return function.is_python and function.source is None


def _embed_exemplars(called: _Called, pending: Pending, ballots: Sequence[Ballot], encode: Encode | None) -> None:
    """Before the threads that call these functions begin, for each list of exemplars once."""
    for place, ballot in enumerate(ballots):
        rows = np.flatnonzero(pending.calls[:, place])
        if len(rows) and not ballot.off and (refused := refused_exemplars(ballot.function, encode, len(rows))):
            ballot.add(called.start, called.item_ids, rows, refused)


def _call_here(
    called: _Called, batch: ItemBatch, pending: Pending, ballots: Sequence[Ballot], timeout_s: float
) -> None:
    for place, ballot in enumerate(ballots):
        rows = np.flatnonzero(pending.calls[:, place])
        if len(rows) and not ballot.off and _is_local(ballot.function):
            part = batch if len(rows) == len(batch) else batch.take(rows)
            outcome = call_function(ballot.function, part, ballot.limits(timeout_s))
            # Taken at once: the batches before this one were called here too.
            ballot.add(called.start, called.item_ids, rows, outcome)


def _call_batch(
    called: _Called,
    free: "SimpleQueue[Lane]",
    screens: Screens,
    to_call: Callable[[], ItemBatch],
    pending: Pending,
    ballots: Sequence[Ballot],
    timeout_s: float,
) -> _Called:
    lane = free.get()
    try:
        batch = to_call()
        lane.begin(batch)
        rows_of = screens.rows(batch, pending.calls)
        for place, ballot in enumerate(ballots):
            rows = rows_of[place]
            if len(rows) and not ballot.off and not _is_local(ballot.function):
                called.outcomes.append((place, rows, lane.call(ballot.function, rows, ballot.limits(timeout_s))))
    finally:
        free.put(lane)
    return called
