"""What the functions did in one run: votes and faults, held compactly until the run's one commit.

A vote costs six bytes while the run lasts: the item's place and the class. They become rows of `lf_votes` at the end,
function by function through a file that is mapped into memory, so that the rows themselves need no memory.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from warehouse import Append, Delete, Stage, Upsert, Write
from warehouse.files.spool import Spool
from weak_labels.applying.progress import TEXT, Flags, Pending, Rows
from weak_labels.functions.call import MAX_TIMEOUTS, WHOLE_FUNCTION, Limits, Outcome
from weak_labels.functions.types import LabelingFunction

FAULT_COLUMNS = ("item_id", "lf_name", "lf_version", "fault", "detail")


@dataclass(slots=True)
class Ballot:
    """What one function did in this run.

    Attributes:
        function: the function.
        version: its version in force.
        max_faults: more faults than this switch it off.
        total_items: items of the warehouse, for the words of a switch-off.
        off: why it was switched off; empty while it was not.
    """

    function: LabelingFunction
    version: str
    max_faults: int
    total_items: int
    places: list[npt.NDArray[np.int32]] = field(default_factory=list[npt.NDArray[np.int32]])
    votes: list[npt.NDArray[np.int16]] = field(default_factory=list[npt.NDArray[np.int16]])
    faults: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])
    timeouts: int = 0
    off: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """Name and version."""
        return self.function.name, self.version

    @property
    def cast(self) -> int:
        """Votes that count."""
        return 0 if self.off else sum(map(len, self.votes))

    def limits(self, timeout_s: float) -> Limits:
        """When the next call has to stop."""
        return Limits(
            timeout_s=timeout_s,
            max_faults=self.max_faults - len(self.faults),
            max_timeouts=MAX_TIMEOUTS - self.timeouts,
        )

    def add(self, start: int, item_ids: pa.Array, rows: Rows, outcome: Outcome) -> None:
        """Take what a call gave.

        Args:
            start: place of the batch's first item in this run.
            item_ids: ids of the batch's items.
            rows: the items of the batch that it was called on.
            outcome: its votes and faults.
        """
        voted = outcome.votes >= 0
        self.places.append((start + rows[voted]).astype(np.int32))
        self.votes.append(outcome.votes[voted].astype(np.int16))
        for fault in outcome.faults:
            # Calls run side by side and may bring more than the limit; what is stored must not depend on that.
            item_id = "" if fault.row == WHOLE_FUNCTION else item_ids[int(rows[fault.row])].as_py()
            self.faults.append((item_id, fault.fault, fault.detail))
            self.timeouts += fault.fault == "timeout"
            first = f"the first: {self.faults[0][1]}, {self.faults[0][2]}"
            if fault.row == WHOLE_FUNCTION:
                self.off = f"{fault.fault}: {fault.detail}"
            elif self.timeouts >= MAX_TIMEOUTS:
                self.off = f"{self.timeouts} calls took too long; {first}"
            elif len(self.faults) > self.max_faults:
                self.off = f"more than {self.max_faults} of {self.total_items} items failed; {first}"
            if self.off:
                self.places, self.votes = [], []
                return


@dataclass(slots=True)
class ItemLog:
    """The items of this run in their order, and what of them was new."""

    ids: list[pa.Array] = field(default_factory=list[pa.Array])
    hashes: list[pa.Array] = field(default_factory=list[pa.Array])
    new: list[pa.Table] = field(default_factory=list[pa.Table])
    changed: list[pa.Array] = field(default_factory=list[pa.Array])
    count: int = 0

    def add(self, pending: Pending, encoder_id: str) -> tuple[int, pa.Array]:
        """Note a batch; returns the place of its first item, and the ids of all."""
        ids = pa.concat_arrays(pending.items.column("item_id").chunks)
        self.ids.append(ids)
        self.hashes.append(pending.hashes)
        self.changed.append(_where(ids, pending.is_new))
        for flags, name in ((pending.is_new, TEXT), (pending.vector_is_new, encoder_id)):
            if flags.any():
                columns = {"item_id": _where(ids, flags), "input": pa.repeat(name, int(flags.sum()))}
                self.new.append(pa.table({**columns, "input_hash": _where(pending.hashes, flags)}))
        start = self.count
        self.count += len(ids)
        return start, ids

    def new_inputs(self) -> pa.Table:
        """Columns item_id, input and input_hash of what was new."""
        names = ("item_id", "input", "input_hash")
        return pa.concat_tables(self.new) if self.new else pa.table({n: pa.array([], pa.string()) for n in names})


def _where(values: pa.Array, flags: Flags) -> pa.Array:
    return values if flags.all() else values.filter(pa.array(flags))


@contextmanager
def vote_rows(ballots: Sequence[Ballot], log: ItemLog) -> Generator[pa.Table]:
    """The votes as rows of `lf_votes`, in a file that lasts as long as the context."""
    name_type = pa.dictionary(pa.int32(), pa.string())
    schema = pa.schema(
        {
            "item_id": pa.string(),
            "lf_name": name_type,
            "lf_version": name_type,
            "input_hash": pa.string(),
            "vote": pa.int32(),
        }
    )
    names = pa.array([ballot.function.name for ballot in ballots], pa.string())
    versions = pa.array([ballot.version for ballot in ballots], pa.string())
    # In one piece, since taking from many joins them anew for every function.
    ids, hashes = (pa.chunked_array(parts, pa.string()).combine_chunks() for parts in (log.ids, log.hashes))
    with Spool(schema) as spool:
        # Function by function, so that a later read of one function skips the others' row groups.
        for number, ballot in enumerate(ballots):
            if not ballot.cast:
                continue
            places = pa.array(np.concatenate(ballot.places))
            index = pa.array(np.full(ballot.cast, number, np.int32))
            columns = {
                "item_id": ids.take(places),
                "lf_name": pa.DictionaryArray.from_arrays(index, names),
                "lf_version": pa.DictionaryArray.from_arrays(index, versions),
                "input_hash": hashes.take(places),
                "vote": pa.array(np.concatenate(ballot.votes).astype(np.int32)),
            }
            spool.write(pa.table(columns, schema=schema))
        yield spool.table()


def vote_writes(
    stage: Stage, voters: set[tuple[str, str]] | None, kept: set[tuple[str, str]], changed: pa.Array, rows: pa.Table
) -> list[Write]:
    """Deletions of the votes that are no longer in force, and the new votes.

    Args:
        stage: the run.
        voters: name and version of all functions that can have stored votes; None asks the votes.
        kept: name and version of the functions whose stored votes stay.
        changed: ids of items whose stored votes were on another content.
        rows: the votes of this run.
    """
    known = voters
    if known is None:
        known = set(stage.rows("SELECT DISTINCT lf_name, lf_version FROM lf_votes"))
    stale = sorted(known - kept)
    names = [name for name, _ in stale]
    writes: list[Write] = []
    if stale and voters is not None:
        writes.append(Delete("lf_votes", pa.table({"lf_name": names})))
    elif stale:
        writes.append(Delete("lf_votes", pa.table({"lf_name": names, "lf_version": [version for _, version in stale]})))
    if len(changed) and len(stale) < len(known):
        writes.append(Delete("lf_votes", pa.table({"item_id": changed})))
    if rows.num_rows:
        # Where no vote of these functions is left there is no key to look for.
        alone = voters is not None and set(rows.column("lf_name").unique().to_pylist()) <= set(names)
        writes.append(Append("lf_votes", rows) if alone else Upsert("lf_votes", rows))
    return writes


def fault_writes(stage: Stage, ballots: Sequence[Ballot], *, any_stored: bool) -> list[Write]:
    """What makes `lf_faults` hold exactly the faults in force, of which there may be none yet."""
    stored = set(stage.rows(f"SELECT {', '.join(FAULT_COLUMNS)} FROM lf_faults")) if any_stored else set[Any]()
    in_force: set[tuple[str, ...]] = set()
    for ballot in ballots:
        in_force |= {(item_id, *ballot.key, fault, detail) for item_id, fault, detail in ballot.faults if item_id}
        if ballot.off:
            in_force.add(("", *ballot.key, "switched_off", ballot.off))
    writes: list[Write] = []
    if gone := sorted(stored - in_force):
        keys = [dict(zip(FAULT_COLUMNS[:3], row[:3], strict=True)) for row in gone]
        writes.append(Delete("lf_faults", pa.Table.from_pylist(keys)))
    if new := sorted(in_force - stored):
        rows = [dict(zip(FAULT_COLUMNS, row, strict=True)) for row in new]
        writes.append(Upsert("lf_faults", pa.Table.from_pylist(rows)))
    return writes
