"""What the labeling functions have been applied to, kept as one row per function instead of one per pair.

An abstain is not stored. So that an item without a vote can be told from an item that nobody asked about, `lf_inputs`
numbers the batch in which an item's present content (and, for functions on vectors, its vector) was first put before
the functions, and `lf_reach` holds for each function the last batch it has been through. Whatever lies up to there
has been asked, except the items in `lf_faults`. New items get a new number; a changed function starts again at 0.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from warehouse import Delete, Reader, Stage, Upsert, Write

TEXT = "text"
"""Value of `input` for functions that see contents and metadata; functions on vectors have the encoder's id."""

_HASH_OF_BOTH = "left(md5(concat_ws('|', i.content_hash, i.metadata)), 16)"
INPUT_HASH = f"CASE WHEN i.metadata = '{{}}' THEN left(i.content_hash, 16) ELSE {_HASH_OF_BOTH} END"
"""SQL over `items i`: changes when an item's content or metadata does."""

VECTORS = "LEFT JOIN vectors x ON x.item_id = i.item_id AND x.encoder_id = ? AND x.content_hash = i.content_hash"
FETCHED_BYTES = 2**29
"""What items that are fetched at a time may hold, were all as long as the longest: Arrow's strings end at 2 GiB. More
fetches take longer: one of 500 items twice as long for each item as one of 5,000."""
MATCHES = 500
"""Items that are fetched at a time where a screen leaves few."""
MOST_BYTES = 64 * 2**20
"""A batch of this size is large enough, however few items it has."""
_FOREVER = 2**31 - 1
_REACH_COLUMNS = pa.schema(
    {"lf_name": pa.string(), "lf_version": pa.string(), "input": pa.string(), "batch": pa.int32(), "items": pa.int32()}
)

Flags = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]


def _is_of_item(noted: str) -> str:
    """SQL: a row of `lf_inputs` is about what the item is now; earlier versions wrote the hash of both."""
    return f"({noted}.input_hash = {INPUT_HASH} OR {noted}.input_hash = {_HASH_OF_BOTH})"


def fetched_at_once(reader: Reader, rows: int) -> int:
    """How many items may be fetched at a time, at most `rows`."""
    longest = reader.scalar("SELECT max(greatest(strlen(content), strlen(metadata))) FROM items") or 1
    return max(min(rows, FETCHED_BYTES // longest), 1)


def item_tables(
    reader: Reader, sql: str, params: Sequence[object], *, rows: int, fetched: int, least_bytes: int = 0
) -> Iterator[pa.Table]:
    """The items of a query, about `rows` and `least_bytes` of them at a time, or `MOST_BYTES` where these are fewer.

    Args:
        reader: the warehouse.
        sql: a query of items.
        params: of the query.
        rows: items of a table.
        fetched: items that are fetched at a time, see `fetched_at_once`.
        least_bytes: of a table.
    """
    held: list[pa.Table] = []
    count = size = 0
    for part in reader.batches(sql, params, rows=fetched):
        held.append(part)
        count, size = count + part.num_rows, size + part.nbytes
        if (count >= rows and size >= least_bytes) or size >= MOST_BYTES:
            yield pa.concat_tables(held)
            held, count, size = [], 0, 0
    if held:
        yield pa.concat_tables(held)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A function as the reach knows it: equal name, version and input mean equal votes on equal items.

    Attributes:
        name: name of the function.
        version: version in force.
        input: `TEXT` or an encoder's id.
    """

    name: str
    version: str
    input: str


@dataclass(slots=True)
class Pending:
    """Items that at least one function has to be called on, N of them.

    Attributes:
        items: columns item_id, content, metadata and, where vectors are asked for, vector.
        hashes: input hash of each item [N].
        is_new: nobody has seen this content yet [N].
        vector_is_new: nobody has seen this vector yet [N]; False where there is none.
        calls: whether a function has to be called on an item [N, L].
    """

    items: pa.Table
    hashes: pa.Array
    is_new: Flags
    vector_is_new: Flags
    calls: Flags


class Reach:
    """The reach of the functions in force, as a run finds it and as it leaves it.

    Args:
        stage: the run of the vote stage.
        asked: the functions in force.
        encoder_id: encoder whose vectors count.
        needs_vectors: whether any function works on vectors.
    """

    def __init__(self, stage: Stage, asked: Sequence[Asked], encoder_id: str, *, needs_vectors: bool) -> None:
        self._stage = stage
        self._asked = asked
        self._encoder_id = encoder_id
        self._needs_vectors = needs_vectors
        self._stored = {
            name: (Asked(name=name, version=version, input=input_), int(batch), int(items))
            for name, version, input_, batch, items in stage.rows(
                "SELECT lf_name, lf_version, input, batch, items FROM lf_reach"
            )
        }
        # The last batch that each function has been through [L]; 0 for a new or changed one.
        self.through = np.array([self._through(function) for function in asked], np.int64)
        # Nothing was written since the last run, and that run had put the present encoder's vectors before functions.
        self._settled = stage.last_detail.get("read", {}) == dict(stage.input_versions) and (
            not needs_vectors or any(known.input == encoder_id for known, _, _ in self._stored.values())
        )
        # That run left all functions that it did not switch off at the last batch.
        told = self._settled and self._stored
        noted = None if told else stage.scalar("SELECT max(batch) FROM lf_inputs")
        self._last = max([noted or 0, *(batch for _, batch, _ in self._stored.values())])
        # One by one, since DuckDB takes twice the time for the same questions in one statement.
        faults, of_items = stage.rows("SELECT count(*), count(*) FILTER (item_id <> '') FROM lf_faults")[0]
        self.any_in_faults = faults > 0
        self._any_faults = of_items > 0
        self.total_items = int(stage.scalar("SELECT count(*) FROM items"))
        # Otherwise each item is compared with what is noted of it, if anything is.
        self._compare = not self._settled and self._last > 0
        self.with_vector = self._count_vectors() if needs_vectors else 0

    def kept(self, place: int) -> bool:
        """Whether the stored votes of a function are still its votes."""
        return self.through[place] > 0

    @property
    def voters(self) -> set[tuple[str, str]] | None:
        """Name and version of all functions that may have stored votes; None where only the votes themselves can tell.

        A warehouse of schema 1 has votes of several versions of a function, until the first run.
        """
        return {(known.name, known.version) for known, _, _ in self._stored.values()} if self._settled else None

    def behind(self) -> list[int]:
        """Places of the functions that have to be called on items which were put before others already."""
        return np.flatnonzero(self.through < self._last).tolist()

    @property
    def nothing_new(self) -> bool:
        """Whether all items were put before functions before, so that only changed functions have to be called."""
        return self._settled and not self._any_faults

    def pending_items(self) -> int:
        """How many items `pending` will give without a screen."""
        if not self.through.all():
            return self.total_items  # a function that has seen nothing has to see everything
        sql, params = self._query("count(*)")
        return int(self._stage.scalar(sql, params))

    def pending(self, rows: int, *, ordered: bool, least_bytes: int = 0, screen: str = "") -> Iterator[Pending]:
        """Items to call functions on, in batches as of `item_tables`.

        By item_id where the order matters. With a `screen` only those whose text matches that pattern: where there is
        `nothing_new` and all functions that are `behind` abstain on the others.
        """
        text_batch, vector_batch = self._batches()
        vector = f", x.vector, {vector_batch} AS vector_batch" if self._needs_vectors else ""
        retry = "r.places" if self._any_faults else "NULL::INT[]"
        sql, params = self._query(
            f"i.item_id, i.content, i.metadata, {INPUT_HASH} AS input_hash, {text_batch} AS text_batch, "
            f"{retry} AS retry{vector}"
        )
        if screen:
            sql, params = f"{sql} AND regexp_matches(i.content, ?)", [*params, screen]
        sql += " ORDER BY i.item_id" if ordered else ""
        # Few items match a screen, and to ask how long they are would take longer than to fetch them in small parts.
        fetched = min(rows, MATCHES) if screen else fetched_at_once(self._stage, rows)
        tables = item_tables(self._stage, sql, params, rows=rows, fetched=fetched, least_bytes=least_bytes)
        yield from map(self._to_pending, tables)

    def writes(self, hashes: pa.Table, off: Flags, faulted: Sequence[int]) -> list[Write]:
        """What is to be written once all pending items were called.

        Args:
            hashes: columns item_id, input and input_hash of what was new.
            off: functions that were switched off [L]; they have no reach.
            faulted: items on which each function failed [L].
        """
        writes: list[Write] = []
        stale = self._stale() if self._compare else None
        batch = self._last + 1 if hashes.num_rows else self._last
        if stale is not None and stale.num_rows:
            writes.append(Delete("lf_inputs", stale))
        if hashes.num_rows:
            number = pa.array(np.full(hashes.num_rows, batch, np.int32))
            writes.append(Upsert("lf_inputs", hashes.append_column("batch", number)))
        now = {
            asked.name: (asked, batch, self._items(asked) - faulted[place])
            for place, asked in enumerate(self._asked)
            if not off[place]
        }
        if gone := sorted(self._stored.keys() - now.keys()):
            writes.append(Delete("lf_reach", pa.table({"lf_name": gone})))
        if changed := [row for name, row in now.items() if self._stored.get(name) != row]:
            rows = [(a.name, a.version, a.input, number, items) for a, number, items in changed]
            columns = zip(_REACH_COLUMNS, zip(*rows, strict=True), strict=True)
            writes.append(Upsert("lf_reach", pa.table([pa.array(v, f.type) for f, v in columns], _REACH_COLUMNS)))
        return writes

    def gone_items(self) -> list[str]:
        """Items that were voted on and are no longer in the warehouse."""
        if not self._compare:
            return []
        return [
            row[0]
            for row in self._stage.rows(
                "SELECT DISTINCT b.item_id FROM lf_inputs b ANTI JOIN items i ON i.item_id = b.item_id ORDER BY 1"
            )
        ]

    def _stale(self) -> pa.Table:
        return self._stage.arrow(
            f"SELECT b.item_id, b.input FROM lf_inputs b LEFT JOIN items i ON i.item_id = b.item_id "
            f"WHERE i.item_id IS NULL OR NOT {_is_of_item('b')} OR b.input NOT IN ('{TEXT}', ?)",
            [self._encoder_id],
        )

    def _through(self, function: Asked) -> int:
        stored = self._stored.get(function.name)
        return stored[1] if stored is not None and stored[0] == function else 0

    def _items(self, asked: Asked) -> int:
        return self.total_items if asked.input == TEXT else self.with_vector

    def _count_vectors(self) -> int:
        return int(self._stage.scalar(f"SELECT count(x.item_id) FROM items i {VECTORS}", [self._encoder_id]))

    def _batches(self) -> tuple[str, str]:
        """SQL for the batch of an item's content and of its vector; 0 for what is new."""
        if self._compare:
            batches = [f"CASE WHEN {_is_of_item(noted)} THEN {noted}.batch ELSE 0 END" for noted in ("b", "c")]
            return batches[0], batches[1]
        return f"{self._last}", f"CASE WHEN x.item_id IS NULL THEN 0 ELSE {self._last} END"

    def _query(self, columns: str) -> tuple[str, list[object]]:
        on_text = np.array([asked.input == TEXT for asked in self._asked], np.bool_)
        lowest = [int(self.through[on].min(initial=_FOREVER)) for on in (on_text, ~on_text)]
        text_batch, vector_batch = self._batches()
        wanted = ""
        joins: list[str] = []
        where = [f"{text_batch} NOT BETWEEN 1 AND {lowest[0]}"]
        params: list[object] = []
        if self._compare:
            joins.append(f"LEFT JOIN lf_inputs b ON b.item_id = i.item_id AND b.input = '{TEXT}'")
        if self._any_faults:
            wanted = """
                WITH wanted AS (
                    SELECT unnest(?::VARCHAR[]) AS lf_name, unnest(?::VARCHAR[]) AS lf_version,
                           unnest(?::INT[]) AS place
                ), retry AS (
                    SELECT f.item_id, list(w.place) AS places
                    FROM lf_faults f JOIN wanted w ON w.lf_name = f.lf_name AND w.lf_version = f.lf_version
                    WHERE f.item_id <> '' GROUP BY f.item_id
                )
            """
            params += [[a.name for a in self._asked], [a.version for a in self._asked], list(range(len(self._asked)))]
            joins.append("LEFT JOIN retry r ON r.item_id = i.item_id")
            where.append("r.places IS NOT NULL")
        if self._needs_vectors:
            joins.append(VECTORS)
            params.append(self._encoder_id)
            if self._compare:
                joins.append("LEFT JOIN lf_inputs c ON c.item_id = i.item_id AND c.input = ?")
                params.append(self._encoder_id)
            where.append(f"(x.item_id IS NOT NULL AND {vector_batch} NOT BETWEEN 1 AND {lowest[1]})")
        return f"{wanted} SELECT {columns} FROM items i {' '.join(joins)} WHERE ({' OR '.join(where)})", params

    def _to_pending(self, table: pa.Table) -> Pending:
        n = table.num_rows
        text_batch = table.column("text_batch").to_numpy()
        has_vector, vector_batch = np.zeros(n, np.bool_), text_batch
        if self._needs_vectors:
            has_vector = np.asarray(table.column("vector").is_valid())
            vector_batch = table.column("vector_batch").to_numpy()
        retry = pa.concat_arrays(table.column("retry").chunks)
        lengths = retry.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        calls = np.zeros((n, len(self._asked)), np.bool_, order="F")  # each function's column in one piece
        calls[np.repeat(np.arange(n), lengths), retry.flatten().to_numpy(zero_copy_only=False)] = True
        for place, asked in enumerate(self._asked):
            batch = text_batch if asked.input == TEXT else vector_batch
            calls[:, place] |= (batch == 0) | (batch > self.through[place])
            if asked.input != TEXT:
                calls[:, place] &= has_vector
        columns = ["item_id", "content", "metadata", *(["vector"] if self._needs_vectors else [])]
        return Pending(
            items=table.select(columns),
            hashes=pa.concat_arrays(table.column("input_hash").chunks),
            is_new=text_batch == 0,
            vector_is_new=has_vector & (vector_batch == 0),
            calls=calls,
        )
