"""The built wheel in an empty environment: it installs, the command answers, a project is made and run."""

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from tests.projects import ROOT

NOT_PACKED = {"tests", "benchmarks", "examples", "docs"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, made from the source distribution beside it."""
    folder = tmp_path_factory.mktemp("wheel")
    compiler = folder / "c++"  # what the compiler makes better takes it most of a minute
    compiler.write_text('#!/bin/sh\nexec /usr/bin/env c++ "$@" -O0\n')
    compiler.chmod(0o755)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    quickly = {**os.environ, "CC": str(compiler), "CXX": str(compiler)}
    subprocess.run(command, check=True, capture_output=True, env=quickly)
    [built] = folder.glob("siftline-*.whl")
    return built


@pytest.fixture(scope="module")
def siftline(wheel: Path) -> Path:
    """The command of an environment that holds the wheel and its dependencies, and not this repository."""
    folder = wheel.parent
    venv.create(folder / "env", with_pip=True)
    python = folder / "env" / "bin" / "python"
    command = [str(python), "-I", "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt"), str(wheel)]
    installed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert installed.returncode == 0, installed.stderr[-2000:]
    return folder / "env" / "bin" / "siftline"


def run(command: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(command), *arguments], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.heavy
def test_the_installed_command_makes_and_runs_a_project(siftline: Path, tmp_path: Path) -> None:
    lines = [f'{{"text": "{word} number {n}"}}' for n in range(20) for word in ("good apple", "bad pear")]
    (tmp_path / "fruit.jsonl").write_text("\n".join(lines), "utf-8")
    made = run(siftline, "init", "p", "--source", "fruit.jsonl", "--classes", "good,bad", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    (tmp_path / "p" / "labeling_functions.py").write_text(
        'from weak_labels import keywords\n\ngood = keywords("good", ["good"])\nbad = keywords("bad", ["bad"])\n'
        'pear = keywords("bad", ["pear"])\n',
        "utf-8",
    )
    for command in (["doctor"], ["run"], ["report"], ["sql", "select count(*) from training_set"], ["questions"]):
        ended = run(siftline, *command, cwd=tmp_path / "p")
        assert ended.returncode == 0, ended.stderr + ended.stdout
    assert (tmp_path / "p" / "report.html").is_file()
    page = run(siftline, "docs", "label-studio", "Accounts by number", cwd=tmp_path)
    assert page.stdout.startswith("### Accounts by number\n"), page.stderr


def test_the_wheel_holds_the_packages_and_nothing_of_tests_or_data(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    names = archive.namelist()
    for package in ("warehouse", "engine", "features", "weak_labels", "active", "flows"):
        assert f"{package}/__init__.py" in names
    assert "siftline.py" in names
    for model in ("routed-minilm", "shallow-minilm"):
        assert f"engine/models/{model}.safetensors" in names
    # Without a compiler, or with a header that was not packed, it is left out in silence.
    [library] = [name for name in names if name.startswith("engine/kernels/native/_forward") and name.endswith(".so")]
    assert b"engine/kernels" not in archive.read(library), "names of the folders it was built in"
    assert not NOT_PACKED & {name.partition("/")[0] for name in names}
    beside = "siftline-0.1.0.data/data/share/doc/siftline/"
    assert {name for name in names if name.startswith(beside)} == {
        beside + page.name for page in ROOT.glob("docs/*.md")
    }


def test_the_source_distribution_holds_as_little(wheel: Path) -> None:
    [packed] = wheel.parent.glob("siftline-*.tar.gz")
    with tarfile.open(packed) as archive:
        files = [name.partition("/")[2] for name in archive.getnames()]
    assert {name for name in files if name.startswith("docs/")} <= {
        f"docs/{page.name}" for page in ROOT.glob("docs/*.md")
    }
    assert not (NOT_PACKED - {"docs"}) & {name.partition("/")[0] for name in files}
