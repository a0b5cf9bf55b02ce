"""A large warehouse from a small real one: real texts, votes, vectors and predictions, repeated with new ids.

The small one is made by the real pipeline on the first Reuters news. Repeating happens inside DuckDB (`large.sql`),
commit by commit as a stream would arrive, so ten million items take minutes. People's answers are drawn from the
predictions with a fixed share of errors, by hash, so that equal arguments give equal warehouses.
"""

from datetime import UTC, datetime
from pathlib import Path
from string import Template

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
VECTOR_ROWS = 50_000


def make_base(folder: Path, *, train: int = 1200, test: int = 300) -> Path:
    """A small project's warehouse, made by the real pipeline with the simulated annotator."""
    sample = get_sample("reuters-r8", folder / "sample")
    root = make_small_project(folder / "project", sample, train=train, test=test)
    run_passes(run_stage_in_process(Project(root)), simulated=True)
    return root / "lake"


def enlarge(base: Path, target: Path, *, items: int, vectors: int) -> None:
    """Write a warehouse of `items` items and `vectors` vectors with everything the small one knows of them."""
    once, each = Path(__file__).with_suffix(".sql").read_text("utf-8").split("-- each commit\n")
    with Lake(target) as lake:
        cursor = lake.new_cursor()
        cursor.execute(attach_statement(base, read_only=True, name="base"))
        cursor.execute(once)
        [[count]] = cursor.execute("SELECT count(*) FROM known").fetchall()
        for number in range(COMMITS):
            stamp = f"'big' AS run_id, TIMESTAMPTZ '2026-01-01 00:00:00+00' + INTERVAL {number} DAY AS committed_at"
            first, last = items * number // COMMITS, items * (number + 1) // COMMITS
            filled = Template(each).substitute(stamp=stamp, batch=number + 1, first=first, last=last, count=count)
            cursor.execute(f"BEGIN TRANSACTION; {filled} COMMIT")
        cursor.execute(f"UPDATE lf_reach SET items = {items}, batch = {COMMITS}")
        if vectors:
            _add_vectors(cursor, vectors)
        cursor.close()


def _add_vectors(cursor: duckdb.DuckDBPyConnection, count: int) -> None:
    """Vectors of real texts, each moved a little and brought back to length 1, so that no two are alike."""
    found = cursor.execute("SELECT encoder_id, vector FROM base.vectors ORDER BY item_id").to_arrow_table()
    real = list_column_to_matrix(found.column("vector"), what="vector")
    rng = np.random.default_rng(0)
    for first in range(0, count, VECTOR_ROWS):
        rows = np.arange(first, min(first + VECTOR_ROWS, count))
        moved = real[rows % len(real)] + rng.standard_normal((len(rows), real.shape[1]), np.float32) * np.float32(0.02)
        moved /= np.linalg.norm(moved, axis=1, keepdims=True)
        same = {"encoder_id": found.column("encoder_id")[0].as_py(), "content_hash": "h", "tokens": 32, "route": ""}
        same |= {
            "truncated": False,
            "active_frac": 1.0,
            "run_id": "big",
            "committed_at": datetime(2026, 1, 1, tzinfo=UTC),
        }
        ids = {"item_id": [f"r{k:09d}" for k in rows], "vector": matrix_to_list_array(moved)}
        cursor.register("moved", pa.table({**ids, **{name: [value] * len(rows) for name, value in same.items()}}))
        cursor.execute("INSERT INTO vectors BY NAME FROM moved")
        cursor.unregister("moved")
