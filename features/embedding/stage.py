"""Texts become vectors: the stage that fills `vectors`.

It sees the encoder only through `engine.protocol.Encoder`, so another encoder needs no change here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from engine.errors import InputError, NumericError
from engine.protocol import Encoder, Encoding, Vectors
from features.embedding.checkpoint import KeptVectors
from warehouse import (
    DataError,
    Lake,
    Progress,
    SettingsError,
    Stage,
    StageResult,
    Upsert,
    matrix_to_list_array,
    silent,
)
from warehouse.files.spool import Spool

VERSION = 1
ROWS_AT_A_TIME = 1024
SHOWN_IDS = 5
SHOWN_CHARACTERS = 60
UNREAD, MOSTLY_READ = "unread", 0.3
"""What `detail` calls the mean of `Encoding.unread`, and below what it is not told. With the shipped encoder English
has .01 to .09, French and German .1, Chinese .7, Cyrillic, Arabic and Korean .8 to .9, hashes .6."""

_VECTOR_SCHEMA = pa.schema(
    [
        ("content_hash", pa.string()),
        ("vector", pa.list_(pa.float32())),
        ("tokens", pa.int32()),
        ("truncated", pa.bool_()),
        ("active_frac", pa.float32()),
        ("route", pa.string()),
    ]
)

_ROW_SCHEMA = pa.schema([*_VECTOR_SCHEMA, ("item_id", pa.string()), ("encoder_id", pa.string())])

_MISSING = """
    FROM items i LEFT JOIN vectors v ON v.item_id = i.item_id AND v.encoder_id = $1
    WHERE v.content_hash IS DISTINCT FROM i.content_hash
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedConfig:
    """Settings of the embed stage.

    Attributes:
        batch_items: texts that are held in memory and given to the encoder at once; no vector depends on it.
        kept: folder for the vectors of batches until they are committed, which the next run takes up where this one is
            stopped; None keeps none.

    Raises:
        SettingsError: a value is wrong.
    """

    batch_items: int = 4096
    kept: Path | None = None

    def __post_init__(self) -> None:
        if self.batch_items < 1:
            raise SettingsError(f"batch_items is {self.batch_items}; it must be 1 or more.")


def embed(lake: Lake, encoder: Encoder, config: EmbedConfig, progress: Progress = silent) -> StageResult:
    """Embed every item whose present content has no vector of this encoder yet.

    Equal contents are encoded once, also when one of them was embedded by an earlier run.

    Args:
        lake: the warehouse.
        encoder: gives the vectors.
        config: settings.
        progress: told the texts done of all texts to encode.

    Returns:
        The result; `detail` counts items, distinct texts encoded, those that a stopped run had kept, and of both tokens
        and truncated texts. It also says how much of the encoded ones the encoder cannot read, where that is much.

    Raises:
        DataError: texts that the encoder refuses, or vectors that are not finite unit vectors; names the items.
    """
    params = {"encoder": encoder.encoder_id}
    with lake.stage("embed", version=VERSION, inputs=("items",), params=params) as stage:
        if stage.done:
            return stage.result()
        items = stage.arrow(f"SELECT i.item_id, i.content_hash {_MISSING} ORDER BY i.item_id", [encoder.encoder_id])
        if not items.num_rows:
            return stage.nothing(items=0)
        known = _known(stage, encoder.encoder_id)
        kept = None if config.kept is None else KeptVectors(config.kept, encoder.encoder_id, _VECTOR_SCHEMA)
        fresh, again, unread = _encode_missing(stage, encoder, config, kept, progress)
        detail = {
            "items": items.num_rows,
            "encoded": fresh.num_rows - again,
            **({"kept by a stopped run": again} if again else {}),
            "tokens": int(np.asarray(fresh.column("tokens"), np.int64).sum()),
            "truncated": int(np.asarray(fresh.column("truncated")).sum()),
            **({UNREAD: round(unread, 3)} if unread >= MOSTLY_READ else {}),
        }
        with Spool(_ROW_SCHEMA) as spool:
            _spool_rows(spool, items, pa.concat_tables([known, fresh]), encoder.encoder_id)
            del known, fresh  # the commit needs memory of its own
            result = stage.commit([Upsert("vectors", spool.table())], rows_read=items.num_rows, detail=detail)
        if kept is not None:
            kept.clear()
        return result


def _known(stage: Stage, encoder_id: str) -> pa.Table:
    """Vectors of earlier runs whose content is also that of an item that has none."""
    known = stage.arrow(
        f"""
        SELECT content_hash, vector, tokens, truncated, active_frac, route FROM vectors
        WHERE encoder_id = $1 AND content_hash IN (SELECT i.content_hash {_MISSING})
        QUALIFY row_number() OVER (PARTITION BY content_hash ORDER BY item_id) = 1
        """,
        [encoder_id],
    )
    return known.cast(_VECTOR_SCHEMA)


def _encode_missing(
    stage: Stage, encoder: Encoder, config: EmbedConfig, kept: KeptVectors | None, progress: Progress
) -> tuple[pa.Table, int, float]:
    """Encode each distinct content without a vector once, in the order of the first item that has it.

    Returns:
        their vectors, how many of these an earlier run had kept, and the mean of `Encoding.unread` of the others.
    """
    distinct = f"""
        SELECT i.item_id, i.content_hash, i.content {_MISSING}
        AND i.content_hash NOT IN (SELECT content_hash FROM vectors WHERE encoder_id = $1)
        QUALIFY row_number() OVER (PARTITION BY i.content_hash ORDER BY i.item_id) = 1
    """
    params = [encoder.encoder_id]
    total = int(stage.scalar(f"SELECT count(*) FROM ({distinct})", params))
    progress(0, total)
    done = 0
    tables = [_VECTOR_SCHEMA.empty_table()]
    taken: list[int] = []  # rows of what an earlier run kept
    unread = 0.0
    before = tables[0] if kept is None else kept.read()
    place = {content_hash: row for row, content_hash in enumerate(before.column("content_hash").to_pylist())}
    for batch in stage.batches(f"{distinct} ORDER BY i.item_id", params, rows=config.batch_items):
        hashes = batch.column("content_hash").to_pylist()
        again = [place[name] for name in hashes if name in place]
        taken += again
        done += len(again)
        batch = batch.filter(pa.array([name not in place for name in hashes], pa.bool_()))
        if not batch.num_rows:
            progress(done, total)
            continue
        ids, hashes, texts = (column.to_pylist() for column in batch.columns)
        encoding = encode_named(encoder, texts, ids, progress, done, total)
        tables.append(_vector_table(hashes, encoding))
        unread += float(encoding.unread.sum())
        done += batch.num_rows
        if kept is not None and done < total:
            kept.keep(tables[-1])
    if len(taken) < before.num_rows:
        before = before.filter(pa.array(np.isin(np.arange(before.num_rows), taken)))
    encoded = sum(table.num_rows for table in tables)
    return pa.concat_tables([*tables, before]), len(taken), unread / max(1, encoded)


def _vector_table(hashes: list[str], encoding: Encoding) -> pa.Table:
    columns = [
        pa.array(hashes, pa.string()),
        matrix_to_list_array(encoding.vectors),
        pa.array(encoding.tokens),
        pa.array(encoding.truncated),
        pa.array(encoding.active_frac),
        pa.array(encoding.routes, pa.string()),
    ]
    return pa.table(columns, schema=_VECTOR_SCHEMA)


def _spool_rows(spool: Spool, items: pa.Table, by_hash: pa.Table, encoder_id: str) -> None:
    """One row of `vectors` per item, in the order of `items`, on their way to the commit without a copy of all."""
    place = {content_hash: row for row, content_hash in enumerate(by_hash.column("content_hash").to_pylist())}
    for start in range(0, items.num_rows, ROWS_AT_A_TIME):
        some = items.slice(start, ROWS_AT_A_TIME)
        rows = _taken(by_hash, np.array([place[name] for name in some.column("content_hash").to_pylist()]))
        rows = rows.append_column("item_id", some.column("item_id"))
        spool.write(rows.append_column("encoder_id", pa.array([encoder_id] * len(some), pa.string())))


def _taken(table: pa.Table, rows: np.ndarray) -> pa.Table:
    """Rows of a table [N], from the batches that they are in; `Table.take` would join all of them first."""
    batches = table.to_batches()
    starts = np.cumsum([0, *map(len, batches)])
    batch_N = np.searchsorted(starts, rows, "right") - 1
    parts = [batches[at].take(pa.array(rows[batch_N == at] - starts[at])) for at in np.unique(batch_N)]
    return pa.Table.from_batches(parts).take(pa.array(np.argsort(np.argsort(batch_N, kind="stable"))))


def encode_named(
    encoder: Encoder, texts: Sequence[str], names: Sequence[str], progress: Progress, before: int, total: int
) -> Encoding:
    """Encode texts whose `names` [N] a person knows, `before` of `total` being done, and prove the vectors.

    Raises:
        DataError: the encoder refuses some of them, or gives no unit vectors for them; it names them.
    """
    try:
        encoding = encoder.embed(texts, lambda done, _: progress(before + done, total))
    except InputError as error:
        first = [f"{names[index]}: {reason}" for index, reason in list(error.reasons.items())[:SHOWN_IDS]]
        raise DataError(
            f"The encoder refuses {len(error.reasons)} texts: {'; '.join(first) or error}. Mend or remove them."
        ) from error
    except NumericError as error:
        raise _bad_vectors(encoder, [names[index] for index in error.indexes]) from error
    bad = np.flatnonzero(~_unit(encoding.vectors))
    if bad.size:
        raise _bad_vectors(encoder, [names[int(index)] for index in bad])
    return encoding


def _unit(vectors: Vectors) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.abs(np.einsum("nd,nd->n", vectors, vectors) - 1.0) < 1e-3  # NaN and infinity compare false


def _bad_vectors(encoder: Encoder, names: list[str]) -> DataError:
    more = f" and {len(names) - SHOWN_IDS} more" if len(names) > SHOWN_IDS else ""
    return DataError(
        f"Encoder {encoder.encoder_id} gave vectors that are not finite or not of length 1 for "
        f"{', '.join(names[:SHOWN_IDS])}{more}. Nothing was stored. Use another encoder, or remove these texts."
    )


def encode_texts(encoder: Encoder, texts: Sequence[str]) -> Vectors:
    """Encode a few texts that are no items, such as the exemplars of a labeling function.

    Args:
        encoder: turns texts into unit vectors.
        texts: N texts.

    Returns:
        unit vectors [N, D] float32.

    Raises:
        DataError: the encoder refuses some of them, or gives no unit vectors for them; it names them.
    """
    return encode_named(
        encoder, texts, [repr(text[:SHOWN_CHARACTERS]) for text in texts], silent, 0, len(texts)
    ).vectors
