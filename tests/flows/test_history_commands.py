"""`siftline snapshots`, `diff`, `export`, conditions: they answer in words, every wrong request names the way out."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flows.cli.main import run_command
from tests.flows.report_lake import full_lake


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commands")
    (folder / "siftline.toml").write_text(
        '[project]\nname = "p"\nclasses = ["a", "b"]\n[[sources]]\nname = "s"\npath = "s.csv"\n', "utf-8"
    )
    full_lake(folder / "lake").close()
    return folder


def ask(project: Path, *arguments: str) -> int:
    return run_command([*arguments, "--project", str(project)])


def test_the_commands_tell_what_happened(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(project, "snapshots", "--limit", "4") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("\t") == ["snapshot", "time (UTC)", "author", "message", "rows"]
    assert len(lines) == 5
    newest = int(lines[1].split("\t")[0])

    assert ask(project, "diff", "4", str(newest), "--output", str(tmp_path / "all.jsonl"), "--limit", "3") == 0
    told = capsys.readouterr().out
    assert f"snapshot 4 to {newest}: 90 labels changed" in told
    assert "first label\t74" in told
    assert "gold given\t16" in told
    rows = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text("utf-8").splitlines()]
    assert len(rows) == 90

    assert ask(project, "export", "training-set", "--output", str(tmp_path / "set"), "--at", str(newest)) == 0
    told = capsys.readouterr().out
    assert "90 rows" in told
    assert f"--at {newest} --format parquet" in told
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text("utf-8"))
    assert manifest["snapshot"] == newest


def test_a_question_starts_without_the_packages_that_do_the_work(project: Path) -> None:
    """They took most of what an answer cost: seconds, for torch above all."""
    script = (
        "import sys; from flows.cli.main import run_command; code = run_command(sys.argv[1:]); "
        "heavy = {'torch', 'sklearn', 'snorkel', 'label_studio_sdk', 'prefect'} & sys.modules.keys(); "
        "sys.exit(code or ' '.join(heavy) or 0)"
    )
    asked = ["sql", "-c", "select count(*) as n from items", "--project", str(project)]
    ended = subprocess.run([sys.executable, "-c", script, *asked], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["diff", "4", "999"], "no snapshot 999 yet"),
        (["diff", "-1"], "has no negative number"),
        (["diff", "4", "-16"], "has no negative number"),
        (["diff", "yesterday"], "neither a snapshot number nor a time"),
        (["diff", "4", "--output", "{tmp}/none/x.csv"], "does not exist"),
        (["export", "training-set", "--output", "{tmp}"], "exists already"),
        (["export", "training-set", "--output", "{tmp}/x", "--format", "xml"], "xml"),
        (["export", "training-set", "--output", "{tmp}/x", "--at", "-1"], "no snapshot -1"),
        (["export", "training-set", "--output", "{tmp}/x", "--at", "2999-01-01"], "future"),
        (["export", "training-set", "--output", "{tmp}/x", "--where", "colour = 1"], "colour"),
    ],
)
def test_a_wrong_request_is_told_and_writes_nothing(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert ask(project, *[a.format(tmp=tmp_path) for a in arguments]) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_condition_of_lf_report_cannot_write_over_the_warehouse(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = next((project / "lake" / "data").rglob("*.parquet"))
    before = file.read_bytes()
    where = f"true)) SELECT 1; COPY (SELECT 1 AS a) TO '{file}'; WITH scope AS (SELECT item_id FROM items WHERE (true"
    assert ask(project, "lf", "report", "--where", where) == 2
    assert "condition" in capsys.readouterr().err
    assert file.read_bytes() == before
