"""The items that the report's map shows: a sample whose size does not grow with the warehouse, and its vectors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flows.report.current_models import encoder_in_use
from warehouse.queries.reader import Matrix, Reader, list_column_to_matrix

MAP_ITEMS = 3000
SELECTED_ITEMS = 1500  # the latest selected ones; the other half shows what they were selected from
TEXT_CHARS = 2000  # of an item; more is never shown

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class MapItems:
    """Items of the map and their vectors [N, D]; rows have item_id, class_id, cycle, gold, reason, content.

    Attributes:
        embedded: items of the train split with a vector.
        selected: those among them that were selected for people.
    """

    encoder_id: str
    rows: Sequence[Row]
    vectors: Matrix
    embedded: int
    selected: int


def read_map_items(reader: Reader) -> MapItems | None:
    """The map's items: those selected last, then a sample of the others that stays the same; None without vectors."""
    encoder_id = encoder_in_use(reader)
    if encoder_id is None:
        return None
    # Content hashes are as good as random and stay the same, so the sample does too.
    table = reader.arrow(
        f"""
        SELECT i.item_id, p.class_id, p.class_ids, p.confidence, p.label, q.cycle, g.label AS gold_label,
               coalesce(q.reason, '') AS reason,
               left(i.content, {TEXT_CHARS}) AS content, v.vector
        FROM items i
        JOIN vectors v ON v.item_id = i.item_id AND v.encoder_id = ?
        LEFT JOIN latest_predictions p ON p.item_id = i.item_id
        LEFT JOIN gold_labels g ON g.item_id = i.item_id
        LEFT JOIN (
            SELECT item_id, max(cycle) AS cycle, arg_max(reason, cycle) AS reason,
                   row_number() OVER (ORDER BY max(cycle) DESC, item_id) AS place
            FROM queue GROUP BY item_id
        ) q ON q.item_id = i.item_id
        WHERE i.split = 'train'
        ORDER BY CASE WHEN q.place <= {SELECTED_ITEMS} THEN 0 WHEN q.place IS NULL THEN 1 ELSE 2 END,
                 i.content_hash, i.item_id
        LIMIT {MAP_ITEMS}
        """,
        [encoder_id],
    )
    if not table.num_rows:
        return None
    embedded, selected = reader.rows(
        "SELECT count(*), count(*) FILTER (WHERE v.item_id IN (SELECT item_id FROM queue)) "
        "FROM vectors v JOIN items i ON i.item_id = v.item_id WHERE v.encoder_id = ? AND i.split = 'train'",
        [encoder_id],
    )[0]
    return MapItems(
        encoder_id=str(encoder_id),
        rows=table.drop_columns(["vector"]).to_pylist(),
        vectors=list_column_to_matrix(table.column("vector"), what="vector"),
        embedded=int(embedded),
        selected=int(selected),
    )
