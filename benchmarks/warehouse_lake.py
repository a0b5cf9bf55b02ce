"""A large warehouse from a small real one: real texts, votes, vectors and predictions, repeated with new ids.

The small one is made by the real pipeline on the first Reuters news. Repeating happens inside DuckDB, commit by commit
as a stream would arrive, so ten million items take minutes. People's answers are drawn from the predictions with a
fixed share of errors, by hash, so that equal arguments give equal warehouses.
"""

from datetime import UTC, datetime
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from features.ingest.samples import get_sample
from flows.pipelines.stages import run_passes, run_stage_in_process
from flows.project.project import Project
from tests.projects import make_small_project
from warehouse import Lake, attach_statement, matrix_to_list_array
from warehouse.queries.reader import list_column_to_matrix

COMMITS = 10
TEXT_CHARS = 120
ANSWERED_EVERY = 100
VECTOR_ROWS = 50_000


def make_base(folder: Path, *, train: int = 1200, test: int = 300) -> Path:
    """A small project's warehouse, made by the real pipeline with the simulated annotator."""
    sample = get_sample("reuters-r8", folder / "sample")
    root = make_small_project(folder / "project", sample, train=train, test=test)
    run_passes(run_stage_in_process(Project(root)), simulated=True)
    return root / "lake"


def enlarge(base: Path, target: Path, *, items: int, vectors: int) -> None:
    """Write a warehouse of `items` items and `vectors` vectors with everything the small one knows of them."""
    with Lake(target) as lake:
        cursor = lake.new_cursor()
        cursor.execute(attach_statement(base, read_only=True, name="base"))
        for statement in _PREPARE:
            cursor.execute(statement)
        n = int(cursor.execute("SELECT count(*) FROM known").fetchall()[0][0])
        for number in range(COMMITS):
            first, last = items * number // COMMITS, items * (number + 1) // COMMITS
            stamp = f"'big' AS run_id, TIMESTAMPTZ '2026-01-01 00:00:00+00' + INTERVAL {number} DAY AS committed_at"
            cursor.execute("BEGIN TRANSACTION")
            cursor.execute(
                "CREATE OR REPLACE TEMP TABLE part AS SELECT 'r' || lpad(k::VARCHAR, 9, '0') AS item_id, k, "
                f"b.* REPLACE ({_SPLIT} AS split) FROM range({first}, {last}) t(k) "
                f"JOIN known b ON b.r = k % {n} ORDER BY k"
            )
            for table, columns in _ROWS.items():
                cursor.execute(f'INSERT INTO "{table}" BY NAME {columns.format(stamp=stamp, batch=number + 1)}')
            cursor.execute("COMMIT")
        cursor.execute(f"UPDATE lf_reach SET items = {items}, batch = {COMMITS}")
        if vectors:
            _vectors(cursor, vectors)
        cursor.close()


_PREPARE = (
    *(
        f"INSERT INTO {table} BY NAME FROM base.{table}"
        for table in ("classes", "models", "metrics", "lf_reach", "quarantine", "lf_faults", "runs")
    ),
    """CREATE TEMP TABLE known AS
    SELECT row_number() OVER (ORDER BY i.item_id) - 1 AS r, i.item_id AS base_id, i.content, i.source, i.split,
           p.end_model_id, p.probs, p.class_id, p.confidence, w.label_model_id, w.probs AS weak, w.votes
    FROM base.items i
    JOIN base.latest_predictions p ON p.item_id = i.item_id
    JOIN base.latest_weak_labels w ON w.item_id = i.item_id""",
    """CREATE TEMP TABLE voted AS SELECT k.r, v.lf_name, v.lf_version, v.vote
    FROM base.lf_votes v JOIN known k ON k.base_id = v.item_id WHERE v.vote >= 0""",
)

_SPLIT = "if(hash(k) % 5000 = 0, if(hash(k, 3) % 2 = 0, 'train', 'test'), b.split)"
"""Equal texts stand in several splits, so that there is leakage to find."""
_CHANCE = "hash(k, {salt}) % 1000 / 1000.0"
_WORTH = ", ".join(
    f"hash(k, {n}) % 10000 / 10000.0 AS {name}"
    for n, name in enumerate(("value", "representativeness", "uncertainty", "disagreement", "redundancy"))
)
_SENT = f"part WHERE split = 'train' AND hash(k) % {ANSWERED_EVERY} = 0"
_ROWS = {
    "items": f"""SELECT item_id, left(content, {TEXT_CHARS}) || ' ' || k AS content,
        sha256(left(content, {TEXT_CHARS}) || ' ' || if(hash(k) % 5000 = 0, 0, k)) AS content_hash, 'text' AS modality,
        source, k + 1 AS position, '{{{{}}}}' AS metadata, split, {{stamp}} FROM part""",
    "lf_inputs": """SELECT item_id, 'text' AS input, left(md5(item_id), 16) AS input_hash, {batch} AS batch, {stamp}
        FROM part""",
    "lf_votes": """SELECT item_id, lf_name, lf_version, left(md5(item_id), 16) AS input_hash, vote, {stamp}
        FROM part JOIN voted USING (r) ORDER BY item_id, lf_name""",
    "weak_labels": "SELECT item_id, label_model_id, weak AS probs, votes, {stamp} FROM part",
    "predictions": "SELECT item_id, end_model_id, probs, class_id, confidence, {stamp} FROM part",
    "values": f"""SELECT item_id, {{batch}} AS cycle, {_WORTH}, 'reason ' || hash(k) % 20 AS reason, {{stamp}}
        FROM part WHERE split = 'train'""",
    "queue": f"""SELECT item_id, 'big' AS project, 'answered' AS state, {{batch}} AS cycle,
        row_number() OVER (ORDER BY k) AS rank, hash(k, 0) % 10000 / 10000.0 AS value, 'reason' AS reason,
        class_id AS prediction, confidence, sha256(left(content, {TEXT_CHARS}) || ' ' || if(hash(k) % 5000 = 0, 0, k))
        AS content_hash, 't' || k AS task_id, {{stamp}} FROM {_SENT}""",
    "annotations": f"""SELECT 'a' || k || '-' || turn AS annotation_id, item_id, 'big' AS project, 't' || k AS task_id,
        'annotator ' || (hash(k, 7) + turn) % 6 AS annotator,
        if({_CHANCE.format(salt="turn + 10")} < 0.03, 'skipped', 'labelled') AS action,
        if({_CHANCE.format(salt="turn + 10")} < 0.03, -1, if({_CHANCE.format(salt="turn + 20")} < 0.1,
            (class_id + 1) % (SELECT count(*) FROM classes), class_id)) AS class_id, true AS simulated,
        TIMESTAMPTZ '2026-01-01 06:00:00+00' + INTERVAL (k % 2000000) SECOND AS created_at, created_at AS updated_at,
        4.0 + hash(k, turn) % 300 / 10 AS seconds, {{stamp}}
        FROM (SELECT * FROM {_SENT}), range(0, 2) s(turn) WHERE turn = 0 OR hash(k, 5) % 5 = 0""",
}


def _vectors(cursor: duckdb.DuckDBPyConnection, count: int) -> None:
    """Vectors of real texts, each moved a little and brought back to length 1, so that no two are alike."""
    found = cursor.execute("SELECT encoder_id, vector FROM base.vectors ORDER BY item_id").to_arrow_table()
    real = list_column_to_matrix(found.column("vector"), what="vector")
    rng = np.random.default_rng(0)
    for first in range(0, count, VECTOR_ROWS):
        rows = np.arange(first, min(first + VECTOR_ROWS, count))
        moved = real[rows % len(real)] + rng.standard_normal((len(rows), real.shape[1]), np.float32) * np.float32(0.02)
        moved /= np.linalg.norm(moved, axis=1, keepdims=True)
        n = len(rows)
        table = pa.table(
            {
                "item_id": [f"r{k:09d}" for k in rows],
                "encoder_id": [found.column("encoder_id")[0].as_py()] * n,
                "content_hash": ["h"] * n,
                "vector": matrix_to_list_array(moved),
                "tokens": pa.array([32] * n, pa.int32()),
                "truncated": [False] * n,
                "active_frac": pa.array([1.0] * n, pa.float32()),
                "route": [""] * n,
                "run_id": ["big"] * n,
                "committed_at": pa.array([datetime(2026, 1, 1, tzinfo=UTC)] * n, pa.timestamp("us", "UTC")),
            }
        )
        cursor.register("moved", table)
        cursor.execute("INSERT INTO vectors BY NAME FROM moved")
        cursor.unregister("moved")
