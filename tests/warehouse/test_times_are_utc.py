"""Times read as UTC on a machine of any time zone: what is said of a commit is the same wherever it is read."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.projects import ROOT
from warehouse import Lake, Location

ZONES = ("Pacific/Pago_Pago", "Pacific/Kiritimati")
"""A day and an hour apart: at any time their days, hours and clocks differ, so that one of them is not that of UTC."""
SETTINGS = """
[project]
name = "p"
classes = ["grain", "ship", "trade"]
[[sources]]
name = "s"
path = "no.csv"
text = "text"
"""
WHERE = "'2026-03-01 00:00'::timestamptz = '2026-03-01 00:00:00+00' and label_source = 'gold'"
COMMANDS = {
    "status": ["status"],
    "snapshots": ["snapshots"],
    "sql": ["sql", "from runs select stage, committed_at, committed_at::varchar, date_trunc('day', committed_at)"],
    "csv": ["sql", "--format", "csv", "from runs select started_at, hour(started_at)"],
    "json": ["sql", "--format", "json", "from annotations select updated_at, updated_at::date"],
    "compared": ["sql", f"select count(*) from training_set where {WHERE}"],
    "stages": ["questions", "slowest-stages"],
    "drift": ["questions", "stream-drift", "--format", "csv"],
    "waiting": ["questions", "waiting-time"],
    "diff": ["diff", "2", "9"],
}
# What each command prints on a machine of this zone, and files in a folder of its own.
CHILD = """
import contextlib, io, json, sys
from flows.cli.main import run_command
commands, at, place = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
commands["at"] = ["sql", "--attach", "--at", at]
commands["export"] = ["export", "training-set", "--format", "csv", "--where", sys.argv[4], "-o", place + "/export"]
commands["parquet"] = ["sql", "from runs select committed_at", "-o", place + "/runs.parquet"]
commands["report"] = ["report", "-o", place + "/report.html"]
said = {}
for name, command in commands.items():
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert run_command(command) == 0, command
    said[name] = out.getvalue()
print(json.dumps(said))
"""


def in_zone(zone: str, code: str, *arguments: str, folder: Path) -> str:
    """Standard output of a Python process on a machine of this time zone."""
    script = folder / "child.py"  # a process of `python -c` is a person's session to DuckDB, which draws a bar in it
    script.write_text(code, "utf-8")
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        env={**os.environ, "TZ": zone, "PYTHONPATH": str(ROOT)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose warehouse was written far from UTC."""
    folder = tmp_path_factory.mktemp("far")
    (folder / "siftline.toml").write_text(SETTINGS)
    write = "from pathlib import Path; from tests.flows.report_lake import full_lake; full_lake(Path('lake')).close()"
    in_zone(ZONES[1], write, folder=folder)
    return folder


@pytest.fixture(scope="module")
def said(project: Path) -> Mapping[str, Mapping[str, Any]]:
    """What the commands print, by zone."""
    with Lake(project / "lake", read_only=True) as lake, lake.read() as reader:
        times = reader.rows("SELECT snapshot_id, snapshot_time FROM lake.snapshots() ORDER BY 1")
    number, at = times[5]
    assert number == 5
    found: dict[str, Any] = {}
    for zone in ZONES:
        folder = project / zone.replace("/", "-")
        folder.mkdir()
        arguments = [json.dumps(COMMANDS), at.astimezone(UTC).replace(tzinfo=None).isoformat(), folder.name, WHERE]
        found[zone] = json.loads(in_zone(zone, CHILD, *arguments, folder=project))
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_the_same_in_every_zone(said: Mapping[str, Mapping[str, Any]], name: str) -> None:
    here, there = (said[zone][name] for zone in ZONES)
    assert here
    assert there == here


def test_a_condition_of_an_export_means_the_same_in_every_zone(project: Path, said: Mapping[str, Any]) -> None:
    places = [project / zone.replace("/", "-") / "export" for zone in said]
    manifests = [json.loads((place / "manifest.json").read_text()) for place in places]
    assert manifests[0]["counts"]["rows"]
    assert manifests[0]["snapshot_time"].endswith("+00:00")
    assert manifests == [manifests[0]] * 2
    assert len({(place / "training_set.csv").read_bytes() for place in places}) == 1


def test_a_parquet_file_of_a_query_has_the_zone_utc(project: Path, said: Mapping[str, Any]) -> None:
    for zone in said:
        schema = pq.read_schema(project / zone.replace("/", "-") / "runs.parquet")
        assert str(schema.field("committed_at").type) == "timestamp[us, tz=UTC]"


def test_a_time_without_a_zone_means_utc_for_at(said: Mapping[str, Any]) -> None:
    for zone in said:
        assert "SNAPSHOT_VERSION 5)" in said[zone]["at"]


def test_the_report_names_the_commit_in_utc(project: Path, said: Mapping[str, Any]) -> None:
    with Lake(project / "lake", read_only=True) as lake, lake.read() as reader:
        last = reader.scalar("SELECT max(committed_at) FROM runs").astimezone(UTC)
    for zone in said:
        page = (project / zone.replace("/", "-") / "report.html").read_text()
        assert f"last changed {last.day} {last:%b %Y, %H:%M} UTC" in page


READ = """
import sys, pathlib
from warehouse import Lake, Location, connect
from warehouse.queries.open import connect_for_people
place = Location(folder=pathlib.Path("lake").absolute(), catalog=sys.argv[1])
ask = "SELECT max(committed_at) AS t, max(committed_at)::VARCHAR AS v FROM runs"
with Lake(place) as lake, lake.read() as reader, lake.stage("x", version=1, inputs=()) as stage, connect(place) as door:
    for one in (reader, stage, door):
        print(one.rows(ask), one.arrow(ask).schema.field("t").type, one.pandas(ask).dtypes["t"], one.polars(ask).schema)
    print(connect_for_people(place, at=reader.snapshot()).execute(ask).fetchall())
    print(lake.new_cursor().execute(ask).fetchall())
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_every_way_to_read_gives_utc(tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    catalog = "sqlite" if kind == "sqlite" else request.getfixturevalue("postgres")
    place = Location(folder=tmp_path / "lake", catalog=catalog)
    with Lake(place) as lake, lake.stage("test", version=1, inputs=()) as stage:
        stage.commit()
        with lake.read() as reader:
            at = reader.scalar("SELECT max(committed_at) FROM runs")
    shown = at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f").rstrip("0").rstrip(".")  # as DuckDB does, no last zeros
    for zone in ZONES:
        lines = in_zone(zone, READ, catalog, folder=tmp_path).splitlines()
        assert len(lines) == 5
        for line in lines:
            assert f"{shown}+00" in line
            assert "tzinfo=<UTC>" in line
        assert all("timestamp[us, tz=UTC] datetime64[us, UTC]" in line and "'UTC'" in line for line in lines[:3])


def test_nothing_opens_duckdb_in_the_zone_of_the_machine() -> None:
    packages = ("warehouse", "engine", "features", "weak_labels", "active", "flows")
    files = [file for package in packages for file in (ROOT / package).rglob("*.py")]
    found = [
        str(file.relative_to(ROOT))
        for file in files
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "duckdb.connect"
    ]
    assert found == ["warehouse/session/duckdb.py"]
