"""`siftline sql`: reads, in forms that programs can read again, and never writes, however it is asked."""

import csv
import errno
import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.cli.main import run_command
from tests.lakes import copy_of
from tests.projects import ROOT
from tests.warehouse.test_maintain import filled
from warehouse import Append, Lake, SettingsError
from warehouse.files.atomic_file import replaced_file
from warehouse.maintenance.compaction import maintain
from warehouse.session.extensions import PACKAGES, extension_path


def two_classes(path: Path) -> Lake:
    lake = Lake(path)
    rows = pa.table({"class_id": pa.array([0, 1], pa.int32()), "name": ["=cmd()", 'b "quoted", ümlaut\nline']})
    with lake.stage("ingest", version=1, inputs=()) as stage:
        stage.commit([Append("classes", rows)])
    return lake


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "siftline.toml").write_text(
        '[project]\nname = "p"\nclasses = ["a", "b"]\n[[sources]]\nname = "s"\npath = "s.csv"\n', "utf-8"
    )
    copy_of(two_classes, tmp_path / "lake").close()
    return tmp_path


def files_of(folder: Path) -> dict[str, str]:
    """Hashes of all files but the catalogue, whose own bytes change when readers come and go."""
    found = [p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("catalog.sqlite")]
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


def state(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Hashes of all files and of all tables."""
    with Lake(folder) as lake:
        return files_of(folder), lake.content_hash()


def ask(project: Path, *arguments: str) -> int:
    return run_command(["sql", *arguments, "--project", str(project)])


WRITES = (
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
)


def test_whatever_is_asked_no_file_changes(project: Path) -> None:
    before = state(project / "lake")
    for query in WRITES:
        assert ask(project, query.format(lake=project / "lake")) == 2, query
        assert files_of(project / "lake") == before[0], query
    assert state(project / "lake") == before


def test_every_statement_answers(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(project, "create temp table t as select 5 as x; select x from t; select x + 1 as y from t") == 0
    assert capsys.readouterr().out.split() == ["x", "5", "y", "6"]


def test_csv_reads_back_and_no_cell_is_a_formula(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(project, "--format", "csv", "select name, [1, null] as l from classes order by class_id") == 0
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert rows == [["name", "l"], ["'=cmd()", "[1, null]"], ['b "quoted", ümlaut\nline', "[1, null]"]]


def test_small_numbers_and_nulls_in_a_table_are_not_rounded_away(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(project, "select 2e-5 as s, 0.25::double as q, 0.0::double as z, [0.123456::double, null] as l") == 0
    assert capsys.readouterr().out.splitlines() == ["s\tq\tz\tl", "2e-05\t0.250\t0.000\t0.123, -"]


def test_json_is_json_whatever_the_value(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    query = "select 'nan'::double as n, 'inf'::double as i, null as z, [1.5] as l, date '2026-01-02' as d"
    query += ", '\\x00'::blob as b"
    assert ask(project, "--format", "json", query) == 0

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    row = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert row == {"n": None, "i": None, "z": None, "l": [1.5], "d": "2026-01-02", "b": "00"}


def test_a_wrong_query_is_told_without_a_traceback(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(project, "select * from itms") == 2
    told = capsys.readouterr().err
    assert "itms" in told
    assert "show all tables" in told


def test_a_key_taken_out_of_a_truth_value_is_told_with_the_way_out(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """DuckDB reads `a AND metadata->>'k' = 'x'` as `(a AND metadata)->>'k' = 'x'`."""
    item = "(SELECT '{\"desk\": \"x\"}'::JSON AS metadata, 'a' AS text)"
    assert ask(project, f"SELECT text FROM {item} WHERE text = 'a' AND metadata->>'desk' = 'x'") == 2
    assert "Put it in brackets" in capsys.readouterr().err
    assert ask(project, f"SELECT text FROM {item} WHERE text = 'a' AND (metadata->>'desk') = 'x'") == 0
    assert ask(project, f"SELECT text::INTEGER FROM {item} WHERE metadata->>'desk' = 'x'") == 2
    assert "Tables and views" in capsys.readouterr().err


def test_one_shot_by_option_by_argument_and_from_a_pipe(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    query = "select count(*) as n from classes"
    told: list[str] = []
    for arguments, piped in (([query], ""), (["-c", query], ""), ([], query), ([], f"{query};")):
        monkeypatch.setattr("sys.stdin", io.StringIO(piped))
        assert ask(project, "--format", "csv", *arguments) == 0
        told.append(capsys.readouterr().out)
    assert {*told} == {"n\r\n2\r\n"}
    assert ask(project, query, "-c", query) == 2
    assert "two queries" in capsys.readouterr().err


def test_a_wrong_query_in_a_pipe_stops_the_script(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("select * from itms;\nselect 'went on';\n"))
    assert ask(project) == 2
    assert "went on" not in capsys.readouterr().out


def test_a_query_of_a_pipe_ends_with_the_semicolon_outside_texts_and_comments(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = "select 'one;\ntwo' as a;\nselect 1 as b -- first;\n, 2 as c;\nselect /* a;\n*/ 3 as d; -- last;\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(queries))
    assert ask(project, "--format", "csv") == 0
    assert capsys.readouterr().out == 'a\r\n"one;\ntwo"\r\nb,c\r\n1,2\r\nd\r\n3\r\n'


def test_a_reader_that_leaves_is_no_fault(project: Path) -> None:
    command = [sys.executable, "-m", "flows.cli.main", "sql", "--project", str(project), "--format", "csv"]
    with subprocess.Popen([*command, "select range from range(300000)"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 0


def test_a_reader_that_left_before_a_sentence_is_no_fault(project: Path) -> None:
    command = [sys.executable, "-m", "flows.cli.main", "status", "--project", str(project)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert (process.stderr.read(), process.wait(60)) == ("", 0)


@pytest.mark.parametrize(("query", "code"), [("select 1", 0), ("select nosuch", 2)])
def test_streams_that_came_closed_are_no_fault(project: Path, query: str, code: int) -> None:
    command = [sys.executable, "-m", "flows.cli.main", "sql", "--project", str(project), query]
    assert subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command], check=False).returncode == code


def test_a_broken_pipe_of_our_own_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("flows.cli.data.sql.run_sql", broken)
    with pytest.raises(BrokenPipeError):
        run_command(["sql", "select 1"])


def test_a_file_holds_what_was_asked_in_every_form(project: Path) -> None:
    query = "select class_id, name from classes order by class_id"
    for form in ("parquet", "csv", "json"):
        assert ask(project, "--format", form, "--output", str(project / f"out.{form}"), query) == 0
    assert pq.read_table(project / "out.parquet").to_pydict()["name"] == ["=cmd()", 'b "quoted", ümlaut\nline']
    assert next(csv.reader((project / "out.csv").read_text("utf-8").splitlines()[1:])) == ["0", "'=cmd()"]
    assert json.loads((project / "out.json").read_text("utf-8").splitlines()[0]) == {"class_id": 0, "name": "=cmd()"}


def test_columns_of_one_name_are_numbered_as_duckdb_does(project: Path) -> None:
    query = "select 1 as label, 2 as Label, 3 as label_1, 4 as label, 5 as other"
    for form in ("parquet", "csv", "json"):
        assert ask(project, "--output", str(project / f"out.{form}"), query) == 0
    with duckdb.connect() as connection:
        expected = connection.execute(query).df().to_dict("records")
    assert pq.read_table(project / "out.parquet").to_pylist() == expected
    assert [json.loads((project / "out.json").read_text())] == expected
    with (project / "out.csv").open() as file:
        assert [{k: int(v) for k, v in row.items()} for row in csv.DictReader(file)] == expected


def test_a_file_without_a_format_is_what_its_suffix_says(project: Path) -> None:
    query = "select class_id, name from classes order by class_id"
    for name, form in {"a.parquet": "parquet", "a.CSV": "csv", "a.json": "json", "a.jsonl": "json"}.items():
        assert ask(project, "--output", str(project / name), query) == 0
        assert ask(project, "--format", form, "--output", str(project / "asked"), "--force", query) == 0
        assert (project / name).read_bytes() == (project / "asked").read_bytes()
    assert ask(project, "--format", "json", "--output", str(project / "b.jsonl"), query) == 0
    counted = ["questions", "label-balance", "--output", str(project / "c.csv"), "--project", str(project)]
    assert run_command(counted) == 0
    assert (project / "c.csv").read_text("utf-8").startswith("label,")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--format", "csv", "--output", "{taken}", "select 1"], "exists already"),
        (["--format", "csv", "--output", "{project}", "select 1"], "is a folder"),
        (["--format", "csv", "--output", "{project}/none/out.csv", "select 1"], "does not exist"),
        (["--format", "csv", "--output", "/proc/out.csv", "select 1"], "/proc/out.csv cannot be written"),
        (["--format", "csv", "--output", "-", "select 1"], "leave --output out"),
        (["--format", "csv", "--output", "/dev/stdout", "select 1"], "device or a pipe"),
        (["--format", "csv", "--output", "{new}", "select nope"], "nope"),
        (["select * from 'mine.csv'"], "Join your own from Python"),
        (["select * from classes at (version => 999)"], "siftline snapshots --project "),
        (["--format", "parquet", "--output", "{new}", "select 1; select 2"], "asks for 2"),
        (["--output", "{new}", "select 1"], "give --format"),
        (
            ["--format", "csv", "--output", "{new}.parquet", "select 1"],
            "of parquet by its suffix, and --format says csv",
        ),
        (["--output", "{new}.xlsx", "select 1"], ".csv, .json, .jsonl, .parquet instead of new.xlsx"),
        (["--format", "xlsx", "select 1"], "xlsx"),
        (["--at", "999", "select 1"], "no snapshot 999 yet"),
        (["--at", "2999-01-01", "select 1"], "future"),
        (["--at", "-1", "select 1"], "no snapshot -1"),
        (["--at", "soon", "select 1"], "neither a snapshot number nor a time"),
        (["--at", "", "select 1"], "empty text; is a shell variable unset?"),
        (["--at", " ", "select 1"], "leave it out for the newest"),
        (["--attach", "--at", ""], "leave it out for the newest"),
    ],
)
def test_a_wrong_request_is_told_with_the_way_out_and_writes_nothing(
    project: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    (project / "taken").write_text("mine")
    before = {p.name for p in project.iterdir()}
    places = {"taken": project / "taken", "project": project, "new": project / "new"}
    assert ask(project, *[a.format(**places) for a in arguments]) == 2
    assert words in capsys.readouterr().err
    assert {p.name for p in project.iterdir()} == before
    assert (project / "taken").read_text() == "mine"


def test_a_file_is_replaced_only_by_force(project: Path) -> None:
    (project / "out.csv").write_text("old")
    assert ask(project, "--format", "csv", "--output", str(project / "out.csv"), "--force", "select 1 as x") == 0
    assert (project / "out.csv").read_text() == "x\n1\n"


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_a_pipe_is_no_place_for_a_file(project: Path, capsys: pytest.CaptureFixture[str], force: list[str]) -> None:
    """Root that asked for /dev/null would have no null device any more."""
    pipe = project / "pipe.csv"
    os.mkfifo(pipe)
    assert ask(project, "--output", str(pipe), *force, "select 1 as x") == 2
    assert "device or a pipe" in capsys.readouterr().err
    assert pipe.is_fifo()
    with pytest.raises(SettingsError, match="device or a pipe"), replaced_file(pipe):
        pass
    assert pipe.is_fifo()


def test_the_past_is_asked_with_at(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Lake(project / "lake") as lake:
        before = lake.snapshot()
        with lake.stage("more", version=1, inputs=()) as stage:
            stage.commit([Append("classes", pa.table({"class_id": pa.array([2], pa.int32()), "name": ["c"]}))])
    for arguments, count in ((["--at", str(before)], "2"), ([], "3")):
        assert ask(project, "--format", "csv", *arguments, "select count(*) as n from classes") == 0
        assert capsys.readouterr().out.split() == ["n", count]
    assert ask(project, "--at", str(before), "delete from classes") == 2


def test_three_lines_open_it_in_any_duckdb_client(
    project: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A client that installed the two extensions once, as DuckDB's own clients do when they meet the ATTACH."""
    guide = (ROOT / "docs" / "querying.md").read_text("utf-8")
    assert "siftline sql --attach" in guide
    with Lake(project / "lake") as lake:
        filled(lake, 3)
    assert ask(project, "--attach") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    platform = duckdb.sql("PRAGMA platform").fetchall()[0][0]
    installed = tmp_path / "extensions" / f"v{duckdb.__version__}" / platform
    installed.mkdir(parents=True)
    for name in PACKAGES:
        (installed / f"{name}.duckdb_extension").symlink_to(extension_path(name))
    client = duckdb.connect(config={"extension_directory": str(tmp_path / "extensions")})
    for line in lines:
        client.execute(line)
    client.execute("BEGIN")
    counts = "SELECT (SELECT count(*) FROM classes), (SELECT count(*) FROM items), (SELECT count(*) FROM runs)"
    before = client.execute(counts).fetchone()
    with Lake(project / "lake") as lake:
        maintain(lake)
    assert client.execute(counts).fetchone() == before
    client.execute("COMMIT")
    with pytest.raises(duckdb.Error):
        client.execute("DELETE FROM classes")
