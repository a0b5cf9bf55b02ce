"""A stage's view of the warehouse: one snapshot to read, one token, one commit.

`Lake.stage` gives a `Stage`. Its fingerprint is a hash of what the stage would do (name, code version, settings,
versions of its inputs), so running a stage twice finds the fingerprint of its last commit and does nothing.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import duckdb
import pyarrow as pa

from warehouse.queries.reader import Reader
from warehouse.text import three_decimals

Progress = Callable[[int, int], None]
"""Called with (done, total) while a stage works."""


def silent(done: int, total: int) -> None:
    """A `Progress` that shows nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageResult:
    """What one run of a stage did.

    Attributes:
        committed: True when this call wrote; False when there was nothing to do or it had been done before.
        rows_written: rows per table that this call wrote.
    """

    stage: str
    token: str
    committed: bool
    rows_read: int = 0
    rows_written: Mapping[str, int] = field(default_factory=dict[str, int])
    detail: Mapping[str, Any] = field(default_factory=dict[str, Any])
    seconds: float = 0.0

    def counted(self) -> dict[str, str]:
        """The counts of this call, in words; none where all was done before, since `detail` then tells of that time."""
        if self.token and not self.committed:
            return {}
        counts = {key.replace("_", " "): n for key, n in self.detail.items() if isinstance(n, int | float) and n}
        return {key: f"{n:,}" if isinstance(n, int) else three_decimals(n) for key, n in counts.items()}


@dataclass(frozen=True, slots=True)
class Append:
    """Rows to add to a table."""

    table: str
    rows: pa.Table


@dataclass(frozen=True, slots=True)
class Upsert:
    """Rows to write to a table by its key: a row with an equal key is replaced."""

    table: str
    rows: pa.Table


@dataclass(frozen=True, slots=True)
class Delete:
    """Rows to remove from a table: those that equal one of `rows` in all columns that `rows` has.

    Writes happen in the order given, so a delete after an upsert also sees the upserted rows.
    """

    table: str
    rows: pa.Table


Write = Append | Upsert | Delete


class Committer(Protocol):
    """What a stage needs of the warehouse it belongs to; `Lake` is one."""

    def new_cursor(self, *, begin: bool = False) -> duckdb.DuckDBPyConnection:
        """A cursor of its own, in a transaction where `begin` says so."""
        ...

    def commit_stage(
        self,
        stage: "Stage",
        writes: Sequence[Write],
        *,
        rows_read: int,
        detail: Mapping[str, Any],
        message: str,
        in_turn: bool,
    ) -> StageResult:
        """Write a stage's rows and its row of `runs` in one transaction."""
        ...


class Stage(Reader):
    """One run of a stage. Made by `Lake.stage`; see `docs/architecture.md`.

    Attributes:
        fingerprint: hash of the stage's name, version, settings and input versions.
        token: the idempotence token, a hash of the fingerprint and the stage's last token; its first 12 characters
            serve as ids of models made by this stage.
        done: the stage's last commit had this fingerprint and left nothing, so there is nothing to do.
        previous: token of the stage's last commit; empty before the first.
        last_detail: what the stage's last commit told in its `detail`; empty before the first.
    """

    def __init__(
        self,
        lake: Committer,
        name: str,
        *,
        version: int,
        inputs: Sequence[str],
        params: Mapping[str, Any],
        unfinished: Callable[[Mapping[str, Any]], bool],
    ) -> None:
        super().__init__(lake.new_cursor(begin=True), begun=True)
        self.lake = lake
        self.name = name
        self.started_at = datetime.now(UTC)
        self._began = time.monotonic()  # a clock may be set meanwhile
        tables = sorted(inputs)
        last = [newest("token", "list_contains(tables, ?)") for _ in tables]
        last += [newest(column, "stage = ?") for column in ("token", "fingerprint", "detail")]
        try:
            row = self.rows(f"SELECT {', '.join(last)} FROM runs", [*tables, name, name, name])[0]
        except BaseException:
            self.close()  # nobody else can, and what is left in a transaction ends the process: see `away.close`
            raise
        self.input_versions = {table: str(token or "") for table, token in zip(tables, row, strict=False)}
        self.fingerprint = hash_token(
            {"stage": name, "version": version, "params": dict(params), "inputs": self.input_versions}
        )
        previous, fingerprint, detail = row[len(tables) :]
        self.previous = str(previous or "")
        self.last_detail: dict[str, Any] = json.loads(detail) if detail else {}
        self.done = fingerprint == self.fingerprint and not unfinished(self.last_detail)
        # The stage's last commit is part of the token: a setting that is changed and changed back is work again.
        after = {"fingerprint": self.fingerprint, "after": self.previous}
        self.token = self.previous if self.done else hash_token(after)

    @property
    def short_token(self) -> str:
        """First 12 hexadecimal characters of the token, used as model ids."""
        return self.token[:12]

    def result(self) -> StageResult:
        """Result of a run that had been committed before."""
        detail = self.scalar("SELECT detail FROM runs WHERE token = ?", [self.token])
        return self.nothing(**json.loads(detail or "{}"))

    def nothing(self, **detail: Any) -> StageResult:
        """Result of a run that found nothing to do; nothing is written."""
        return StageResult(stage=self.name, token=self.token, committed=False, detail=detail, seconds=self.elapsed_s())

    def commit(
        self,
        writes: Sequence[Write] = (),
        *,
        rows_read: int = 0,
        detail: Mapping[str, Any] | None = None,
        message: str = "",
        in_turn: bool = False,
    ) -> StageResult:
        """Write all tables and this run's row in one transaction.

        Args:
            writes: rows per table; empty tables are left out. Columns `run_id` and `committed_at` are added.
            rows_read: rows or records the stage worked on.
            detail: further counts, stored as JSON.
            message: one line for the snapshot's history; made from the counts when empty.
            in_turn: refuse where another run of this stage committed since this one began: for writes that are right
                only beside what the stage had written then.

        Returns:
            The result; `committed` is False when another process had committed this token in the meantime.

        Raises:
            Overtaken: `in_turn`, and another run was faster; nothing was written.
            CommitFailed: nothing was written after all retries.
        """
        return self.lake.commit_stage(
            self, writes, rows_read=rows_read, detail=detail or {}, message=message, in_turn=in_turn
        )

    def elapsed_s(self) -> float:
        """Seconds since the stage began."""
        return time.monotonic() - self._began


def last_token(reader: Reader, table: str) -> str:
    """Token of the last commit that wrote a table, as a reader sees it; empty when none did."""
    return str(reader.scalar(f"SELECT {newest('token', 'list_contains(tables, ?)')} FROM runs", [table]) or "")


def newest(column: str, where: str) -> str:
    """SQL for a column of the newest run that meets a condition; ORDER BY with LIMIT makes DuckDB read `runs` twice."""
    return f"first({column} ORDER BY committed_at DESC, token) FILTER ({where})"


def hash_token(value: Mapping[str, Any]) -> str:
    """sha256 of a value as canonical JSON, hexadecimal."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
