"""Which records become items: identity, duplicates, conflicts, and rows held outside memory until the one commit."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import pyarrow as pa

from features.readers.record import Record
from features.readers.source import SPLITS
from warehouse.files.spool import Spool

FLUSH_ROWS = 4096
FLUSH_BYTES = 16 << 20
CONTENT_BYTES = 32
SPLIT_BYTES = CONTENT_BYTES + 1

ITEM_SCHEMA = pa.schema(
    [
        ("item_id", pa.string()),
        ("content", pa.string()),
        ("content_hash", pa.string()),
        ("modality", pa.string()),
        ("source", pa.string()),
        ("position", pa.int64()),
        ("metadata", pa.string()),
        ("split", pa.string()),
    ]
)
QUARANTINE_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("position", pa.int64()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("raw_hash", pa.string()),
        ("raw_bytes", pa.int64()),
    ]
)
HELD_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("file", pa.string()),
        ("position", pa.int64()),
        ("text", pa.string()),
        ("content_hash", pa.string()),
        ("id", pa.string()),
        ("split", pa.string()),
        ("metadata", pa.string()),
        ("raw", pa.binary()),
        ("has_split", pa.bool_()),
    ]
)
"""A `Record` with its source and file."""

SPLIT_CODES = {split: bytes([number]) for number, split in enumerate(SPLITS)}

Verdict = Literal["stored", "duplicate", "conflict", "other_split", "held"]


class Ledger:
    """Knows the stored items and decides about each record of one read.

    - an id that is new, or whose content, split or metadata changed since an earlier read: stored;
    - an id that this read met before: duplicate when content and split are equal, else a conflict or of another split;
    - a record without an id: the same under its content hash; held while another item has its content, since this read
      may bring that item another one. What is still held at the end is a duplicate, or of another split.

    Args:
        known: (item_id, content_hash, split, metadata) of every stored item.
    """

    def __init__(self, known: Iterable[tuple[str, str, str, str]]) -> None:
        self._held: dict[str, bytes] = {}  # as stored, or as this read gave it
        self._holders: Counter[bytes] = Counter()  # how many items hold a content in a split
        self._met: set[str] = set()
        self._met_contents: set[bytes] = set()  # of records without an id whose content an item with one has
        for item_id, content_hash, split, metadata in known:
            self._hold(item_id, _fingerprint(content_hash, split, metadata))
        self._known = len(self._held)

    def judge(self, record: Record, *, last: bool = False) -> tuple[str, Verdict]:
        """The item's id and what becomes of the record; `last` says that the whole read is known."""
        content = bytes.fromhex(record.content_hash)
        item_id = record.content_hash if record.id is None else record.id
        held = self._held.get(item_id, b"")
        same = held.startswith(content)
        now = _fingerprint(record.content_hash, record.split, record.metadata)
        if record.id is None and not same and self._held_by(content):
            self._met_contents.add(content)
            if not last:
                return item_id, "held"
            return item_id, "duplicate" if now[:SPLIT_BYTES] in self._holders else "other_split"
        if item_id in self._met:  # a caller's id may look like the hash of another content; who came first keeps it
            if not same:
                return item_id, "conflict"
            return item_id, "duplicate" if held.startswith(now[:SPLIT_BYTES]) else "other_split"
        self._met.add(item_id)
        if now == held:
            return item_id, "duplicate"
        self._hold(item_id, now)
        return item_id, "stored"

    def missing(self) -> int:
        """How many stored items no record of this read was about."""
        return sum(
            item_id not in self._met and held[:CONTENT_BYTES] not in self._met_contents
            for item_id, held in self._held.items()
        )

    def under_other_ids(self) -> tuple[int, int]:
        """Of how many stored texts, where this read has none of their items, it has as many more under other ids."""
        if not self._known or self.missing() < self._known:
            return 0, 0
        stored = Counter(held[:CONTENT_BYTES] for item_id, held in self._held.items() if item_id not in self._met)
        return sum(self._held_by(content) >= 2 * n for content, n in stored.items()), len(stored)

    def _held_by(self, content: bytes) -> int:
        """How many items hold a content."""
        return sum(self._holders[content + code] for code in SPLIT_CODES.values())

    def _hold(self, item_id: str, now: bytes) -> None:
        before = self._held.get(item_id, b"")[:SPLIT_BYTES]
        self._held[item_id] = now
        self._holders[now[:SPLIT_BYTES]] += 1
        if before:
            self._holders[before] -= 1
            if not self._holders[before]:
                del self._holders[before]


class RowSpool(Spool):
    """A spool that takes single rows, of which it holds some in memory.

    Args:
        schema: columns of the table.
    """

    def __init__(self, schema: pa.Schema) -> None:
        super().__init__(schema)
        self._schema = schema
        self._rows: list[tuple[Any, ...]] = []
        self._bytes = 0

    def add(self, row: tuple[Any, ...], *, size: int) -> None:
        """Add one row in the order of the schema; `size` is about its bytes."""
        self._rows.append(row)
        self._bytes += size
        if len(self._rows) >= FLUSH_ROWS or self._bytes >= FLUSH_BYTES:
            self._flush()

    def table(self) -> pa.Table:
        """All rows; the table reads from the file, which must stay open. No row can be added afterwards."""
        self._flush()
        return super().table()

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """All rows in their order, after which none can be added."""
        for batch in self.table().to_batches():
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)

    def _flush(self) -> None:
        if self._rows:
            columns = zip(*self._rows, strict=True)
            arrays = [pa.array(c, f.type) for c, f in zip(columns, self._schema, strict=True)]
            self.write(pa.table(arrays, schema=self._schema))
        self._rows, self._bytes = [], 0


def _fingerprint(content_hash: str, split: str, metadata: str) -> bytes:
    """The content's hash, behind its `CONTENT_BYTES` the split in one, and then a hash of the metadata."""
    return bytes.fromhex(content_hash) + SPLIT_CODES[split] + hashlib.sha256(metadata.encode()).digest()[:16]
