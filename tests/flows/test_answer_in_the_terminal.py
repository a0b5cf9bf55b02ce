"""`siftline answer`: people label the tasks of a folder by keys, in a pipe and in a real terminal."""

import io
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from active.queue.push import push
from active.task_folder.service import TaskFolder
from features.ingest.stage import ingest
from flows.cli.main import run_command
from flows.project.project import Project
from tests.lakes import copy_of
from tests.projects import ROOT
from tests.terminal import Terminal
from warehouse import Lake, Upsert

CLASSES = ("spam", "ham", "spinach")
SETTINGS = """
[project]
name = "p"
classes = {classes}
multi_label = {several}

[annotate]
annotators_per_task = {people}
service = "{service}"

[[sources]]
name = "s"
path = "s.jsonl"
id = "id"
"""
PATIENCE_S = 120.0
COMMAND = [sys.executable, "-m", "flows.cli.main", "answer"]

Made = Callable[..., Path]
Answer = Callable[..., "Ended"]


def settings(*, several: bool = False, people: int = 1, service: str = "folder") -> str:
    return SETTINGS.format(classes=json.dumps(CLASSES), several=json.dumps(several), people=people, service=service)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Makes a project whose tasks i0, i1, ... wait in this order, the suggestion `ham` on each."""

    def make(texts: list[str], *, several: bool = False, people: int = 1) -> Path:
        (tmp_path / "siftline.toml").write_text(settings(several=several, people=people), "utf-8")
        lines = [json.dumps({"id": f"i{n}", "text": text}) for n, text in enumerate(texts)]
        (tmp_path / "s.jsonl").write_text("\n".join(lines), "utf-8")
        copy_of(Lake, tmp_path / "lake").close()
        project = Project(tmp_path)
        ingest(project.lake, project.ingest_config)
        rows = [
            {
                "item_id": f"i{n}",
                "project": "p",
                "state": "planned",
                "cycle": 1,
                "rank": n + 1,
                "value": 0.9 - n / 100,
                "reason": "the models [differ]",
                "prediction": -1 if several else 1,
                "predictions": [1] if several else None,
                "confidence": 0.75,
                "content_hash": "0" * 64,
                "task_id": "",
            }
            for n in range(len(texts))
        ]
        with project.lake.stage("select", version=1, inputs=()) as stage:
            stage.commit([Upsert("queue", pa.Table.from_pylist(rows))])
        push(project.lake, project.service, project.queue_config)
        project.lake.close()
        return tmp_path

    return make


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that is over."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Answer:
    """Runs the command in this process with some lines as its input; another process takes seconds to start."""

    def run(root: Path, *lines: str, name: str = "ann") -> Ended:
        typed = "".join(f"{line}\n" for line in lines).encode()
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(typed), "utf-8"))
        capsys.readouterr()
        code = run_command(["answer", "--project", str(root), "--name", name])
        said = capsys.readouterr()
        return Ended(code, said.out, said.err)

    return run


def file_of(root: Path, item: str) -> Path:
    return root / "tasks" / f"{TaskFolder(root / 'tasks', 'p').task_id(item)}.json"


def annotations(root: Path, item: str) -> list[dict[str, Any]]:
    return json.loads(file_of(root, item).read_text("utf-8")).get("annotations", [])


def collected(root: Path) -> Mapping[str, tuple[Any, ...]]:
    """What `siftline collect` brings into the warehouse: item -> annotator, action, class or classes."""
    assert run_command(["collect", "--project", str(root)]) == 0
    with Project(root).read_lake() as lake, lake.read() as reader:
        rows = reader.rows(
            "SELECT item_id, annotator, action, coalesce(class_ids, [class_id]) FROM current_annotations ORDER BY ALL"
        )
    return {f"{item} {who}": (action, ids) for item, who, action, ids in rows}


def test_a_task_whose_file_was_removed_is_told_and_comes_back(made: Made, answer: Answer) -> None:
    root = made(["first"])
    file_of(root, "i0").unlink()
    ended = answer(root)
    assert "1 task that waits for annotators has no file any more" in ended.stderr
    assert "siftline queue reconcile --project" in ended.stderr
    assert run_command(["queue", "reconcile", "--project", str(root)]) == 0
    assert "1 of 1 task answered" in answer(root, "1").stdout
    assert not answer(root).stderr


def test_answers_by_number_name_and_prefix_arrive_in_the_warehouse(made: Made, answer: Answer) -> None:
    root = made(["first", "second", "third", "fourth"])
    ended = answer(root, "1", "Ham", "spi", "s")
    assert ended.returncode == 0, ended.stderr
    assert "4 of 4 tasks answered or skipped" in ended.stdout
    assert "siftline run --project" in ended.stdout
    for line in ("1 of 4", "first", "2  ham", "Why this one: the models [differ] (value 0.90)"):
        assert line in ended.stdout.splitlines()
    assert "The model's suggestion: ham (0.75)" in ended.stdout
    assert collected(root) == {
        "i0 ann": ("labelled", [0]),
        "i1 ann": ("labelled", [1]),
        "i2 ann": ("labelled", [2]),
        "i3 ann": ("skipped", [-1]),
    }
    [given] = annotations(root, "i0")
    assert given["completed_by"] == "ann"
    assert 0 <= given["lead_time"] < PATIENCE_S
    assert "No task waits for ann" in answer(root).stdout


def test_wrong_inputs_are_told_and_asked_again(made: Made, answer: Answer) -> None:
    root = made(["first", "second"])
    wrong = ["sp", "0", "4", "none", "1,2", "nonsense", "", "\x1b[31m"]
    ended = answer(root, *wrong, "2", "q")
    assert " ".join(ended.stderr.split()).count("Keys: number or name of the class, s skip") == len(wrong)
    assert "'sp' may be spam or spinach." in ended.stderr
    assert "There is no class 4; they go from 1 to 3." in ended.stderr
    assert "\x1b" not in ended.stdout + ended.stderr
    assert [a["result"][0]["value"]["choices"] for a in annotations(root, "i0")] == [["ham"]]
    assert not annotations(root, "i1")


def test_answers_come_from_a_pipe_also_where_it_is_no_text(made: Made) -> None:
    root = made(["first", "second"])
    command = [*COMMAND, "--project", str(root), "--name", "ann"]
    ended = subprocess.run(command, cwd=ROOT, input=b"\xff\n2\n", capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert b"1 of 2 tasks answered or skipped" in ended.stdout
    assert annotations(root, "i0")
    assert not annotations(root, "i1")


def test_skips_are_told_where_the_queue_is_shown(
    made: Made, answer: Answer, capsys: pytest.CaptureFixture[str]
) -> None:
    root = made(["first", "second", "third"])
    answer(root, "s", "1", "q")
    collected(root)
    for command in ("status", "queue"):
        capsys.readouterr()
        assert run_command([command, "--project", str(root)]) == 0
        assert "1 task was skipped and has no label" in capsys.readouterr().out
    folder = TaskFolder(root / "tasks", "p")
    folder.annotate(folder.task_id("i0"), labels=["ham"], annotator="bob", seconds=1.0)
    collected(root)
    capsys.readouterr()
    assert run_command(["status", "--project", str(root)]) == 0
    assert "skipped" not in capsys.readouterr().out, "somebody else gave it one"


@pytest.mark.parametrize("command", ["status", "queue"])
def test_where_tasks_are_shown_the_command_that_answers_them_is_named(
    made: Made, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    root = made(["one"])
    assert run_command([command, "--project", str(root)]) == 0
    captured = capsys.readouterr()
    assert f"To answer them here: siftline answer --project {root}\n" in captured.out + captured.err


@pytest.mark.parametrize("command", ["status", "queue"])
def test_answers_that_no_run_took_in_are_told_where_their_tasks_still_wait(
    made: Made, answer: Answer, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """Who had answered all was told that all wait."""
    root = made(["one", "two", "three"])
    answer(root, "1", "s", "q")
    told = []
    for _ in range(2):
        assert run_command([command, "--project", str(root)]) == 0
        captured = capsys.readouterr()
        told.append("Answered there already, for the next run to take in: 2\n" in captured.out + captured.err)
        collected(root)
        capsys.readouterr()
    assert told == [True, False]


def test_several_classes_one_and_none(made: Made, answer: Answer) -> None:
    root = made(["first", "second", "third"], several=True)
    assert answer(root, "3, spam,3", "none", ",", "ham").returncode == 0
    assert collected(root) == {
        "i0 ann": ("labelled", [0, 2]),
        "i1 ann": ("labelled", []),
        "i2 ann": ("labelled", [1]),
    }


def test_back_answers_again_and_an_empty_line_keeps(made: Made, answer: Answer) -> None:
    root = made(["first", "second", "third"])
    ended = answer(root, "b", "1", "s", "b", "b", "2", "", "3")
    assert "This is the first one." in ended.stderr
    assert "Your answer: spam; Enter keeps it" in ended.stdout
    assert "Your answer: skipped; Enter keeps it" in ended.stdout
    assert "3 of 3 tasks" in ended.stdout
    assert collected(root) == {
        "i0 ann": ("labelled", [1]),
        "i1 ann": ("skipped", [-1]),
        "i2 ann": ("labelled", [2]),
    }


@pytest.mark.parametrize("end", [["q"], []], ids=["q", "end of input"])
def test_who_quits_goes_on_there_later(made: Made, answer: Answer, end: list[str]) -> None:
    root = made(["first", "second"])
    ended = answer(root, "1", *end)
    assert ended.returncode == 0
    assert "1 of 2 tasks answered" in ended.stdout
    again = answer(root, "2")
    assert "first" not in again.stdout
    assert "1 of 1" in again.stdout
    assert collected(root) == {"i0 ann": ("labelled", [0]), "i1 ann": ("labelled", [1])}


def test_two_people_answer_one_after_another(made: Made, answer: Answer) -> None:
    root = made(["first", "second"], people=2)
    answer(root, "1", "1", name="ann")
    answer(root, "2", "1", name="bob")
    assert "No task waits for cleo" in answer(root, name="cleo").stdout
    assert collected(root) == {
        "i0 ann": ("labelled", [0]),
        "i0 bob": ("labelled", [1]),
        "i1 ann": ("labelled", [0]),
        "i1 bob": ("labelled", [0]),
    }


def test_an_export_beside_the_tasks_counts(made: Made, answer: Answer) -> None:
    root = made(["first", "second"])
    task = json.loads(file_of(root, "i0").read_text("utf-8"))
    TaskFolder(root / "tasks", "p").annotate(task["id"], labels=["ham"], annotator="bob", seconds=1)
    (root / "tasks" / "import").mkdir()
    file_of(root, "i0").rename(root / "tasks" / "import" / "export.json")
    file_of(root, "i0").write_text(json.dumps(task), "utf-8")
    shown = answer(root, "q").stdout
    assert "second" in shown
    assert "first" not in shown


def test_a_task_damaged_before_is_named_and_the_others_go_on(made: Made, answer: Answer) -> None:
    root = made(["first", "second"])
    file_of(root, "i0").write_text('{"id": ', "utf-8")
    ended = answer(root, "2")
    assert "cannot be read" in ended.stderr
    assert "1 of 1 task answered" in ended.stdout


def test_long_texts_are_cut_until_all_is_asked_for(made: Made, answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    root = made(["beginning " + "word " * 2000 + "ending"])
    shown = answer(root, "q").stdout
    assert "beginning" in shown
    assert "ending" not in shown
    assert "... 10,016 characters in all; m shows them" in shown
    assert max(map(len, shown.splitlines())) <= 60
    assert "all of a long text" in " ".join(shown.split()), "no word is cut"
    assert "ending" in answer(root, "m", "q").stdout


def test_a_text_cannot_command_the_terminal(made: Made, answer: Answer) -> None:
    root = made(["red \x1b[31m and \u202e back [bold] :bug:\n\nlast"])
    shown = answer(root, "q").stdout
    assert "red \\x1b[31m and \\x202e back [bold] :bug:\n\nlast\n" in shown


def test_texts_in_all_scripts_are_shown_as_they_are_read(made: Made, answer: Answer) -> None:
    texts = ["می\u200cخواهم", "東京\u3000大阪", "12\u00a0000\u202f€", "👩\u200d👧 here", "ខ្ញុំ\u200bចង់"]
    shown = answer(made(["\n".join(texts)]), "q").stdout
    assert [line for line in shown.splitlines() if line in texts] == texts


def test_words_stay_whole_in_a_narrow_terminal(made: Made, answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    ended = answer(made(["word " * 2000]), "zzz", "q")
    help_words = "Keys: number or name of the class, s skip, b back to the one before, m all of a long text, q quit"
    assert help_words in " ".join(ended.stderr.split())
    assert "characters in all; m shows them" in " ".join(ended.stdout.split())
    assert max(map(len, (ended.stdout + ended.stderr).splitlines())) <= 30


def test_where_the_budget_is_spent_that_is_said_where_people_look(
    made: Made, answer: Answer, capsys: pytest.CaptureFixture[str]
) -> None:
    root = made(["first", "second"])
    with (root / "siftline.toml").open("a", encoding="utf-8") as file:
        file.write("\n[select]\nbudget = 2\n")
    said = "The budget of 2 labels is spent. To ask for more, raise budget under [select] in siftline.toml"
    answer(root, "1", "q")
    collected(root)
    for done in (False, True):
        if done:
            answer(root, "1")
            collected(root)
            assert said in answer(root).stdout
        for command in ("status", "queue"):
            capsys.readouterr()
            assert run_command([command, "--project", str(root)]) == 0
            assert (said in capsys.readouterr().out) == done


@pytest.mark.parametrize("name", ["simulated", "unknown"])
def test_a_name_that_is_no_persons_is_refused(made: Made, answer: Answer, name: str) -> None:
    root = made(["first"])
    ended = answer(root, "1", name=name)
    assert ended.returncode == 2
    assert "--name NAME" in ended.stderr
    assert not annotations(root, "i0")


def test_where_label_studio_is_used_people_are_sent_there(
    tmp_path: Path, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "0" * 40)
    (tmp_path / "siftline.toml").write_text(settings(service="label-studio").replace('"p"', '"terminal"'), "utf-8")
    ended = answer(tmp_path)
    assert ended.returncode == 2
    assert "http://127.0.0.1:9, not in the terminal; answer there" in ended.stderr


def in_a_terminal(root: Path) -> Terminal:
    return Terminal("answer", "--project", str(root), "--name", "ann")


@pytest.mark.parametrize("key", ["\x03", "\x04"], ids=["Ctrl-C", "Ctrl-D"])
def test_in_a_terminal_what_was_answered_stays(made: Made, key: str) -> None:
    root = made(["first", "second"])
    terminal = in_a_terminal(root)
    assert "first" in terminal.until("> ")
    terminal.send("2\n")
    assert "second" in terminal.until("> ")
    assert annotations(root, "i0"), "kept before the next is shown"
    if key == "\x03":
        told = terminal.interrupt("")
    else:
        terminal.send(key)
        told = terminal.until("")
    assert "1 of 2 tasks answered or skipped" in told
    assert terminal.leave() == 0
    assert not annotations(root, "i1")


def test_what_happens_to_a_task_meanwhile_loses_no_answer(made: Made) -> None:
    root = made(["first", "second", "third", "fourth", "fifth", "sixth"])
    terminal = in_a_terminal(root)
    terminal.until("> ")
    folder = TaskFolder(root / "tasks", "p")
    file_of(root, "i0").write_text("[", "utf-8")
    terminal.send("2\n")
    assert "cannot be read" in terminal.until("> ")
    data = json.loads(file_of(root, "i1").read_text("utf-8"))["data"]
    folder.show({folder.task_id("i1"): {**data, "text": "edited"}})
    terminal.send("2\n")
    assert "shows something else by now" in terminal.until("> ")
    folder.annotate(folder.task_id("i3"), labels=["ham"], annotator="bob", seconds=1.0)
    (root / "tasks" / f"{folder.task_id('i4', 2)}.json").write_text(file_of(root, "i4").read_text("utf-8"), "utf-8")
    terminal.send("1\n")
    told = terminal.until("> ")
    assert "Task 4 was answered meanwhile" in told
    assert "Task 5 was replaced meanwhile" in told
    assert "fifth" not in told
    file_of(root, "i5").unlink()
    terminal.send("1\n")
    assert "1 of 6 tasks answered or skipped" in terminal.until("")
    assert terminal.leave() == 0
    assert file_of(root, "i0").read_text("utf-8") == "["
    assert not annotations(root, "i1")
    assert [a["completed_by"] for a in annotations(root, "i3")] == ["bob"]


def test_writers_at_the_same_time_lose_nothing(made: Made) -> None:
    root = made(["first"], people=9)
    code = (
        "import sys; from pathlib import Path; from active.task_folder.service import TaskFolder\n"
        "folder = TaskFolder(Path(sys.argv[1]), 'p')\n"
        "for n in range(40): folder.annotate(folder.task_id('i0'), labels=['ham'], annotator=sys.argv[2] + str(n), "
        "seconds=1)"
    )
    command = [sys.executable, "-c", code, str(root / "tasks")]
    writers = [subprocess.Popen([*command, name], cwd=ROOT) for name in ("ann", "bob")]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert len(annotations(root, "i0")) == 80
