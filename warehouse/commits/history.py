"""What changed from one snapshot to another: the list of commits, and which labels differ and why.

A label differs for a reason that the warehouse has kept: people answered, the text was edited, a function votes
another way, or the model learned something else. `compare` names it per item: "why is this item now spam?"
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import cast

import pyarrow as pa

from warehouse.catalog.connection import attach_statement
from warehouse.catalog.location import Location
from warehouse.catalog.snapshots import At
from warehouse.numeric import pc
from warehouse.queries.open import connect
from warehouse.queries.reader import Reader
from warehouse.schema.migrations import connect_checked
from warehouse.schema.old_snapshots import stand_in
from warehouse.session.interrupt import stopped_with_us, taken


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One commit: its number, when and by whom, what it says of itself, and rows written per table."""

    number: int
    time: datetime
    author: str
    message: str
    rows: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Labels of two snapshots.

    Attributes:
        before: number of the first snapshot.
        after: number of the second.
        changes: item_id, label_before, label_after, source_before, source_after, cause, reason of labels that differ,
            or are equal and people's in one of the snapshots only; by item_id.
        models: (stage, model before, its gold labels, model after, its gold labels) where they differ.
        functions: (name, version before, version after) where they differ; None where it has no votes.
        classes: (class_id, name before, name after) where they differ; None where there is no such class.
    """

    before: int
    after: int
    changes: pa.Table
    models: list[tuple[str, str | None, int | None, str | None, int | None]]
    functions: list[tuple[str, str | None, str | None]]
    classes: list[tuple[int, str | None, str | None]]

    def causes(self) -> list[tuple[str, int]]:
        """How many labels changed for each cause, the most frequent first."""
        return Counter(self.changes.column("cause").to_pylist()).most_common()

    @property
    def confirmed(self) -> int:
        """Items whose predicted label people gave too, so that only its source changed."""
        return self._equal().count("gold")

    @property
    def left_alone(self) -> int:
        """Items whose label people gave and only a model gives now."""
        return len(self._equal()) - self.confirmed

    def _equal(self) -> list[str]:
        """The later source of each label that is equal in both."""
        changes = self.changes
        equal = changes.filter(pc.equal(changes.column("label_before"), changes.column("label_after")))
        return cast(list[str], equal.column("source_after").to_pylist())


def snapshots(reader: Reader, *, limit: int | None = None) -> list[Snapshot]:
    """The snapshots that are kept, the newest first."""
    rows = reader.rows(
        """
        SELECT s.snapshot_id, s.snapshot_time, coalesce(s.author, ''), coalesce(s.commit_message, ''), r.rows_written
        FROM lake.snapshots() s
        LEFT JOIN (SELECT snapshot_id, any_value(rows_written) AS rows_written FROM runs GROUP BY snapshot_id) r
            ON r.snapshot_id = s.snapshot_id
        WHERE s.schema_version > 0  -- 0 is the empty catalogue from before the first table
        ORDER BY s.snapshot_id DESC LIMIT ?
        """,
        [limit],
    )
    return [Snapshot(int(n), at, who, text, json.loads(written or "{}")) for n, at, who, text, written in rows]


def compare(path: Path | Location, before: At, after: At = None) -> Comparison:
    """Which labels of `training_set` differ between two snapshots, and why.

    Args:
        path: folder of the warehouse, or its `Location`.
        before: snapshot number or time.
        after: the same; the newest when left out.

    Raises:
        SnapshotNotFound: one of them is not kept.
        SettingsError: one of them cannot be read as a number or a time.
    """
    with connect(path, at=after) as newest:
        second = newest.snapshot()
    with connect(path, at=before) as earlier:
        first = earlier.snapshot()
    connection = connect_checked(path, at=second)
    try:
        with stopped_with_us(connection):
            connection.execute(attach_statement(path, read_only=True, at=first, name="a"))
            connection.execute(f"CREATE TEMP TABLE changed AS {_CHANGED}")
            connection.execute(f"CREATE TEMP TABLE known AS {_KNOWN}")
            models = connection.execute(_MODELS).fetchall()
            functions = connection.execute(_FUNCTIONS).fetchall()
            classes = connection.execute(_CLASSES).fetchall()
            stand_in(connection)  # not before: the views of `a` would read these temporary ones
            changes = taken(connection, connection.execute(_WHY).to_arrow_table)
    finally:
        connection.close()
    return Comparison(first, second, changes, models, functions, classes)


_CHANGED = """
    SELECT coalesce(x.item_id, y.item_id) AS item_id, x.label AS label_before, y.label AS label_after,
           x.label_source AS source_before, y.label_source AS source_after
    FROM (SELECT item_id, label, label_source FROM a.training_set) x
    FULL JOIN (SELECT item_id, label, label_source FROM lake.training_set) y ON x.item_id = y.item_id
    WHERE x.label IS DISTINCT FROM y.label OR (x.label_source = 'gold') <> (y.label_source = 'gold')
"""

_LATEST = "SELECT stage, model_id, gold_labels FROM {}.models QUALIFY row_number() OVER ({}) = 1"
_LATEST_WINDOW = "PARTITION BY stage ORDER BY sequence DESC"
_MODELS = f"""
    SELECT coalesce(x.stage, y.stage) AS stage, x.model_id, x.gold_labels, y.model_id, y.gold_labels
    FROM ({_LATEST.format("a", _LATEST_WINDOW)}) x FULL JOIN ({_LATEST.format("lake", _LATEST_WINDOW)}) y
        ON x.stage = y.stage
    WHERE x.model_id IS DISTINCT FROM y.model_id ORDER BY 1
"""

_FUNCTIONS = """
    SELECT coalesce(x.lf_name, y.lf_name) AS lf_name, x.lf_version, y.lf_version
    FROM (SELECT lf_name, max(lf_version) AS lf_version FROM a.lf_votes GROUP BY lf_name) x
    FULL JOIN (SELECT lf_name, max(lf_version) AS lf_version FROM lake.lf_votes GROUP BY lf_name) y
        ON x.lf_name = y.lf_name
    WHERE x.lf_version IS DISTINCT FROM y.lf_version ORDER BY 1
"""

_CLASSES = """
    SELECT class_id, x.name, y.name FROM a.classes x FULL JOIN lake.classes y USING (class_id)
    WHERE x.name IS DISTINCT FROM y.name ORDER BY 1
"""

_VOTES = """
    SELECT item_id, lf_name, lf_version, vote FROM {}.lf_votes
    WHERE vote >= 0 AND item_id IN (SELECT item_id FROM changed)
"""

_KNOWN = f"""
    WITH revoted AS (
        SELECT coalesce(x.item_id, y.item_id) AS item_id,
               string_agg(DISTINCT coalesce(x.lf_name, y.lf_name), ', ' ORDER BY coalesce(x.lf_name, y.lf_name)) AS lfs,
               bool_or(x.lf_version IS DISTINCT FROM y.lf_version AND x.lf_name IS NOT NULL AND y.lf_name IS NOT NULL)
                   AS recoded
        FROM ({_VOTES.format("a")}) x FULL JOIN ({_VOTES.format("lake")}) y
            ON x.item_id = y.item_id AND x.lf_name = y.lf_name
        WHERE x.vote IS DISTINCT FROM y.vote GROUP BY ALL
    ), model AS (
        SELECT (SELECT model_id FROM a.models WHERE stage = 'end_model' ORDER BY sequence DESC LIMIT 1) AS old,
               (SELECT model_id FROM lake.models WHERE stage = 'end_model' ORDER BY sequence DESC LIMIT 1) AS new
    )
    SELECT c.*, i.content_hash AS old_hash, j.content_hash AS new_hash, g.label AS old_gold, h.label AS new_gold,
           r.lfs, r.recoded, m.old AS old_model, m.new AS new_model
    FROM changed c CROSS JOIN model m
    LEFT JOIN a.items i ON i.item_id = c.item_id
    LEFT JOIN lake.items j ON j.item_id = c.item_id
    LEFT JOIN a.gold_labels g ON g.item_id = c.item_id
    LEFT JOIN lake.gold_labels h ON h.item_id = c.item_id
    LEFT JOIN revoted r ON r.item_id = c.item_id
"""

# The first cause that applies is the cause: what people did outranks what functions did, and that what models did.
_WHY = """
    WITH agreed AS (
        SELECT o.item_id, string_agg(DISTINCT o.annotator, ', ' ORDER BY o.annotator) AS annotators
        FROM opinions o JOIN gold_labels g ON g.item_id = o.item_id
        WHERE coalesce(o.class_ids, [o.class_id]) = g.class_ids AND o.item_id IN (SELECT item_id FROM changed)
        GROUP BY o.item_id
    ), caused AS (
        SELECT *, CASE
            WHEN new_hash IS NULL THEN 'item removed'
            WHEN old_hash IS NULL THEN 'item added'
            WHEN old_hash <> new_hash THEN 'text edited'
            WHEN old_gold IS NULL AND new_gold IS NOT NULL THEN 'gold given'
            WHEN old_gold IS NOT NULL AND new_gold IS NULL THEN 'gold withdrawn'
            WHEN old_gold <> new_gold THEN 'gold changed'
            WHEN label_before IS NULL THEN 'first label'
            WHEN lfs IS NOT NULL THEN 'votes changed'
            ELSE 'model changed' END AS cause
        FROM known
    )
    SELECT item_id, label_before, label_after, source_before, source_after, cause, CASE cause
        WHEN 'item removed' THEN 'the item is gone'
        WHEN 'item added' THEN 'the item is new'
        WHEN 'text edited' THEN 'content ' || old_hash[:8] || ' became ' || new_hash[:8]
            || if(old_gold IS NOT NULL AND new_gold IS NULL, '; the answer ' || old_gold || ' was of the former', '')
        WHEN 'gold given' THEN 'labelled ' || new_gold || ' by ' || coalesce(annotators, 'people')
        WHEN 'gold withdrawn' THEN 'the answer ' || old_gold || ' is no longer in force'
        WHEN 'gold changed' THEN 'people''s label ' || old_gold || ' became ' || new_gold || ' by '
            || coalesce(annotators, 'people')
        WHEN 'votes changed' THEN 'votes of ' || lfs || ' differ' || if(recoded, ' (new version)', '')
            || '; end model ' || coalesce(old_model, 'none') || ' became ' || coalesce(new_model, 'none')
        ELSE 'end model ' || coalesce(old_model, 'none') || ' became ' || coalesce(new_model, 'none')
        END AS reason
    FROM caused LEFT JOIN agreed USING (item_id) ORDER BY item_id
"""
