"""The siftline command: help for everything, exit codes that mean something, no traceback for a user's mistake."""

import subprocess
import sys
from pathlib import Path

import pytest

from flows.cli.main import run_command
from tests.projects import ROOT

COMMANDS = [
    ["init"],
    ["run"],
    ["status"],
    ["report"],
    ["sql"],
    ["queue"],
    ["collect"],
    ["embed"],
    ["doctor"],
    ["lf", "preview"],
    ["lf", "report"],
    ["samples", "list"],
    ["samples", "get"],
    ["studio", "up"],
    ["studio", "status"],
    ["studio", "down"],
]


def siftline(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows.cli.main", *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command([*command, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Example: siftline " + " ".join(command) in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["status"], "siftline init"),
        (["run"], "siftline init"),
        (["queue"], "siftline init"),
        (["no-such-command"], "No such command"),
        (["run", "--annotator", "nobody"], "nobody"),
        (["samples", "get", "no-such-sample"], "reuters-r8"),
        (["embed", "--input", "missing.jsonl", "--output", "x.parquet"], "missing.jsonl"),
        (["embed", "--input", "missing.jsonl", "--output", "x.parquet", "--encoder", "gpt"], "dense"),
        (["init", "new"], "--classes"),
        (["init", "new", "--classes", "a,b", "--source", "missing.csv"], "missing.csv"),
    ],
)
def test_a_users_mistake_is_told_in_words_with_exit_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(arguments) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert "Traceback" not in captured.err


def test_help_answers_without_loading_torch_or_prefect() -> None:
    code = (
        "import sys; from flows.cli.main import run_command; run_command(['--help']);"
        "sys.exit(bool({'torch', 'prefect', 'snorkel', 'label_studio_sdk'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True).returncode == 0


def test_init_never_overwrites(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "p"
    assert run_command(["init", str(folder), "--classes", "spam,ham"]) == 0
    (folder / "labeling_functions.py").write_text("mine")
    assert run_command(["init", str(folder), "--classes", "other,classes"]) == 2
    assert "nothing was changed" in capsys.readouterr().err
    assert (folder / "labeling_functions.py").read_text() == "mine"


def test_doctor_tells_what_to_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(["doctor"]) == 0
    assert "MEND" not in capsys.readouterr().out
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert run_command(["doctor"]) == 2
    told = capsys.readouterr().out
    assert "LABEL_STUDIO_API_KEY" in told
    assert "prefect server start" in told
