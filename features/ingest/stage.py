"""The stage that reads the sources: classes, items and quarantine in one commit, only what is new or changed.

Counts add up by construction and are asserted: read = stored + quarantined + duplicate.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from features.ingest.classes import new_classes
from features.ingest.items import FLUSH_ROWS, HELD_SCHEMA, ITEM_SCHEMA, QUARANTINE_SCHEMA, Ledger, RowSpool
from features.readers.parquet import QUERY, read_parquet, read_query
from features.readers.record import Fault, Record, fault
from features.readers.source import SourceChanged, SourceConfig, SourceFile, find_files
from features.readers.text_file import read_text_file
from warehouse import Lake, Progress, Reader, SettingsError, StageResult, Upsert, silent

STAGE = "ingest"
VERSION = 2
"""2: floats that were rounded are no ids; a .csv may be separated by ; or tab."""
PROGRESS_RECORDS = 2000
LEAST_TEXTS = 10
"""Texts of stored items from which on it is no chance that a read has all of them under other ids; canned messages of a
stream have fewer, and come again each day."""
NEARLY_ALL = 0.9
"""Share of these texts that is enough: a few are edited or taken out between two exports."""
MOST_FILES = 20
"""Files that the detail of a fault names."""
PREFIXED = """query = "SELECT 'b-' || id AS id, * EXCLUDE (id) FROM 'data/b.csv'" in place of its path"""
"""Setting of a source whose ids another one has too."""

_FaultKey = tuple[str, int, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestConfig:
    """What the ingest stage reads.

    Attributes:
        root: project folder; paths of sources are relative to it.
        classes: names of the classes; the place in the tuple is the class_id.
        multi_label: an item may have several classes or none.
        sources: where raw records come from.

    Raises:
        SettingsError: names are empty or repeated.
    """

    root: Path
    classes: tuple[str, ...]
    sources: tuple[SourceConfig, ...]
    multi_label: bool = False

    def __post_init__(self) -> None:
        _check_names("class", self.classes, "classes")
        _check_names("source", tuple(s.name for s in self.sources), "sources")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Input:
    """A source with the files it named when the stage began and a digest of what they held."""

    source: SourceConfig
    files: tuple[SourceFile, ...]
    states: tuple[tuple[int, int, int], ...]
    digests: Mapping[str, str]
    sizes: Mapping[str, int]


def ingest(lake: Lake, config: IngestConfig, progress: Progress = silent) -> StageResult:
    """Read all sources and store what is new or changed.

    Args:
        lake: the warehouse.
        config: classes and sources.
        progress: told the bytes read of all bytes in files.

    Returns:
        The result; `detail` counts records: read, stored, quarantined, duplicate; and as `missing` the stored items
        that are not among these any more, where there are such. `advice` names fields that no record has.

    Raises:
        SettingsError: a source or column does not exist, a class was renamed or removed, `multi_label` was changed
            after people answered, or the records are those of before under other ids.
        DataError: a query failed.
        SourceChanged: a file was written to, or went away, meanwhile.
    """
    inputs = [_inspect(source, config.root) for source in config.sources]
    params: dict[str, Any] = {
        "classes": list(config.classes),
        "sources": [{**asdict(i.source), "content": dict(i.digests)} for i in inputs],
    }
    if config.multi_label:
        params["multi_label"] = True
    with lake.stage(STAGE, version=VERSION, inputs=(), params=params) as stage:
        if stage.done:
            return stage.result()
        classes = new_classes(stage, config.classes, multi_label=config.multi_label)
        with RowSpool(ITEM_SCHEMA) as items, RowSpool(QUARANTINE_SCHEMA) as quarantine, RowSpool(HELD_SCHEMA) as held:
            faults = _Faults(stage, quarantine)
            intake = _Intake(stage, items, faults, held, sources=len(inputs))
            counts = _read_all(intake, inputs, config.root, progress)
            writes = [
                Upsert("classes", classes),
                Upsert("items", items.table()),
                Upsert("quarantine", faults.table()),
            ]
            return stage.commit(writes, rows_read=counts["read"], detail=counts)


def read_source(
    source: SourceConfig, files: tuple[SourceFile, ...], root: Path, consumed: Callable[[int], None]
) -> Iterator[tuple[str, Record | Fault]]:
    """Records and faults of one source in order, each with the name of its file.

    Args:
        source: its settings.
        files: its files, empty for a query.
        root: project folder.
        consumed: told the bytes read of all its files.

    Raises:
        SettingsError: a file or the query lacks a column.
        DataError: the query failed.
        SourceChanged: a file is gone.
    """
    if source.query:
        for entry in read_query(source, root):
            yield QUERY, entry
    done = 0
    for file in files:
        if file.format == "parquet":
            entries = read_parquet(file, source, root, lambda n, done=done: consumed(done + n))
        else:
            entries = read_text_file(file, source, lambda n, done=done: consumed(done + n))
        for entry in entries:
            yield file.name, entry
        done += file.state()[0]
        consumed(done)


def _read_all(intake: "_Intake", inputs: list[_Input], root: Path, progress: Progress) -> dict[str, Any]:
    total = sum(size for i in inputs for size, _, _ in i.states)
    counts = intake.counts
    done = 0
    shown = _Shown(progress, total)
    advice: list[str] = []
    for one in inputs:
        unseen = dict.fromkeys(name for name in (one.source.id, one.source.split, *one.source.metadata) if name)
        records = False
        digest = hashlib.sha256()
        for name, entry in read_source(one.source, one.files, root, lambda n, done=done: shown.at(done + n)):
            counts["read"] += 1
            if counts["read"] % PROGRESS_RECORDS == 0:
                shown.show()
            if one.source.query:
                _hash_entry(digest, entry)
            if isinstance(entry, Record):
                records = True
                for field in _filled(entry, one.source) if unseen else ():
                    unseen.pop(field or "", None)
                intake.judge(entry, one.source.name, name)
            else:
                intake.refuse(_about_file(entry, name, one), one.source.name, name)
        done += sum(size for size, _, _ in one.states)
        _check_unchanged(one, digest.hexdigest())
        if records and unseen:
            fields = ", ".join(map(repr, unseen))
            advice.append(f"No record of source '{one.source.name}' has {fields}. Look at its names in siftline.toml.")
    intake.judge_held()
    intake.check_ids()
    if missing := intake.missing():
        counts["missing"] = missing
    shown.at(total)
    shown.show()
    assert counts["read"] == counts["stored"] + counts["quarantined"] + counts["duplicate"], counts
    return {**counts, "advice": " ".join(advice)} if advice else counts


def _filled(record: Record, source: SourceConfig) -> set[str | None]:
    """The fields of its source that a record has; of JSON each may lack some, so nobody sees that a name is wrong."""
    id_field = source.id if record.id is not None else None
    return {*json.loads(record.metadata), id_field, source.split if record.has_split else None}


class _Intake:
    """What becomes of each entry of a read: rows of items and quarantine, and counts."""

    def __init__(self, stage: Reader, items: RowSpool, faults: "_Faults", held: RowSpool, *, sources: int) -> None:
        known = stage.batches("SELECT item_id, content_hash, split, metadata FROM items", rows=FLUSH_ROWS)
        self._ledger = Ledger(
            row for batch in known for row in zip(*(column.to_pylist() for column in batch.columns), strict=True)
        )
        self._items, self._faults, self._held = items, faults, held
        self._several = sources > 1
        self.counts = {"read": 0, "stored": 0, "quarantined": 0, "duplicate": 0}

    def judge(self, record: Record, source: str, name: str, *, last: bool = False) -> None:
        """Take a record; `last` says that the whole read is known."""
        item_id, verdict = self._ledger.judge(record, last=last)
        if verdict == "stored":
            self.counts["stored"] += 1
            self._items.add(_item_row(item_id, record, source), size=len(record.text) + len(record.metadata))
        elif verdict == "conflict":
            detail = f"the id {item_id[:80]!r} stands earlier in this read with another content"
            if self._several:
                detail += f"; all sources share one set of ids, so give those of one a prefix: {PREFIXED}"
            self.refuse(fault(record.position, "duplicate_id_conflict", detail, record.raw), source, name)
        elif verdict == "other_split":
            detail = f"this {record.split} record stands elsewhere in this read in another split, where it stays"
            if self._several:
                detail += f"; to have it in {record.split}, name its source above the other in siftline.toml"
            self.refuse(fault(record.position, "other_split", detail, record.raw), source, name)
        elif verdict == "duplicate":
            self.counts["duplicate"] += 1
        else:
            self._held.add((source, name, *record), size=len(record.text) + len(record.metadata) + len(record.raw))

    def judge_held(self) -> None:
        """Take the records that were held until all others were read."""
        for source, name, *record in self._held.rows():
            self.judge(Record(*record), source, name, last=True)

    def check_ids(self) -> None:
        """Refuse the records of before under other ids: nothing would ever take the second ones away again.

        Raises:
            SettingsError: all stored items are missing, and nearly all their texts are there; a few may be by chance.
        """
        there, stored = self._ledger.under_other_ids()
        if there >= max(LEAST_TEXTS, NEARLY_ALL * stored):
            texts = f"all their {stored:,} texts" if there == stored else f"{there:,} of their {stored:,} texts"
            raise SettingsError(
                f"None of the stored items is among the records, and {texts} are, under other ids. "
                "They would be stored a second time, without the answers that people gave. Put the former ids back, or "
                "name their column as id under [[sources]]. Where no column keeps its ids, leave id out: then records "
                "are known by their texts. To take the new ids, begin another warehouse, and take people's labels "
                "along by their texts: siftline docs operations 'What was edited or is gone'"
            )

    def missing(self) -> int:
        """Stored items that nothing in this read was about."""
        return self._ledger.missing()

    def refuse(self, entry: Fault, source: str, name: str) -> None:
        """Take what could not be read."""
        self.counts["quarantined"] += 1
        self._faults.add(entry, source, name)


class _Faults:
    """Faults on their way to the quarantine: what several files have at the same place is one row that names them."""

    def __init__(self, stage: Reader, spool: RowSpool) -> None:
        self._stage, self._spool = stage, spool
        rows = stage.rows("SELECT source, position, raw_hash, reason FROM quarantine")
        self._stored = {(source, position, raw_hash): reason for source, position, raw_hash, reason in rows}
        self._file: dict[_FaultKey, str] = {}
        self._shared: dict[_FaultKey, tuple[Fault, list[str]]] = {}

    def add(self, entry: Fault, source: str, name: str) -> None:
        """Take a fault that a file of a source has."""
        key = (source, entry.position, entry.raw_hash)
        first = self._file.setdefault(key, name)
        if first != name:
            self._shared.setdefault(key, (entry, [first]))[1].append(name)
        elif self._stored.get(key) != entry.reason:
            self._stored[key] = entry.reason
            self._spool.add(_quarantine_row(entry, source, name), size=len(entry.detail))

    def table(self) -> pa.Table:
        """The rows that the quarantine lacks."""
        table = self._spool.table()
        if not self._shared:
            return table
        keys = zip(*(table.column(name).to_pylist() for name in ("source", "position", "raw_hash")), strict=True)
        alone = table.filter(pa.array([key not in self._shared for key in keys], pa.bool_()))
        rows = [
            _quarantine_row(entry, source, _named(names)) for (source, _, _), (entry, names) in self._shared.items()
        ]
        known = set(
            self._stage.rows(
                f"SELECT {', '.join(QUARANTINE_SCHEMA.names)} FROM quarantine WHERE raw_hash IN (SELECT unnest(?))",
                [sorted({raw_hash for _, _, raw_hash in self._shared})],
            )
        )
        fresh = [dict(zip(QUARANTINE_SCHEMA.names, row, strict=True)) for row in rows if row not in known]
        return pa.concat_tables([alone, pa.Table.from_pylist(fresh, QUARANTINE_SCHEMA)])


def _named(files: list[str]) -> str:
    more = len(files) - MOST_FILES
    return ", ".join(files[:MOST_FILES]) + (f" and {more} more" if more > 0 else "")


class _Shown:
    """Progress that is passed on now and then."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0

    def at(self, done: int) -> None:
        self._done = done

    def show(self) -> None:
        if self._total:
            self._progress(min(self._done, self._total), self._total)


def _inspect(source: SourceConfig, root: Path) -> _Input:
    if source.query:
        digest = hashlib.sha256()
        for entry in read_query(source, root):
            _hash_entry(digest, entry)
        return _Input(source=source, files=(), states=(), digests={QUERY: digest.hexdigest()}, sizes={})
    files = tuple(find_files(source, root))
    # The state is taken before the hash, so that a change between the two is noticed.
    states = tuple(file.state() for file in files)
    sizes = {file.name: size for file, (size, _, _) in zip(files, states, strict=True)}
    return _Input(source=source, files=files, states=states, digests={f.name: f.sha256() for f in files}, sizes=sizes)


def _check_unchanged(one: _Input, digest: str) -> None:
    if one.source.query:
        if one.digests[QUERY] != digest:
            raise SourceChanged(
                f"Source '{one.source.name}': the query gave other rows the second time. Add ORDER BY and leave out "
                "random values, or run again when nobody writes to its files."
            )
        return
    for file, state in zip(one.files, one.states, strict=True):
        if file.state() != state:
            raise SourceChanged(
                f"Source '{one.source.name}': {file.path} changed while it was read; nothing was stored. Run again."
            )


def _hash_entry(digest: Any, entry: Record | Fault) -> None:
    digest.update(repr(entry).encode("utf-8", "surrogatepass"))


def _about_file(entry: Fault, name: str, one: _Input) -> Fault:
    """A fault of the file as a whole carries the hash and size of the file."""
    if entry.position or one.source.query:
        return entry
    return entry._replace(raw_hash=one.digests[name], raw_bytes=one.sizes[name])


def _item_row(item_id: str, record: Record, source: str) -> tuple[Any, ...]:
    return (
        item_id,
        record.text,
        record.content_hash,
        "text",
        source,
        record.position,
        record.metadata,
        record.split,
    )


def _quarantine_row(entry: Fault, source: str, name: str) -> tuple[Any, ...]:
    # Parts of bad records stand in the detail, and half a surrogate pair cannot be stored.
    detail = f"{name}: {entry.detail}".encode("utf-8", "backslashreplace").decode("utf-8")
    return (source, entry.position, entry.reason, detail, entry.raw_hash, entry.raw_bytes)


def _check_names(what: str, names: tuple[str, ...], setting: str) -> None:
    repeated = sorted(name for name, times in Counter(names).items() if times > 1)
    if not names or repeated or any(not n.strip() for n in names):
        raise SettingsError(
            f"{setting} must be at least one {what} with distinct names that are not empty; found {list(names)}"
            + (f", repeated: {repeated}." if repeated else ".")
        )
