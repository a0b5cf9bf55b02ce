"""`siftline sql`: reads, in forms that programs can read again, and never writes, however it is asked."""

import csv
import hashlib
import io
import json
from pathlib import Path

import pyarrow as pa
import pytest

from flows.cli.main import run_command
from warehouse import Append, Lake


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "siftline.toml").write_text(
        '[project]\nname = "p"\nclasses = ["a", "b"]\n[[sources]]\nname = "s"\npath = "s.csv"\n', "utf-8"
    )
    rows = pa.table({"class_id": pa.array([0, 1], pa.int32()), "name": ["=cmd()", 'b "quoted", ümlaut\nline']})
    with Lake(tmp_path / "lake") as lake, lake.stage("ingest", version=1, inputs=()) as stage:
        stage.commit([Append("classes", rows)])
    return tmp_path


def state(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Hashes of all data files and of all tables; the catalogue's own bytes change when readers come and go."""
    found = [p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("catalog.sqlite")]
    with Lake(folder) as lake:
        return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}, lake.content_hash()


def ask(project: Path, *arguments: str) -> int:
    return run_command(["sql", *arguments, "--project", str(project)])


@pytest.mark.parametrize(
    "query",
    [
        "copy (select 'pwn') to '{lake}/catalog.sqlite' (format csv)",
        "explain analyze copy (select 'pwn') to '{lake}/catalog.sqlite' (format csv)",
        "explain copy (select 'pwn') to '{lake}/catalog.sqlite' (format csv)",
        "select 1; copy (select 1) to '{lake}/x.csv'",
        "export database '{lake}/x'",
        "attach '{lake}/catalog.sqlite' as c (type sqlite)",
        "drop table classes",
        "create table lake.mine as select 1",
        "create table __ducklake_metadata_lake.mine as select 1",
        "create persistent secret s (type s3)",
        "select * from ducklake_expire_snapshots('lake', older_than => now())",
        "select * from ducklake_cleanup_old_files('lake', cleanup_all => true)",
        "select * from ducklake_delete_orphaned_files('lake', cleanup_all => true)",
        "set lock_configuration = false",
        "call ducklake_expire_snapshots('lake')",
        "pragma database_list; delete from classes",
    ],
)
def test_whatever_is_asked_no_file_changes(project: Path, query: str) -> None:
    before = state(project / "lake")
    assert ask(project, query.format(lake=project / "lake")) == 2
    assert state(project / "lake") == before


def test_every_statement_answers(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(project, "create temp table t as select 5 as x; select x from t; select x + 1 as y from t") == 0
    assert capsys.readouterr().out.split() == ["x", "5", "y", "6"]


def test_csv_reads_back_and_no_cell_is_a_formula(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(project, "--format", "csv", "select name, [1, null] as l from classes order by class_id") == 0
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert rows == [["name", "l"], ["'=cmd()", "[1, null]"], ['b "quoted", ümlaut\nline', "[1, null]"]]


def test_json_is_json_whatever_the_value(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    query = "select 'nan'::double as n, 'inf'::double as i, null as z, [1.5] as l, date '2026-01-02' as d"
    query += ", '\\x00'::blob as b"
    assert ask(project, "--format", "json", query) == 0

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    row = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert row == {"n": None, "i": None, "z": None, "l": ["1.5"], "d": "2026-01-02", "b": "00"}


def test_a_wrong_query_is_told_without_a_traceback(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(project, "select * from itms") == 2
    told = capsys.readouterr().err
    assert "itms" in told
    assert "show all tables" in told
