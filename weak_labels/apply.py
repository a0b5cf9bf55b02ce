"""The vote stage: every labeling function on every item, once per content and version.

Work is done only for (item, function) pairs that have no vote for the item's present content by the function's
present version. A fault is stored as a fault and leaves no vote; it is tried again by the next run that has new
input, so `lf_faults` always holds exactly the faults in force. A function with too many faults is switched off for
the run: its votes go, the other functions stay.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from warehouse import Delete, Lake, Progress, SettingsError, Stage, StageResult, Upsert, Write, hash_token, silent
from warehouse.reader import list_column_to_matrix
from weak_labels.calls import MAX_TIMEOUTS, MISSING, WHOLE_FUNCTION, Limits, Outcome, Rows, call_function
from weak_labels.functions import ABSTAIN, Encode, ItemBatch, LabelingFunction, Matrix, Votes, check_functions
from weak_labels.worker import Worker


@dataclass(frozen=True, kw_only=True, slots=True)
class VoteConfig:
    """Settings of the vote stage.

    Attributes:
        classes: class names; the place of a name is its class number.
        encoder_id: encoder whose vectors the functions see.
        batch_items: items per batch.
        timeout_s: seconds for one call of a Python function: an item for row functions, a batch for column functions.
        max_fault_frac: share of all items on which a function may fail before it is switched off.
        min_faults: so many faults never switch a function off, however few items there are.
    """

    classes: tuple[str, ...]
    encoder_id: str
    batch_items: int = 5000
    timeout_s: float = 10.0
    max_fault_frac: float = 0.05
    min_faults: int = 10

    def __post_init__(self) -> None:
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise SettingsError(f"VoteConfig: classes must be at least two different names, got {self.classes}.")
        if self.batch_items < 1:
            raise SettingsError(f"VoteConfig: batch_items is {self.batch_items}; it must be 1 or more.")
        if self.timeout_s <= 0:
            raise SettingsError(f"VoteConfig: timeout_s is {self.timeout_s}; it must be above 0.")
        if not 0 <= self.max_fault_frac <= 1:
            raise SettingsError(f"VoteConfig: max_fault_frac is {self.max_fault_frac}; it must be 0 to 1.")
        if self.min_faults < 0:
            raise SettingsError(f"VoteConfig: min_faults is {self.min_faults}; it must be 0 or more.")


INPUT_HASH = "left(md5(concat_ws('|', i.content_hash, i.metadata)), 16)"
"""SQL over `items i`: changes when an item's content or metadata does."""

PENDING = f"""
    WITH wanted AS (
        SELECT unnest(?::VARCHAR[]) AS lf_name, unnest(?::VARCHAR[]) AS lf_version, unnest(?::INT[]) AS place
    ),
    voted AS (
        SELECT v.item_id, v.input_hash, list(w.place) AS places
        FROM lf_votes v JOIN wanted w ON w.lf_name = v.lf_name AND w.lf_version = v.lf_version
        GROUP BY v.item_id, v.input_hash
    )
    SELECT i.item_id, i.content, i.metadata, {INPUT_HASH} AS input_hash, d.places, count(*) OVER () AS total %s
    FROM items i
    LEFT JOIN voted d ON d.item_id = i.item_id AND d.input_hash = {INPUT_HASH} %s
    WHERE coalesce(len(d.places), 0) < (SELECT count(*) FROM wanted)
    ORDER BY i.item_id
"""
WITH_VECTORS = (
    ", x.vector",
    "LEFT JOIN vectors x ON x.item_id = i.item_id AND x.encoder_id = ? AND x.content_hash = i.content_hash",
)


@dataclass(slots=True)
class _Ballot:
    """What one function did in this run."""

    function: LabelingFunction
    version: str
    max_faults: int
    ids: list[pa.Array] = field(default_factory=list[pa.Array])
    hashes: list[pa.Array] = field(default_factory=list[pa.Array])
    votes: list[Votes] = field(default_factory=list[Votes])
    faults: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])
    unvoted: list[str] = field(default_factory=list[str])
    without_vector: int = 0
    timeouts: int = 0
    off: str = ""

    def limits(self, timeout_s: float) -> Limits:
        return Limits(
            timeout_s=timeout_s,
            max_faults=self.max_faults - len(self.faults),
            max_timeouts=MAX_TIMEOUTS - self.timeouts,
        )

    def add(self, batch: ItemBatch, hashes: pa.Array, rows: Rows, outcome: Outcome, total_items: int) -> None:
        voted = outcome.votes != MISSING
        self.ids.append(batch.id_array.take(pa.array(rows[voted])))
        self.hashes.append(hashes.take(pa.array(rows[voted])))
        self.votes.append(outcome.votes[voted])
        self.unvoted += batch.id_array.take(pa.array(rows[~voted])).to_pylist()
        self.timeouts += outcome.timeouts
        for fault in outcome.faults:
            item_id = "" if fault.row == WHOLE_FUNCTION else batch.item_ids[rows[fault.row]]
            self.faults.append((item_id, fault.fault, fault.detail))
        whole = [fault for fault in outcome.faults if fault.row == WHOLE_FUNCTION]
        first = f"the first: {self.faults[0][1]}, {self.faults[0][2]}" if self.faults else ""
        if whole:
            self.off = f"{whole[0].fault}: {whole[0].detail}"
        elif self.timeouts >= MAX_TIMEOUTS:
            self.off = f"{self.timeouts} calls took too long; {first}"
        elif len(self.faults) > self.max_faults:
            self.off = f"more than {self.max_faults} of {total_items} items failed; {first}"


def vote(
    lake: Lake,
    functions: Sequence[LabelingFunction],
    config: VoteConfig,
    *,
    encode: Encode | None = None,
    progress: Progress = silent,
) -> StageResult:
    """Let every function vote on every item that is new or changed to it; write `lf_votes` and `lf_faults`.

    Functions that were loaded from a file and run Python code are called in a process of their own, which is ended
    when one hangs. Those made in this program are called here, where only the main thread can break off a call.

    Args:
        lake: the warehouse.
        functions: the functions in force; votes of any others are removed.
        config: settings.
        encode: embeds exemplars with the encoder of `config.encoder_id`; needed by functions that use vectors.
        progress: called with items done and items to do.

    Returns:
        The result; `detail` counts items, votes, faults, and names the functions that were switched off.

    Raises:
        SettingsError: functions without name or with one used twice, an unknown class, or no `encode` for `nearest`.
    """
    check_functions(functions, config.classes, where="vote")
    check_encode(functions, encode)
    versions = {function.name: version_in_force(function, config) for function in functions}
    needs_vectors = any(function.uses_vectors for function in functions)
    params = {
        "versions": versions,
        "timeout_s": config.timeout_s,
        "max_fault_frac": config.max_fault_frac,
        "min_faults": config.min_faults,
    }
    inputs = ("items", "vectors") if needs_vectors else ("items",)
    with lake.stage("vote", version=1, inputs=inputs, params=params) as stage:
        if stage.done:
            return stage.result()
        total_items = int(stage.scalar("SELECT count(*) FROM items"))
        max_faults = max(config.min_faults, int(config.max_fault_frac * total_items))
        ballots = [_Ballot(f, versions[f.name], max_faults) for f in functions]
        items = _call_all(stage, ballots, config, encode, needs_vectors, total_items, progress)
        writes = [*_vote_writes(stage, ballots), *_fault_writes(stage, ballots)]
        if not writes:
            return stage.nothing(items=items)
        counted = [ballot for ballot in ballots if not ballot.off]
        detail = {
            "items": items,
            "functions": len(functions),
            "votes": int(sum((v != ABSTAIN).sum() for ballot in counted for v in ballot.votes)),
            "faults": sum(len(ballot.faults) for ballot in ballots),
            "without_vector": max((ballot.without_vector for ballot in ballots), default=0),
            "switched_off": sorted(ballot.function.name for ballot in ballots if ballot.off),
        }
        return stage.commit(writes, rows_read=items, detail=detail)


def version_in_force(function: LabelingFunction, config: VoteConfig) -> str:
    """Hash of all that decides a function's votes besides the item: its version, the classes and the encoder."""
    encoder = config.encoder_id if function.uses_vectors else ""
    return hash_token({"version": function.version, "classes": list(config.classes), "encoder": encoder})[:16]


def check_encode(functions: Sequence[LabelingFunction], encode: Encode | None) -> None:
    """Refuse exemplars that nothing could embed.

    Raises:
        SettingsError: names the function.
    """
    for function in functions:
        if function.kind == "nearest" and encode is None:
            raise SettingsError(
                f"The labeling function '{function.name}' needs its exemplars embedded, but no encoder was given. "
                "Pass encode=."
            )


def remember_encode(encode: Encode | None) -> Encode | None:
    """An `encode` that embeds each list of exemplars only once."""
    if encode is None:
        return None
    known: dict[tuple[str, ...], Matrix] = {}

    def remembered(texts: Sequence[str]) -> Matrix:
        key = tuple(texts)
        if key not in known:
            known[key] = encode(texts)
        return known[key]

    return remembered


def to_batch(table: pa.Table, classes: Sequence[str], encode: Encode | None) -> tuple[ItemBatch, Rows]:
    """A batch of the columns item_id, content, metadata and, where it is there, vector.

    Returns:
        the batch, and the rows that have a vector (none without the column).
    """
    columns = {name: pa.concat_arrays(table.column(name).chunks) for name in table.column_names}
    vectors: Matrix | None = None
    with_vector: Rows = np.empty(0, np.int64)
    if "vector" in columns:
        with_vector = np.flatnonzero(columns["vector"].is_valid().to_numpy(zero_copy_only=False))
        found = list_column_to_matrix(pa.chunked_array([columns["vector"].drop_null()]), what="vector")
        vectors = np.zeros((table.num_rows, found.shape[1]), np.float32)
        vectors[with_vector] = found
    batch = ItemBatch(
        item_ids=columns["item_id"],
        texts=columns["content"],
        metadata=columns["metadata"],
        classes=classes,
        vectors=vectors,
        encode=encode,
    )
    return batch, with_vector


def _call_all(
    stage: Stage,
    ballots: Sequence[_Ballot],
    config: VoteConfig,
    encode: Encode | None,
    needs_vectors: bool,
    total_items: int,
    progress: Progress,
) -> int:
    """Call all functions on what is pending, batch by batch; returns the number of items."""
    wanted = [[b.function.name for b in ballots], [b.version for b in ballots], list(range(len(ballots)))]
    sql = PENDING % (WITH_VECTORS if needs_vectors else ("", ""))
    params = [*wanted, config.encoder_id] if needs_vectors else wanted
    encode = remember_encode(encode)
    done = 0
    with ExitStack() as stack:
        workers = _workers(stack, ballots, config)
        for table in stage.batches(sql, params, rows=config.batch_items):
            columns = ["item_id", "content", "metadata", *(["vector"] if needs_vectors else [])]
            batch, with_vector = to_batch(table.select(columns), config.classes, encode)
            hashes = pa.concat_arrays(table.column("input_hash").chunks)
            pending = _pending(table.column("places"), len(ballots))
            has_vector = np.zeros(len(batch), np.bool_)
            has_vector[with_vector] = True
            sent: set[Path] = set()
            for place, ballot in enumerate(ballots):
                function = ballot.function
                rows = np.flatnonzero(pending[:, place])
                if function.uses_vectors:
                    lacking = rows[~has_vector[rows]]
                    ballot.unvoted += batch.id_array.take(pa.array(lacking)).to_pylist()
                    ballot.without_vector += len(lacking)
                    rows = rows[has_vector[rows]]
                if ballot.off or not len(rows):
                    continue
                limits = ballot.limits(config.timeout_s)
                if function.is_python and function.source is not None:
                    worker = workers[function.source]
                    if function.source not in sent:
                        worker.send(batch, with_vectors=needs_vectors)
                        sent.add(function.source)
                    outcome = worker.call(function, rows, limits)
                else:
                    outcome = call_function(function, batch if len(rows) == len(batch) else batch.take(rows), limits)
                ballot.add(batch, hashes, rows, outcome, total_items)
            done += len(batch)
            progress(done, int(table.column("total")[0].as_py()))
    return done


def _workers(stack: ExitStack, ballots: Sequence[_Ballot], config: VoteConfig) -> Mapping[Path, Worker]:
    versions: dict[Path, dict[str, str]] = {}
    for function in (ballot.function for ballot in ballots):
        if function.is_python and function.source is not None:
            versions.setdefault(function.source, {})[function.name] = function.version
    return {
        path: stack.enter_context(Worker(path, config.classes, known, config.timeout_s))
        for path, known in versions.items()
    }


def _pending(places: pa.ChunkedArray, functions: int) -> "np.ndarray[tuple[int, int], np.dtype[np.bool_]]":
    """Which of the functions have no vote yet, [N, L], from the list of those that have."""
    pending = np.ones((len(places), functions), np.bool_)
    column = pa.concat_arrays(places.chunks)
    lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    pending[np.repeat(np.arange(len(column)), lengths), column.flatten().to_numpy(zero_copy_only=False)] = False
    return pending


def _vote_writes(stage: Stage, ballots: Sequence[_Ballot]) -> list[Write]:
    writes: list[Write] = []
    counted = [b for b in ballots if not b.off]
    if any(b.votes for b in counted):
        lengths = [sum(map(len, ballot.votes)) for ballot in counted]
        # Function by function, so that a later read of one function skips the others' row groups.
        rows = pa.table(
            {
                "item_id": pa.concat_arrays([ids for b in counted for ids in b.ids]),
                "lf_name": _repeat([b.function.name for b in counted], lengths),
                "lf_version": _repeat([b.version for b in counted], lengths),
                "input_hash": pa.concat_arrays([hashes for b in counted for hashes in b.hashes]),
                "vote": pa.array(np.concatenate([v for b in counted for v in b.votes])),
            }
        )
        if rows.num_rows:
            writes.append(Upsert("lf_votes", rows))
    stored = stage.arrow("SELECT DISTINCT lf_name, lf_version FROM lf_votes ORDER BY ALL").to_pylist()
    in_force = {(b.function.name, b.version) for b in ballots if not b.off}
    # After the upsert: what still has another version is a vote that was not renewed.
    stale = [row for row in stored if (row["lf_name"], row["lf_version"]) not in in_force]
    if stale:
        writes.append(Delete("lf_votes", pa.Table.from_pylist(stale)))
    for ballot in counted:
        if ballot.unvoted:
            old = stage.arrow(
                "SELECT item_id, lf_name FROM lf_votes WHERE lf_name = ? AND lf_version = ? AND item_id IN "
                "(SELECT unnest(?::VARCHAR[]))",
                [ballot.function.name, ballot.version, ballot.unvoted],
            )
            if old.num_rows:
                writes.append(Delete("lf_votes", old))
    return writes


def _fault_writes(stage: Stage, ballots: Sequence[_Ballot]) -> list[Write]:
    names = ("item_id", "lf_name", "lf_version", "fault", "detail")
    stored = set(stage.rows(f"SELECT {', '.join(names)} FROM lf_faults"))
    in_force: set[tuple[str, ...]] = set()
    for ballot in ballots:
        key = (ballot.function.name, ballot.version)
        in_force |= {(item_id, *key, fault, detail) for item_id, fault, detail in ballot.faults if item_id}
        if ballot.off:
            in_force.add(("", *key, "switched_off", ballot.off))
    writes: list[Write] = []
    if gone := sorted(stored - in_force):
        keys = [dict(zip(names[:3], row[:3], strict=True)) for row in gone]
        writes.append(Delete("lf_faults", pa.Table.from_pylist(keys)))
    if new := sorted(in_force - stored):
        writes.append(Upsert("lf_faults", pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in new])))
    return writes


def _repeat(names: Sequence[str], lengths: Sequence[int]) -> pa.Array:
    indices = pa.array(np.repeat(np.arange(len(names), dtype=np.int32), lengths))
    return pa.DictionaryArray.from_arrays(indices, pa.array(list(names), pa.string()))
