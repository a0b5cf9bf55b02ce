"""Bringing a warehouse to the schema of this code: creating it, and numbered steps from each released schema.

Opening a warehouse for writing runs the steps it lacks, in one transaction with their record: `schema_migrations`
gets a row per step that says what it did, and the snapshot's message names it. So a warehouse has its old schema or
the new one, whoever dies in between, and earlier snapshots read as they were. A step is never changed once it was
released; the fixtures in `tests/warehouse/fixtures` are warehouses as released versions wrote them.

Views have a version of their own: a change of one is no step, so code of either side reads on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from warehouse.catalog.connection import connect
from warehouse.catalog.location import Location, locate
from warehouse.catalog.snapshots import At, find_snapshot, kept_snapshots, parse_at
from warehouse.errors import SchemaTooNew, SchemaTooOld, WarehouseNotFound
from warehouse.schema.tables import SCHEMA_VERSION, TABLE_BY_NAME, TABLES, Table
from warehouse.schema.views import VIEWS, VIEWS_VERSION, View
from warehouse.storage.durable import NewFiles
from warehouse.storage.layout import give_statistics, set_file_options, sort_tables
from warehouse.text import quote

VERSION_VIEW = "view_version"
"""Says which `VIEWS_VERSION` a warehouse's views have: it changes with them and is read back in time with them."""

Apply = Callable[[duckdb.DuckDBPyConnection], str]


@dataclass(frozen=True, slots=True)
class Migration:
    """One step.

    Attributes:
        version: schema the warehouse has afterwards.
        apply: changes tables through a cursor inside the transaction, and returns what it did in one line. Views and
            comments need no step: all are brought up to date after the last one.
    """

    version: int
    apply: Apply


def _runs_tell_author_and_hash(cursor: duckdb.DuckDBPyConnection) -> str:
    cursor.execute("ALTER TABLE runs ADD COLUMN author VARCHAR DEFAULT ''")
    cursor.execute("ALTER TABLE runs ADD COLUMN content_hash VARCHAR DEFAULT '{}'")
    row = cursor.execute("SELECT count(*) FROM runs").fetchone()
    return f"runs: columns author and content_hash added, empty for the {row[0] if row else 0} earlier runs"


# Items on which every function has a vote or an abstain; any others are put before the functions again.
REACH_IN_SCHEMA_1 = {
    "lf_inputs": """
        SELECT item_id, 'text' AS input, max(input_hash) AS input_hash, 1 AS batch, 'schema-2' AS run_id,
               max(committed_at) AS committed_at
        FROM lake.lf_votes GROUP BY item_id
        HAVING count(DISTINCT input_hash) = 1 AND count(*) = (SELECT count(DISTINCT lf_name) FROM lake.lf_votes)
    """,
    "lf_reach": """
        SELECT lf_name, max(lf_version) AS lf_version, 'text' AS input, 1 AS batch,
               (SELECT count(*) FROM lf_inputs) AS items, 'schema-2' AS run_id, max(committed_at) AS committed_at
        FROM lake.lf_votes GROUP BY lf_name HAVING count(DISTINCT lf_version) = 1
    """,
}
"""What `lf_inputs` and `lf_reach` say of schema 1, whose votes held the abstains too."""


def _abstains_become_reach(cursor: duckdb.DuckDBPyConnection) -> str:
    for name in ("lf_inputs", "lf_reach"):
        _create_table(cursor, TABLE_BY_NAME[name])
    for name, rows in REACH_IN_SCHEMA_1.items():
        columns = ", ".join(column.name for column in TABLE_BY_NAME[name].all_columns)
        cursor.execute(f"INSERT INTO {name} ({columns}) SELECT {columns} FROM ({rows})")
    row = cursor.execute("SELECT count(*) FROM lf_votes WHERE vote < 0").fetchone()
    cursor.execute("DELETE FROM lf_votes WHERE vote < 0")
    return f"lf_votes: {row[0] if row else 0} abstains removed, lf_inputs and lf_reach say who was asked"


def _schema_2(cursor: duckdb.DuckDBPyConnection) -> str:
    return "; ".join((_runs_tell_author_and_hash(cursor), _abstains_become_reach(cursor)))


def _schema_3(cursor: duckdb.DuckDBPyConnection) -> str:
    for name in ("asked_before", "annotator_skills"):
        _create_table(cursor, TABLE_BY_NAME[name])
    return "asked_before and annotator_skills added, empty"


def _schema_4(cursor: duckdb.DuckDBPyConnection) -> str:
    cursor.execute('ALTER TABLE "values" ADD COLUMN expected_seconds DOUBLE')
    return "values: column expected_seconds added, empty for earlier cycles"


def _schema_5(cursor: duckdb.DuckDBPyConnection) -> str:
    for table, column in (("classes", "multi_label"), ("queue", "predictions"), ("annotations", "class_ids")):
        kind = next(c.type for c in TABLE_BY_NAME[table].columns if c.name == column)
        cursor.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")
    return "classes.multi_label, queue.predictions and annotations.class_ids added, empty: each item has one class"


def _schema_6(cursor: duckdb.DuckDBPyConnection) -> str:
    cursor.execute("ALTER TABLE items ADD COLUMN changed_at TIMESTAMPTZ")
    # Of the changes from before, those count that came between a question to people and now.
    row = cursor.execute("""
        UPDATE items SET changed_at = committed_at WHERE item_id IN (
            SELECT i.item_id FROM items i JOIN (
                SELECT item_id, content_hash FROM queue UNION SELECT item_id, content_hash FROM asked_before
            ) q ON q.item_id = i.item_id AND q.content_hash <> i.content_hash
        )
    """).fetchone()
    return f"items: column changed_at added, filled for the {row[0] if row else 0} with another text than people had"


def _schema_7(cursor: duckdb.DuckDBPyConnection) -> str:
    for column in ("weight_no", "sensitivity"):  # there already where the step to 3 has just made the table
        cursor.execute(f"ALTER TABLE annotator_skills ADD COLUMN IF NOT EXISTS {column} DOUBLE")
    return "annotator_skills: columns weight_no and sensitivity added, empty until skills are estimated anew"


MIGRATIONS: tuple[Migration, ...] = (
    Migration(2, _schema_2),
    Migration(3, _schema_3),
    Migration(4, _schema_4),
    Migration(5, _schema_5),
    Migration(6, _schema_6),
    Migration(7, _schema_7),
)
assert [m.version for m in MIGRATIONS] == list(range(2, SCHEMA_VERSION + 1)), "one step per schema, in order"


def schema_version(cursor: duckdb.DuckDBPyConnection) -> int:
    """Schema of the attached warehouse `lake`; 0 when it holds no tables yet."""
    try:
        row = cursor.execute("SELECT max(version) FROM lake.schema_migrations").fetchone()
    except duckdb.CatalogException:
        return 0
    return int(row[0]) if row and row[0] is not None else 0


def check_schema(found: int, place: str, *, read_only: bool) -> None:
    """Refuse what this code cannot work with.

    Args:
        found: the warehouse's schema.
        place: the warehouse, as a person knows it.
        read_only: it is open for reading, so it cannot be migrated.

    Raises:
        SchemaTooNew: a newer Siftline wrote it.
        SchemaTooOld: it must be migrated first, and cannot be here.
        WarehouseNotFound: it holds no tables, and is open for reading.
    """
    if found > SCHEMA_VERSION:
        raise SchemaTooNew(
            f"The warehouse at {place} has schema {found}, this Siftline knows up to {SCHEMA_VERSION}. "
            "Work with the Siftline that wrote it, or a newer one."
        )
    if not read_only:
        return
    if found == 0:
        raise WarehouseNotFound(
            f"The warehouse at {place} holds no tables yet. Run `siftline run` in the project first."
        )
    if found < SCHEMA_VERSION:
        raise SchemaTooOld(
            f"The warehouse at {place} has schema {found}, this Siftline reads {SCHEMA_VERSION}. `siftline run` in the "
            "project brings it up to date; its earlier snapshots stay as they are."
        )


def connect_checked(place: Path | Location, *, at: At = None) -> duckdb.DuckDBPyConnection:
    """A read-only connection to a warehouse that this code can work with.

    Args:
        place: the warehouse, or its folder.
        at: number or time of the snapshot to read; left out, every transaction reads the one that is newest then.

    Raises:
        WarehouseNotFound, WarehouseError: as `connection.connect` and `check_schema`.
        SchemaTooNew, SchemaTooOld: as `check_schema`.
        SnapshotNotFound, SettingsError: as `find_snapshot` and `parse_at`.
    """
    location, wanted = locate(place), parse_at(at)

    def look(connection: duckdb.DuckDBPyConnection) -> int | None:
        check_schema(schema_version(connection), location.words, read_only=True)
        return None if wanted is None else find_snapshot(wanted, kept_snapshots(connection))

    return connect(location, read_only=True, look=look)


def migrate(cursor: duckdb.DuckDBPyConnection, found: int, location: Location) -> None:
    """Create the schema, or run the steps that are missing, or renew older views; the caller holds the write lock.

    Args:
        cursor: writes to the warehouse `lake`, outside a transaction.
        found: its schema; 0 creates all tables as they are now.
        location: where it is.
    """
    if found == SCHEMA_VERSION:
        _renew_views(cursor)
        return
    written = NewFiles(location)
    cursor.execute("BEGIN TRANSACTION")
    effects: list[tuple[int, str]] = []
    if found == 0:
        for table in TABLES:
            _create_table(cursor, table)
        sort_tables(cursor)
        effects.append((SCHEMA_VERSION, f"created with schema {SCHEMA_VERSION}"))
    for migration in MIGRATIONS:
        if 0 < found < migration.version:
            effects.append((migration.version, migration.apply(cursor)))
    give_statistics(cursor)
    _comment_tables(cursor)
    _replace_views(cursor)
    for version, effect in effects:
        cursor.execute(
            "INSERT INTO schema_migrations (version, effect, run_id, committed_at) VALUES (?, ?, ?, ?)",
            [version, effect, f"schema-{version}", datetime.now(UTC)],
        )
    message = "; ".join(f"schema {version}: {effect}" for version, effect in effects)
    cursor.execute("CALL ducklake_set_commit_message('lake', 'siftline', ?)", [message])
    written.sync()
    cursor.execute("COMMIT")
    if found == 0:
        set_file_options(cursor)


def _create_table(cursor: duckdb.DuckDBPyConnection, table: Table) -> None:
    columns = ", ".join(f'"{c.name}" {c.type}' for c in table.all_columns)
    cursor.execute(f'CREATE TABLE "{table.name}" ({columns})')


def _comment_tables(cursor: duckdb.DuckDBPyConnection) -> None:
    """Write the comments that differ from `schema.py`; writing one makes a new version of its column."""
    tables = dict(
        cursor.execute("SELECT table_name, comment FROM duckdb_tables() WHERE database_name = 'lake'").fetchall()
    )
    columns = {
        (table, column): comment
        for table, column, comment in cursor.execute(
            "SELECT table_name, column_name, comment FROM duckdb_columns() WHERE database_name = 'lake'"
        ).fetchall()
    }
    for table in TABLES:
        if tables.get(table.name) != table.comment:
            cursor.execute(f'COMMENT ON TABLE "{table.name}" IS {quote(table.comment)}')
        for column in table.all_columns:
            if columns.get((table.name, column.name)) != column.comment:
                cursor.execute(f'COMMENT ON COLUMN "{table.name}"."{column.name}" IS {quote(column.comment)}')


def _renew_views(cursor: duckdb.DuckDBPyConnection) -> None:
    """Make older views and comments those of this code, in one snapshot that names what changed."""
    if views_version(cursor) >= VIEWS_VERSION:
        return
    cursor.execute("BEGIN TRANSACTION")
    before = _view_texts(cursor)
    _comment_tables(cursor)
    _replace_views(cursor)
    changed = sorted(name for name, text in _view_texts(cursor).items() if before.get(name) != text)
    message = f"views {VIEWS_VERSION}: {', '.join(changed)} made anew"
    cursor.execute("CALL ducklake_set_commit_message('lake', 'siftline', ?)", [message])
    cursor.execute("COMMIT")


def views_version(cursor: duckdb.DuckDBPyConnection) -> int:
    """Version of the warehouse's views; 0 where they are from before views had one."""
    try:
        row = cursor.execute(f"SELECT version FROM lake.{VERSION_VIEW}").fetchone()
    except duckdb.CatalogException:
        return 0
    return int(row[0]) if row else 0


def _view_texts(cursor: duckdb.DuckDBPyConnection) -> dict[str, str]:
    found = cursor.execute("SELECT view_name, sql FROM duckdb_views() WHERE database_name = 'lake'").fetchall()
    return {str(name): str(text) for name, text in found}


def _replace_views(cursor: duckdb.DuckDBPyConnection) -> None:
    """Make our views anew, in order; a view that a person added stays."""
    version = View(name=VERSION_VIEW, comment="Version of the views.", sql=f"SELECT {VIEWS_VERSION} AS version")
    for view in (*VIEWS, version):
        cursor.execute(f"DROP VIEW IF EXISTS {view.name}")
    for view in (*VIEWS, version):
        cursor.execute(f"CREATE VIEW {view.name} AS {view.sql}")
        cursor.execute(f"COMMENT ON VIEW {view.name} IS {quote(view.comment)}")
