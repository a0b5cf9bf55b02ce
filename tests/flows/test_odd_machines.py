"""The siftline command on machines that are not like ours: users without a home, limits, proxies, files of others."""

import importlib
import os
import resource
import subprocess
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

import duckdb
import httpx
import pytest

import siftline
from flows.cli.main import run_command
from flows.cli.terminal.console import of_surroundings
from tests.projects import ROOT


def test_a_user_id_without_a_home_or_a_name_is_served_and_in_a_locale_without_its_letters(tmp_path: Path) -> None:
    (tmp_path / "fruit.csv").write_text("text\ngood apple\nbad pear\n")
    unknown = "import pwd; pwd.getpwuid = {}.__getitem__; from flows.cli.main import main; main()"
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME")}
    environment["PYTHONIOENCODING"] = "ascii"
    for command in ("init . --source fruit.csv --classes good,mürbe", "doctor"):
        ended = subprocess.run(
            [sys.executable, "-c", unknown, *command.split()],
            cwd=tmp_path,
            env={**environment, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        assert "init" not in command or "'mürbe'" in ended.stdout
        assert "Traceback" not in ended.stderr


def test_a_home_that_only_somebody_else_may_enter_is_none(tmp_path: Path) -> None:
    as_no_root = ["unshare", "--user"] if os.geteuid() == 0 else []
    if as_no_root and subprocess.run([*as_no_root, "true"], capture_output=True).returncode:
        pytest.skip("root may enter all, and this machine lets nobody be less (user namespaces are off)")
    home = tmp_path / "home"
    home.mkdir(mode=0o000)
    look = "from flows.cli import main; main._give_home(); import os, prefect.settings; print(os.environ.get('HOME'))"
    ended = subprocess.run(
        [*as_no_root, sys.executable, "-c", look],
        env={**os.environ, "HOME": str(home), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr  # Prefect looks there for its profiles as soon as it is imported
    assert ended.stdout.strip() != str(home)


def test_ctrl_c_while_the_command_is_imported_ends_with_a_word(tmp_path: Path) -> None:
    """Such as in the first .2 s, while typer is imported."""
    (tmp_path / "typer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    ended = subprocess.run(
        [sys.executable, "-m", "siftline", "status"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (130, "interrupted\n")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("can't start new thread"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.\nat a.cpp:1"),
    ],
    ids=str,
)
def test_a_limit_of_memory_or_threads_is_told_and_no_other_fault(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(arguments: list[str], *, standalone_mode: bool) -> None:
        raise error

    monkeypatch.setattr("flows.cli.main.app", fails)
    assert run_command(["run"]) == 2
    told = capsys.readouterr().err
    assert "`ulimit -v`" in told
    assert "a.cpp" not in told
    error = type(error)("no module is named so")
    if not isinstance(error, MemoryError):
        with pytest.raises(type(error)):
            run_command(["run"])


def test_a_file_of_another_users_in_the_warehouse_is_not_called_damaged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(arguments: list[str], *, standalone_mode: bool) -> None:
        raise duckdb.IOException('IO Error: Cannot open file "lake/data/main/items/a.parquet": Permission denied')

    monkeypatch.setattr("flows.cli.main.app", fails)
    assert run_command(["status"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "a.parquet" in told
    assert "no sign of damage" in told
    assert "backup" not in told


def test_a_python_without_a_module_of_its_own_is_told_how_to_have_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(arguments: list[str], *, standalone_mode: bool) -> None:
        monkeypatch.setitem(sys.modules, "_sqlite3", None)  # as where Python was compiled without SQLite's headers
        importlib.import_module("_sqlite3")

    monkeypatch.setattr("flows.cli.main.app", fails)
    assert run_command(["run"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "This Python was built without its own module '_sqlite3'" in told
    assert "libsqlite3-dev" in told
    assert of_surroundings(ModuleNotFoundError("No module named 'polars'", name="polars")) is None


@pytest.mark.parametrize("proxy", ["socks://127.0.0.1:9", "socks5://127.0.0.1:9"])
def test_a_proxy_that_prefects_client_cannot_use_is_told(
    proxy: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)

    def fails(arguments: list[str], *, standalone_mode: bool) -> None:
        monkeypatch.setitem(sys.modules, "socksio", None)
        httpx.Client()

    monkeypatch.setattr("flows.cli.main.app", fails)
    assert run_command(["run"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "`env -u ALL_PROXY siftline ...` goes without it" in told
    assert "pip install 'httpx[socks]'" in told


@pytest.mark.parametrize("name", ["features/__init__.py", "flows/__init__.py", "active.py"])
def test_a_package_of_somebody_elses_that_comes_first_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    ended = _with_paths(tmp_path)
    assert ended.returncode == 2
    assert f"{str(tmp_path / name).removesuffix('/__init__.py')} is found in place of Siftline's own" in ended.stderr
    assert "`env -u PYTHONPATH siftline ...`" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_folder_that_hides_nothing_is_none_of_ours(tmp_path: Path) -> None:
    (tmp_path / "features").mkdir()  # of data, say
    (tmp_path / "siftlines").symlink_to(ROOT)
    ended = _with_paths(tmp_path, root=tmp_path / "siftlines")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("siftline ")


@pytest.mark.parametrize(("name", "hides"), [("features", False), ("warehouse", True)])
def test_a_plain_folder_hides_of_an_editable_install_what_names_are_imported_from(
    name: str, hides: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ModuleSpec(name, None, is_package=True)  # as Python finds it before the finder of such an install is asked
    folder.submodule_search_locations = [str(tmp_path / name)]
    monkeypatch.setattr(siftline, "find_spec", lambda asked: folder if asked == name else find_spec(asked))
    told = siftline.hidden(ROOT)
    assert told is None if not hides else str(tmp_path / name) in str(told)


def _with_paths(first: Path, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "siftline", "--version"],
        env={**os.environ, "PYTHONPATH": f"{first}{os.pathsep}{root}"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_process_with_too_little_memory_for_torch_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\ngood apple\n")
    ended = subprocess.run(
        [sys.executable, "-m", "flows.cli.main", "embed", "--input", "a.csv", "--output", "v.parquet"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (600 << 20, resource.RLIM_INFINITY)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert "`ulimit -v`" in ended.stderr
