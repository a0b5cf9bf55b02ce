"""`siftline snapshots`, `diff`, `export`, conditions: they answer in words, every wrong request names the way out."""

import csv
import io
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from active.quality import label_errors
from active.quality.label_errors import Suspect
from flows.cli import lf
from flows.cli.main import run_command
from flows.project.project import Project
from tests.flows.report_lake import full_project
from tests.projects import ROOT
from tests.warehouse.test_what_changed import answer, commit
from warehouse import Lake, connect


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return full_project(tmp_path_factory.mktemp("commands"))


def ask(project: Path, *arguments: str) -> int:
    return run_command([*arguments, "--project", str(project)])


def test_the_commands_tell_what_happened(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(project, "snapshots", "--limit", "4") == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert "There are older ones; --limit 40" in shown.err
    assert lines[0].split("\t") == ["snapshot", "time (UTC)", "author", "message", "rows"]
    assert len(lines) == 5
    newest = int(lines[1].split("\t")[0])
    assert ask(project, "snapshots", "--limit", "99") == 0
    assert "older" not in capsys.readouterr().err

    assert ask(project, "diff", "4", str(newest), "--output", str(tmp_path / "all.jsonl"), "--limit", "3") == 0
    told = capsys.readouterr().out
    assert f"snapshot 4 to {newest}: 90 labels changed" in told
    assert "first label\t74" in told
    assert "gold given\t16" in told
    rows = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text("utf-8").splitlines()]
    assert len(rows) == 90

    assert ask(project, "diff", "6", "14") == 0
    assert ": 0 labels changed, 16 predictions were confirmed by people\n" in capsys.readouterr().out
    assert ask(project, "diff", "14", "6") == 0
    assert ": 0 labels changed, 0 predictions were confirmed by people, 16 of people's" in capsys.readouterr().out

    assert ask(project, "export", "training-set", "--output", str(tmp_path / "set"), "--at", str(newest)) == 0
    told = capsys.readouterr().out
    assert "90 rows" in told
    assert "0 of the labels are people's, 16 the simulated annotator's, 74 the end model's (label_source)" in told
    assert "those in test tell nothing" in told
    [again] = [line for line in told.splitlines() if line.startswith("To build it again: ")]
    assert again.endswith(f"--at {newest} --format parquet --output FOLDER --project {project}")
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text("utf-8"))
    assert manifest["snapshot"] == newest


@pytest.mark.parametrize(
    ("where", "word"),
    [
        ("item_id = 'i001'", "\"item_id = 'i001'\""),
        ("\"item_id\" = 'i001'", None),
        ("item_id = 'i001' or content = '$HOME'", None),
        ("item_id = 'i001' and split is not null", "\"item_id = 'i001' and split is not null\""),
    ],
)
def test_the_command_that_builds_an_export_again_is_one_to_copy(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], where: str, word: str | None
) -> None:
    assert ask(project, "export", "training-set", "--output", str(tmp_path / "set"), "--where", where) == 0
    told = capsys.readouterr().out
    assert "1 row of snapshot" in told
    [again] = [line for line in told.splitlines() if line.startswith("To build it again: ")]
    assert where in shlex.split(again)
    assert word is None or f" --where {word} " in again
    shell = subprocess.run(["sh", "-c", f"printf '%s\\n' {again.partition(': ')[2]}"], capture_output=True, text=True)
    assert where in shell.stdout.splitlines()


def test_changes_of_the_rarest_causes_are_shown_first(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = shutil.copytree(project, tmp_path / "copy")
    with Lake(root / "lake") as lake:
        commit(lake, "the last", answer("i089", 0))
    assert ask(root, "diff", "4", "--limit", "18") == 0
    shown = [row.split("\t") for row in capsys.readouterr().out.splitlines()[-18:]]
    assert [row[3] for row in shown] == ["gold given"] * 17 + ["first label"]
    assert shown[16][0] == "i089"


def test_the_changes_are_in_the_form_that_the_suffix_says(project: Path, tmp_path: Path) -> None:
    for name in ("a.CSV", "a.Parquet"):
        assert ask(project, "diff", "4", "--output", str(tmp_path / name)) == 0
    assert (tmp_path / "a.CSV").read_text("utf-8").startswith("item_id,label_before,")
    assert pq.read_table(tmp_path / "a.Parquet").num_rows == 90


def test_a_model_has_the_number_that_the_warehouse_gave_it(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(project, "status") == 0
    head, *shown = capsys.readouterr().out.partition("# end models")[2].partition("#")[0].splitlines()[1:]
    assert head.split("\t")[0] == "model"
    with Lake(project / "lake", read_only=True) as lake, lake.read() as reader:
        models = reader.rows("SELECT sequence, gold_labels FROM models WHERE stage = 'end_model' ORDER BY sequence")
    assert [line.split("\t")[:2] for line in shown] == [[str(n), str(labels)] for n, labels in models]


def test_the_next_step_can_be_typed_as_it_stands(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = shutil.copytree(project, tmp_path / "Ann's tickets")
    assert ask(root, "status") == 0
    last = capsys.readouterr().out.splitlines()[-1].partition("siftline ")[2]
    assert shlex.split(last) == ["run", "--project", str(root)]
    assert ask(root, "export", "training-set", "--output", str(tmp_path / "my labels.csv")) == 2
    hint = capsys.readouterr().err.partition("siftline sql ")[2]
    told = ["--output", str(tmp_path / "my labels.csv"), "from training_set", "--project", str(root)]
    assert shlex.split(hint) == told


def test_suggested_functions_are_previewed_in_their_project(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = SimpleNamespace(name="a", label="grain", precision=1.0, hits=3, coverage=0.1, code="keywords(...)")
    monkeypatch.setattr(Project, "encoder", SimpleNamespace(encoder_id="e"))
    monkeypatch.setattr(lf, "suggest", lambda *_: SimpleNamespace(found=[one], gold=16))
    monkeypatch.setattr(lf, "write", lambda *_, **__: None)
    assert ask(project, "lf", "suggest", "--output", "my ideas.py") == 0
    last = capsys.readouterr().err.splitlines()[-1].partition("siftline ")[2]
    assert shlex.split(last) == ["lf", "preview", "my ideas.py", "--project", str(project)]


def test_a_preview_without_a_hit_says_that_it_sees_what_the_last_run_read(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    functions = tmp_path / "by_column.py"
    functions.write_text("from weak_labels import sql\n\nnew = sql('grain', \"metadata->>'new' = 'x'\")\n", "utf-8")
    assert ask(project, "lf", "preview", str(functions)) == 0
    told = capsys.readouterr().err
    assert told.startswith("No hit by new. Records and columns of metadata that came since the last run")
    assert shlex.split(told.partition("siftline ")[2]) == ["run", "--project", str(project)]


NOT_ALL_WRONG = "Most of these are right where the classes are hard to tell; begin at the top.\n"


@pytest.mark.parametrize(
    ("suspicion", "told"),
    [
        (
            [0.1, 0.0, 0.2],
            "Model and neighbours contradict none of 2 labels. 1 more cannot be judged: too few of their class.\n",
        ),
        ([0.1, 0.2], "Model and neighbours contradict none of 2 labels.\n"),
        ([0.9, 0.2], f"1 of 2 labels is contradicted. {NOT_ALL_WRONG}"),
        (
            [0.9, 0.0, 0.2],
            f"1 of 2 labels is contradicted. {NOT_ALL_WRONG[:-1]} 1 more cannot be judged: too few of their class.\n",
        ),
        ([0.9] * 21, f"21 of 21 labels are contradicted; the first 20 are shown (--limit). {NOT_ALL_WRONG}"),
        ([0.0, 0.0], "None of 2 labels can be judged yet: that takes five of a class, and one of another.\n"),
    ],
)
def test_labels_that_are_not_judged_are_not_called_right_nor_contradicted_ones_wrong(
    project: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    suspicion: list[float],
    told: str,
) -> None:
    with Lake(project / "lake", read_only=True) as lake, lake.read() as reader:
        item_id = reader.scalar("SELECT min(item_id) FROM gold_labels")
    found = [Suspect(item_id=item_id, labels=(0,), likely=(0,), suspicion=value) for value in suspicion]
    monkeypatch.setattr(label_errors, "suspects", lambda *_: found)
    monkeypatch.setattr(Project, "index", lambda _: None)
    assert ask(project, "suspects") == 0
    assert capsys.readouterr().err.endswith(told)
    contradicted = [(item_id, value) for value in suspicion if value > label_errors.SUSPICIOUS][:20]
    assert ask(project, "suspects", "--format", "json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.split("\n") if line]
    assert [(row["item_id"], row["suspicion"]) for row in rows] == contradicted
    assert ask(project, "suspects", "--format", "csv") == 0
    printed = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(printed.out)))
    assert [(row["item_id"], float(row["suspicion"])) for row in rows] == contradicted
    assert printed.err.endswith(told)


def test_an_export_of_nothing_is_told(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = str(tmp_path / "x")
    assert ask(project, "export", "training-set", "--output", target, "--where", "split = 'tain'") == 0
    assert "No row of training_set meets --where \"split = 'tain'\"" in capsys.readouterr().err
    assert ask(project, "export", "training-set", "--output", target, "--where", "split = 'train'", "--force") == 0
    assert "No row" not in capsys.readouterr().err


def test_a_question_starts_without_the_packages_that_do_the_work(project: Path) -> None:
    """They took most of what an answer cost: seconds, for torch above all. A run's last words need none either."""
    script = (
        "import sys; from flows.cli.main import run_command; code = run_command(sys.argv[1:]); "
        "import flows.report.narrative; "
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
        (["diff", ""], "leave it out for the newest"),
        (["diff", "4", ""], "leave it out for the newest"),
        (["export", "training-set", "--output", "{tmp}/x", "--at", ""], "leave it out for the newest"),
        (["questions", "label-balance", "--at", " "], "leave it out for the newest"),
        (["diff", "4", "--output", "{tmp}/none/x.csv"], "does not exist"),
        (["diff", "4", "--output", "{tmp}/x.xlsx"], "suffix .csv, .json, .jsonl, .parquet instead of x.xlsx"),
        (["diff", "4", "--output", "{tmp}/x"], "suffix .csv, .json, .jsonl, .parquet instead of x"),
        (["export", "training-set", "--output", "{tmp}/x.csv"], "leave the suffix out"),
        (["report", "--output", "{tmp}/x.pdf"], "end the name in .html"),
        (["lf", "suggest", "--output", "{tmp}/x.txt"], "end the name in .py"),
        (["export", "training-set", "--output", "{tmp}"], "exists already"),
        (["export", "training-set", "--output", "{tmp}/x", "--format", "xml"], "xml"),
        (["export", "training-set", "--output", "{tmp}/x", "--at", "-1"], "no snapshot -1"),
        (["export", "training-set", "--output", "{tmp}/x", "--at", "2999-01-01"], "future"),
        (["export", "training-set", "--output", "{tmp}/x", "--where", "colour = 1"], "colour"),
        (["export", "training-set", "--output", "{tmp}/x", "--where", ""], "leave --where out for all rows"),
        (["export", "training-set", "--output", "{tmp}/x", "--where", " \n"], "leave --where out for all rows"),
        (["lf", "report", "--where", ""], "leave --where out for all rows"),
        (["lf", "preview", "{tmp}/no.py"], "no.py. Name a file of labeling functions, or leave it out."),
        (["run", "--annotator", "simulated"], "id or text, and label (Parquet, CSV, JSON or JSONL)"),
    ],
)
def test_a_wrong_request_is_told_and_writes_nothing(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert ask(project, *[a.format(tmp=tmp_path) for a in arguments]) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_condition_of_an_export_is_told_all_columns(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with connect(project / "lake") as reader:
        columns = [name for name, *_ in reader.rows("DESCRIBE training_set")]
    assert ask(project, "export", "training-set", "--output", str(tmp_path / "x"), "--where", "colour = 1") == 2
    told = capsys.readouterr().err.partition("SQL on the columns ")[2]
    assert sorted(re.findall(r"\w+", told.partition(", such as")[0].replace(" and ", ", "))) == sorted(columns)


def test_a_condition_of_lf_report_cannot_write_over_the_warehouse(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = next((project / "lake" / "data").rglob("*.parquet"))
    before = file.read_bytes()
    where = f"true)) SELECT 1; COPY (SELECT 1 AS a) TO '{file}'; WITH scope AS (SELECT item_id FROM items WHERE (true"
    assert ask(project, "lf", "report", "--where", where) == 2
    assert "condition" in capsys.readouterr().err
    assert file.read_bytes() == before


ENDLESS = "SELECT i FROM range(300000) t(i) UNION ALL SELECT i FROM range(100000000000) t(i) WHERE hash(i) = 3"


@pytest.mark.parametrize(
    ("arguments", "begun"),
    [
        (["sql", ENDLESS, "--output", "{tmp}/out.parquet"], ".out.parquet.*.part"),
        (
            ["export", "training-set", "--where", f"(SELECT sum(i) FROM ({ENDLESS})) > 0", "--output", "{tmp}/out"],
            ".s*",
        ),
    ],
)
def test_ctrl_c_ends_a_long_query_with_a_word_and_leaves_nothing(
    project: Path, tmp_path: Path, arguments: list[str], begun: str
) -> None:
    command = [sys.executable, "-m", "flows.cli.main", *(a.format(tmp=tmp_path) for a in arguments)]
    command += ["--project", str(project)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not any(tmp_path.glob(begun)):
            time.sleep(0.05)
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        try:
            _, told = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, told) == (130, "interrupted\n")
    assert list(tmp_path.iterdir()) == []


DIFF = '''
import os, signal, sys, threading
import flows.cli.data.history
from flows.cli.main import main


def press(after_s):
    """Ctrl-C, and once more 20 s later as a person would: on a busy machine the first may come before the query."""
    pressed = threading.Timer(after_s, lambda: (press(20.0), os.kill(os.getpid(), signal.SIGINT)))
    pressed.daemon = True
    pressed.start()

press(3.0)
main()
'''


@pytest.mark.parametrize(
    "view",
    [
        "CREATE OR REPLACE VIEW training_set AS SELECT i.*, i.split AS label, i.split AS label_source FROM items i",
        "ALTER TABLE lf_votes RENAME TO votes; CREATE VIEW lf_votes AS SELECT v.* FROM votes v",
    ],
    ids=["what changed", "why"],
)
def test_ctrl_c_ends_a_comparison_with_a_word_and_leaves_nothing(project: Path, tmp_path: Path, view: str) -> None:
    copy, output = tmp_path / "copy", tmp_path / "out.csv"
    shutil.copytree(project, copy)
    with Lake(copy / "lake") as lake:
        cursor = lake.new_cursor()
        # Two endless parts, so that a second thread is at work when this one hears of the signal.
        cursor.execute(f"{view} CROSS JOIN (SELECT sum(i) AS n FROM ({ENDLESS} UNION ALL {ENDLESS})) WHERE n > 0")
        cursor.close()
    command = [sys.executable, "-c", DIFF, "diff", "4", "--output", str(output), "--project", str(copy)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")
    assert not output.exists()
