"""The siftline command: help for everything, exit codes that mean something, no traceback for a user's mistake."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from engine.protocol import DEFAULT_ACTIVE
from engine.runtime.loading import DEFAULT_MAX_TOKENS
from flows.cli.main import run_command
from tests.projects import ROOT

CONVERT = ["engine", "convert", "--text", "a.txt", "--output", "x.safetensors"]
COMMANDS = [
    ["init"],
    ["run"],
    ["status"],
    ["report"],
    ["sql"],
    ["queue"],
    ["answer"],
    ["collect"],
    ["embed"],
    ["doctor"],
    ["up"],
    ["down"],
    ["services"],
    ["serve"],
    ["deploy"],
    ["lf", "preview"],
    ["lf", "report"],
    ["engine", "convert"],
    ["engine", "distill"],
    ["engine", "trace"],
    ["samples", "list"],
    ["samples", "get"],
    ["studio", "up"],
    ["studio", "status"],
    ["studio", "down"],
]


def siftline(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows.cli.main", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def test_a_folder_that_was_removed_under_the_terminal_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert run_command(["status", "--project", str(tmp_path)]) == 2
    assert "was removed or replaced" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command([*command, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Example: siftline " + " ".join(command) in text


@pytest.mark.parametrize("group", [[], ["lf"], ["engine"], ["studio"]], ids=" ".join)
def test_no_sentence_in_a_list_of_commands_is_cut(group: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command([*group, "--help"]) == 0
    listed = capsys.readouterr().out.partition("Commands:")[2]
    assert listed
    assert "..." not in listed


@pytest.mark.parametrize("command", [[], ["run"], ["lf", "preview"]], ids=" ".join)
def test_help_is_asked_for_in_one_letter_too(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command([*command, "-h"]) == 0
    short = capsys.readouterr().out
    assert run_command([*command, "--help"]) == 0
    assert short == capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["status"], "siftline init"),
        (["run"], "siftline init"),
        (["queue"], "siftline init"),
        (["no-such-command"], "No such command"),
        (["run", "--annotator", "nobody"], "'--annotator': 'nobody' is not one of"),
        (["--project", "p", "run"], "siftline COMMAND --project FOLDER"),
        (["samples", "get", "no-such-sample"], "reuters-r8"),
        (["embed", "--input", "missing.jsonl", "--output", "x.parquet", "--encoder", "gpt"], "missing.jsonl"),
        (["embed", "--input", "texts.csv", "--output", "x.parquet", "--encoder", "gpt"], "dense"),
        (["embed", "--input", "texts.csv", "--output", "x.parquet", "--device", "tpu"], "cpu"),
        (["embed", "--input", "missing.jsonl", "--output", "x.csv"], "end the name in .parquet"),
        (["engine", "distill", "--text", "a.txt", "--output", "x"], "end the name in .safetensors"),
        (["engine", "serve", "--device", "cuda", "--precision", "int8"], "fp32 and bf16 compute there"),
        (["engine", "serve", "--precision", "bf16"], "Use the precision 'int8'"),
        (["engine", "serve", "--queue-tokens", "255"], "Give --queue-tokens 256 or more, or a smaller --max-tokens"),
        (["engine", "convert", "--text", "missing.txt", "--output", "x.safetensors"], "missing.txt"),
        ([*CONVERT, "--layers", "0,a"], "0,2,3,5"),
        ([*CONVERT, "--layers", "0,9"], "0 to 5"),
        ([*CONVERT, "--shared-neurons", "192", "--experts", "13"], "13 equal experts"),
        ([*CONVERT, "--from", "none"], "config.json"),
        (["engine", "convert", "--output", "x.safetensors"], "--text"),
        (["engine", "distill", "--text", "missing.txt", "--output", "x.safetensors"], "missing.txt"),
        (["engine", "distill", "--text", "a.txt", "--output", "x.safetensors", "--rate", "2"], "rate 2.0"),
        (["engine", "distill", "--text", "a.txt", "--output", "x.safetensors", "--steps", "0"], "--steps"),
        (["engine", "distill", "--text", "a.txt", "--output", "x.safetensors", "--seed", "-1"], "--seed"),
        (["engine", "distill", "--text", "a.txt", "--output", "x.safetensors", "--device", "tpu"], "cpu"),
        (["engine", "trace", "oil", "--encoder", "gpt"], "Known are: default, dense, routed"),
        (["engine", "trace", "oil", "--encoder", "none.safetensors"], "none.safetensors cannot be read"),
        (["engine", "trace", "oil", "--encoder", "dense", "--active", "0.3"], "has no budget"),
        (["engine", "serve", "--encoder", "shallow", "--active", "0.3"], "'shallow' is dense and has no budget"),
        (["engine", "trace", "half of a pair \ud83d", "--encoder", "dense"], "text 0: a lone surrogate"),
        (["engine", "trace"], "texts"),
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
    (tmp_path / "texts.csv").write_text("text\noil\n")
    assert run_command(arguments) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    "command", [["status", "p q"], ["status", "--project", "p q/siftline.toml"]], ids=["bare", "file"]
)
def test_who_names_a_project_in_another_way_is_told_the_right_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(["init", "p q", "--classes", "a,b"]) == 0
    assert run_command(command) == 2
    assert "--project 'p q'" in capsys.readouterr().err


def test_the_help_of_embed_says_one_thing_of_bf16(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["embed", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "bf16 on cuda." in text
    assert "cuda in fp32 or bf16." in text


@pytest.mark.parametrize("command", [["embed"], ["engine", "serve"], ["engine", "trace"]])
def test_the_help_says_what_an_encoder_is_when_nothing_is_asked(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command([*command, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"left out: {DEFAULT_ACTIVE}." in text
    assert (f"left out: {DEFAULT_MAX_TOKENS}." in text) == ("--max-tokens" in text)


def test_help_and_a_file_of_functions_are_there_without_torch_prefect_or_a_client_for_http() -> None:
    code = (
        "import sys; from flows.cli.main import run_command; run_command(['--help']); import weak_labels;"
        "sys.exit(bool({'torch', 'prefect', 'snorkel', 'label_studio_sdk', 'httpx'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True).returncode == 0


def test_a_task_folder_is_opened_without_loading_label_studios_sdk(tmp_path: Path) -> None:
    assert run_command(["init", str(tmp_path / "p"), "--classes", "a,b"]) == 0
    code = (
        "import sys; from pathlib import Path; from flows.project.project import Project\n"
        "Project(Path(sys.argv[1])).service;"
        "sys.exit('label_studio_sdk' in sys.modules)"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LABEL_STUDIO_")}
    command = [sys.executable, "-c", code, str(tmp_path / "p")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 0, ended.stderr


def test_brackets_and_colons_of_a_path_are_no_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "tickets[v2]:bug:"
    assert run_command(["init", str(root), "--classes", "ham,spam"]) == 0
    assert f"siftline run --project {shlex.quote(str(root))}" in capsys.readouterr().out
    assert run_command(["status", "--project", str(root)]) == 2
    assert str(root) in capsys.readouterr().err


def test_no_mark_of_a_name_steers_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file, a record's id or an annotator may be called so; the message must not look like another one."""
    name = "p\x1b[2J\x9b31m\u202egpj.exe\rsiftline: done"
    assert run_command(["status", "--project", str(tmp_path / name)]) == 2
    said = capsys.readouterr().err
    assert "\\x1b[2J" in said
    assert not set(said) & set("\x1b\x9b\u202e\r")


def test_doctor_tells_what_to_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(["doctor"]) == 0
    told = capsys.readouterr().out
    assert "MEND" not in told
    assert "could be faster" not in told
    monkeypatch.setattr("engine.kernels.native.load_library", lambda: None)
    assert run_command(["doctor"]) == 0
    assert "It could be faster: the compiled forward is missing" in capsys.readouterr().out
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert run_command(["doctor"]) == 2
    told = capsys.readouterr().out
    assert "LABEL_STUDIO_API_KEY" in told
    assert "prefect server start" in told
    monkeypatch.setattr("flows.cli.doctor.PACKAGES", ("no-such-package",))
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "a-key")
    assert run_command(["doctor"]) == 2
    told = capsys.readouterr().out
    assert "--constraint constraints.txt no-such-package" in told
    assert "Label Studio at http://127.0.0.1:9 cannot be reached" in told


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["--version"]) == 0
    assert capsys.readouterr().out.startswith("siftline 0.")


def own_project(folder: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    (folder / "a file.csv").write_text("number,body\n1,good apple\n2,bad pear\n3,\n", "utf-8")
    made = [
        "init",
        str(folder / "p"),
        "--source",
        str(folder / "a file.csv"),
        "--text",
        "body",
        "--classes",
        "good,bad",
    ]
    assert run_command(made) == 0
    assert "2 records can be read; left out: 1 empty_text" in capsys.readouterr().out
    (folder / "p" / "labeling_functions.py").write_text(
        'from weak_labels import keywords\n\ngood = keywords("good", ["good"])\nbad = keywords("bad", ["bad"])\n',
        "utf-8",
    )
    return folder / "p"


def test_functions_are_previewed_before_the_first_run_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = own_project(tmp_path, capsys)
    with (project / "labeling_functions.py").open("a", encoding="utf-8") as file:
        file.write(
            "from weak_labels import vectorized\nprint('read')\n@vectorized('bad')\n"
            "def loud(batch):\n    print('called')\n    return [False] * len(batch)\n"
        )
    before = sorted(project.rglob("*"))
    assert run_command(["lf", "preview", "--project", str(project)]) == 0
    told, beside = capsys.readouterr()
    assert "good apple" in told
    assert told.startswith("# 2 items of the train split")
    assert ("called" in told, "read\ncalled\n" in beside, "last run" in beside) == (False, True, False)
    assert [p for p in sorted(project.rglob("*")) if "__pycache__" not in p.parts] == before


def test_functions_are_previewed_after_a_read_that_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = own_project(tmp_path, capsys)
    settings = project / "siftline.toml"
    good = settings.read_text("utf-8")
    settings.write_text(good.replace('text = "', 'text = "no such '), "utf-8")
    assert run_command(["import", str(tmp_path / "labels.csv"), "--project", str(project)]) == 2
    assert "has no column 'no such " in capsys.readouterr().err
    settings.write_text(good, "utf-8")
    assert run_command(["lf", "preview", "--project", str(project)]) == 0
    assert capsys.readouterr().out.startswith("# 2 items of the train split")


def test_a_preview_ends_with_2_where_a_run_would_switch_a_function_off(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = own_project(tmp_path, capsys)
    with (project / "labeling_functions.py").open("a", encoding="utf-8") as file:
        file.write("from weak_labels import vectorized\n@vectorized('bad')\ndef fails(batch):\n    return 1 / 0\n")
    assert run_command(["lf", "preview", "--project", str(project)]) == 2
    said = "Mend what fails on more than 5.0% of the items: fails (2 of 2). A run switches such functions off"
    assert said in " ".join(capsys.readouterr().err.split())
    settings = project / "siftline.toml"
    settings.write_text(settings.read_text("utf-8").replace("frac = 0.05", "frac = 1.0"), "utf-8")
    assert run_command(["lf", "preview", "--project", str(project)]) == 0


def test_a_preview_without_an_item_says_what_became_of_the_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = own_project(tmp_path, capsys)
    settings = project / "siftline.toml"
    text = settings.read_text("utf-8")
    settings.write_text(text.replace('# default_split = "train"', 'default_split = "test"'), "utf-8")
    assert run_command(["lf", "preview", "--project", str(project)]) == 0
    told = capsys.readouterr().err
    assert "No record is in the train split, 2 in others; refused: 1, the first: data/a file.csv" in told
    assert "look at vectors" not in told


def test_doctor_says_a_fault_of_the_settings_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = own_project(tmp_path, capsys)
    (project / "siftline.toml").write_text("[project]\nnmae = 'x'\n", "utf-8")
    assert run_command(["doctor", "--project", str(project)]) == 2
    assert capsys.readouterr().out.count("MEND") == 1


def test_doctor_tells_of_files_that_the_settings_name_and_nobody_put_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = own_project(tmp_path, capsys)
    settings = project / "siftline.toml"
    settings.write_text(
        settings.read_text("utf-8").replace("[evaluate]\n", '[evaluate]\ngold = "data/gold.csv"\n'), "utf-8"
    )
    (project / "data" / "gold.csv").write_text("id,label\n", "utf-8")
    assert run_command(["doctor", "--project", str(project)]) == 0
    assert "1 named, files found: 1" in capsys.readouterr().out
    as_written = settings.read_text("utf-8")
    settings.write_text(as_written.replace("[warehouse]", 'metadata = ["nobody"]\n\n[warehouse]'), "utf-8")
    (project / "data" / "gold.csv").write_text("id,label\n1,nothing\n", "utf-8")
    assert run_command(["doctor", "--project", str(project)]) == 2
    told = " ".join(capsys.readouterr().out.split())
    assert re.search(r"MEND sources: Source 'records': .+ has no column 'nobody'\. It has: ", told)
    assert re.search(r"MEND gold: The gold file \S+ has a label that is no class: 'nothing'", told)
    settings.write_text(as_written, "utf-8")
    for path in (project / "data").iterdir():
        path.unlink()
    assert run_command(["doctor", "--project", str(project)]) == 2
    told = " ".join(capsys.readouterr().out.split())
    assert "MEND sources: Source 'records': " in told
    assert "MEND gold: The gold file " in told


def test_doctor_plans_the_query_of_a_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = own_project(tmp_path, capsys)
    settings = project / "siftline.toml"
    as_written = settings.read_text("utf-8")
    path = "data/" + next((project / "data").iterdir()).name
    for query, ends, said in (
        (f"SELECT * FROM '{path}';  ", 0, "1 named"),
        (f"SELECT * FROM '{path}' -- all", 0, "1 named"),
        (f"SELECT * FROM '{path}'; -- all", 0, "1 named"),
        ("SELECT text FROM nowhere", 2, "MEND sources: Source 'records': .*nowhere"),
        ("SELECT 1 AS number", 2, "MEND sources: Source 'records': the query has no column"),
        ("SELECT 'a' AS body, 'b' AS body", 2, "MEND sources: .* has the column 'body' 2 times"),
    ):
        settings.write_text(as_written.replace(f'path = "{path}"', f'query = "{query}"'), "utf-8")
        assert run_command(["doctor", "--project", str(project)]) == ends, query
        assert re.search(said, " ".join(capsys.readouterr().out.split())), query


def test_the_folder_of_the_project_may_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SIFTLINE_DIR", str(own_project(tmp_path, capsys)))
    assert run_command(["doctor"]) == 0
    assert "2 classes" in capsys.readouterr().out


def test_doctor_tries_the_encoder_of_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project = own_project(tmp_path, capsys)
    monkeypatch.setenv("SIFTLINE_ENCODER__NAME", "mine.safetensors")
    assert run_command(["doctor", "--project", str(project)]) == 2
    assert "MEND encoder: " in (told := capsys.readouterr().out)
    assert "mine.safetensors cannot be read" in told


def test_an_environment_variable_that_is_no_setting_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project = own_project(tmp_path, capsys)
    monkeypatch.setenv("SIFTLINE_SELECT", "not json")
    assert run_command(["status", "--project", str(project)]) == 2
    assert "SIFTLINE_" in capsys.readouterr().err


def test_a_run_that_would_stop_in_the_middle_does_not_begin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], prefect_server: str
) -> None:
    project = own_project(tmp_path, capsys)
    (project / "labeling_functions.py").unlink()
    ended = siftline("run", "--project", str(project), PREFECT_API_URL=prefect_server)
    assert ended.returncode == 2
    assert "There is no file of labeling functions" in ended.stderr
    assert "Traceback" not in ended.stderr + ended.stdout
    assert not (project / "lake").exists()


def test_a_mistake_inside_a_run_is_one_message_and_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], prefect_server: str
) -> None:
    project = own_project(tmp_path, capsys)
    (project / "data" / "a file.csv").unlink()
    ended = siftline("run", "--project", str(project), PREFECT_API_URL=prefect_server)
    assert ended.returncode == 2
    assert "a file.csv" in ended.stderr
    assert "Traceback" not in ended.stderr + ended.stdout
    assert len(ended.stderr.splitlines()) < 8, ended.stderr


@pytest.mark.parametrize(
    ("arguments", "given", "policy"),
    [
        ("status --help", {}, "passive"),
        ("engine --help", {}, "None"),
        ("--help", {"OMP_WAIT_POLICY": "active"}, "active"),
    ],
)
def test_threads_sleep_while_they_wait_but_in_training(arguments: str, given: dict[str, str], policy: str) -> None:
    code = "import atexit, os; atexit.register(lambda: print(os.environ.get('OMP_WAIT_POLICY')))\n"
    code += "import sys; from flows.cli.main import main\n"
    code += "assert 'torch' not in sys.modules and 'faiss' not in sys.modules  # they would have read it before\nmain()"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | given
    command = [sys.executable, "-c", code, *arguments.split()]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == policy
