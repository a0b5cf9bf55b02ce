"""The files of a task folder: whatever a person's hands do to them, no answer is lost, and they open to nobody else."""

import dataclasses
import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from active.queue.collect import collect
from active.queue.outbox import QueueConfig
from active.queue.push import push
from active.task_folder.service import TaskFolder
from tests.active.plans import plan
from tests.active.task_folders import annotation, answers, export, exported, task, write
from tests.projects import ROOT
from warehouse import Lake, ServiceRefused, SettingsError, Upsert


def test_a_task_is_stored_once_and_its_answer_survives_a_second_push(folder: TaskFolder) -> None:
    folder.annotate(folder.task_id("i00000"), labels=["a"], annotator="ann", seconds=1.0)
    assert folder.push([task("i00000")]) == {"i00000": folder.task_id("i00000")}
    assert [answer.labels for answer in answers(folder)] == [("a",)]


def test_task_ids_depend_on_project_and_item_alone(folder: TaskFolder, tmp_path: Path) -> None:
    assert TaskFolder(tmp_path / "elsewhere", "p").task_id("i00000") == folder.task_id("i00000")
    assert TaskFolder(folder.path, "q").task_id("i00000") != folder.task_id("i00000")


def test_an_answer_by_hand_needs_only_the_choice(folder: TaskFolder) -> None:
    write(folder, "i00000", [{"result": annotation("b")["result"]}])
    [answer] = answers(folder)
    assert (answer.item_id, answer.labels, answer.action, answer.annotator) == ("i00000", ("b",), "labelled", "unknown")
    assert answers(folder) == [answer]  # times and ids that the person left out are the same on every pull


def test_an_answer_may_be_saved_with_a_mark_of_the_encoding(folder: TaskFolder) -> None:
    """As some editors and shells on Windows save UTF-8; in the tasks and in exports."""
    write(folder, "i00000", [annotation("b")])
    export(folder, "some.json", exported("i00001", annotation("a")))
    for file in (folder.path / f"{folder.task_id('i00000')}.json", folder.path / "import" / "some.json"):
        file.write_text(file.read_text("utf-8"), "utf-8-sig")
    assert {(answer.item_id, answer.labels) for answer in answers(folder)} == {("i00000", ("b",)), ("i00001", ("a",))}
    assert not folder.problems


def test_the_guide_is_written_anew_whatever_an_editor_made_of_it(tmp_path: Path) -> None:
    folder = TaskFolder(tmp_path / "tasks", "p")
    folder.ensure_project(["a", "b"])
    guide = folder.path / "HOW_TO_ANSWER.txt"
    text = guide.read_text("utf-8")
    guide.write_text(text, "utf-16")
    folder.ensure_project(["a", "b"])
    assert guide.read_text("utf-8") == text


def test_a_person_can_read_the_files_in_any_script(tmp_path: Path) -> None:
    """What JSON escapes nobody can read, and people answer in these files by hand."""
    folder = TaskFolder(tmp_path / "tasks", "p")
    folder.ensure_project(["好评", "شكوى"])
    folder.push([dataclasses.replace(task("é-1"), text="质量不错 👍 ऐप", reason="half a pair: \ud800")])
    text = (folder.path / f"{folder.task_id('é-1')}.json").read_text("utf-8")
    assert '"质量不错 👍 ऐप"' in text
    assert '"é-1"' in text
    assert '"half a pair: \\ud800"' in text
    assert '"好评"' in (folder.path / "HOW_TO_ANSWER.txt").read_text("utf-8").partition("The classes are")[0]
    folder.annotate(folder.task_id("é-1"), labels=["好评"], annotator="王小明", seconds=1.0)
    assert [(answer.annotator, answer.labels) for answer in answers(folder)] == [("王小明", ("好评",))]


def test_a_skip_has_no_label(folder: TaskFolder) -> None:
    write(folder, "i00000", [annotation(None, was_cancelled=True)])
    [answer] = answers(folder)
    assert (answer.action, answer.labels) == ("skipped", ())


@pytest.mark.parametrize(
    "wrong",
    [
        "nonsense",
        {"result": "nonsense"},
        {"result": [{"from_name": "label", "value": {"choices": []}}]},
        annotation(None),
        annotation(lead_time="soon"),
        annotation(lead_time=float("nan")),
        annotation(lead_time=-1),
        annotation(lead_time=1e308),
        annotation(created_at="yesterday"),
        annotation(updated_at="9999-12-31T23:59:59-23:59"),
        annotation(completed_by="half a pair \ud800"),
        annotation("\udfff"),
        {"result": [{"from_name": "label", "value": {"choices": "a"}}]},
        {"result": [{"from_name": "label", "value": {"choices": ["a", "b"]}}]},
        annotation("a", was_cancelled="false"),
    ],
    ids=str,
)
def test_a_wrong_annotation_is_named_and_the_others_count(folder: TaskFolder, wrong: Any) -> None:
    export(
        folder,
        "export.json",
        exported("i00000", annotation("a"), wrong, annotation("b")),
        exported("i00001", annotation("b")),
    )
    assert [(answer.item_id, *answer.labels) for answer in answers(folder)] == [
        ("i00000", "a"),
        ("i00000", "b"),
        ("i00001", "b"),
    ]
    assert list(folder.problems) == ["export.json"]


@pytest.mark.parametrize("content", ["", "{ half a fi", "7", "[7]", '{"a": ' * 100_000, "\ud800"], ids=repr)
def test_a_file_that_is_no_task_is_named_and_left_as_it_is(folder: TaskFolder, content: str) -> None:
    path = folder.path / "aaa.json"
    raw = content.encode("utf-8", "surrogatepass")
    path.write_bytes(raw)
    write(folder, "i00000", [annotation("a")])
    assert [answer.labels for answer in answers(folder)] == [("a",)]
    assert list(folder.problems) == ["aaa.json"]
    assert path.read_bytes() == raw


def test_a_pipe_between_the_tasks_holds_nobody_up(folder: TaskFolder) -> None:
    (folder.path / "import").mkdir()
    os.mkfifo(folder.path / "import" / "export.json")
    (folder.path / "x.json").symlink_to("/dev/zero")
    write(folder, "i00000", [annotation("a")])
    command = "import sys; from pathlib import Path; from active.task_folder.service import TaskFolder as F; "
    command += "f = F(Path(sys.argv[1]), 'p'); print(len(list(f.pull())), sorted(f.problems), len(list(f.stored())))"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import resource as r; r.setrlimit(r.RLIMIT_AS, (2**32, 2**32)); {command}",
            folder.path,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "1 ['export.json', 'x.json'] 3\n", done.stderr


def test_an_export_of_another_kind_is_named_and_a_suffix_may_be_large(folder: TaskFolder) -> None:
    export(folder, "min.json", {"item_id": "i00001", "text": "text", "label": "a", "annotation_id": 1})
    export(folder, "UPPER.JSON", exported("i00000", annotation("a")))
    (folder.path / "import" / "labels.csv").write_text("item_id,label\ni00002,a\n", "utf-8")
    (folder.path / "import" / ".hidden").write_text("", "utf-8")
    assert [answer.item_id for answer in answers(folder)] == ["i00000"]
    assert sorted(folder.problems) == ["labels.csv", "min.json"]
    assert all("JSON-MIN" in words for words in folder.problems.values())


def test_other_data_is_put_into_a_file_of_one_task_only(folder: TaskFolder) -> None:
    path = folder.path / f"{folder.task_id('i00000')}.json"
    path.write_text(f"[{path.read_text('utf-8')}, {path.read_text('utf-8')}]", "utf-8")
    with pytest.raises(ServiceRefused, match="holds 2 tasks"):
        folder.show({folder.task_id("i00000"): {"item_id": "i00000", "text": "new"}})


def test_a_mended_file_is_no_problem_any_more(folder: TaskFolder) -> None:
    path = folder.path / "aaa.json"
    path.write_text("{")
    assert answers(folder) == []
    assert folder.problems
    path.unlink()
    assert answers(folder) == []
    assert not folder.problems


def test_withdrawing_removes_open_tasks_only(folder: TaskFolder) -> None:
    write(folder, "i00000", [annotation("a")])
    torn = write(folder, "i00001", [annotation("a")])
    torn.write_text(torn.read_text("utf-8")[:-9], "utf-8")
    folder.withdraw([folder.task_id("i00000"), folder.task_id("i00002"), folder.task_id("never")])
    assert set(folder.find(["i00000", "i00001", "i00002"])) == {"i00000", "i00001"}
    with pytest.raises(ServiceRefused, match=r"cannot be read .* remove it; `siftline queue reconcile` then writes it"):
        folder.withdraw([folder.task_id("i00001")])
    assert torn.is_file()


def test_a_simulated_answer_needs_a_task(folder: TaskFolder) -> None:
    with pytest.raises(ServiceRefused, match="is gone"):
        folder.annotate("never", labels=["a"], annotator="ann", seconds=1.0)


def test_a_write_that_fails_leaves_the_old_file(folder: TaskFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.annotate(folder.task_id("i00000"), labels=["a"], annotator="ann", seconds=1.0)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(SettingsError, match=r"No space left on device\..*make room"):
        folder.annotate(folder.task_id("i00000"), labels=["b"], annotator="ann", seconds=1.0)
    assert [answer.labels for answer in answers(folder)] == [("a",)]
    assert [path.name for path in folder.path.glob(".*")] == [".gitignore"]


def test_tasks_hold_records_and_are_their_owners_only(folder: TaskFolder) -> None:
    folder.annotate(folder.task_id("i00000"), labels=["a"], annotator="ann", seconds=1.0)
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    files = list(folder.path.iterdir())
    assert len(files) == 5
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def modes(folder: TaskFolder) -> tuple[int, set[int]]:
    """Of the folder and of the files in it."""
    return stat.S_IMODE(folder.path.stat().st_mode), {stat.S_IMODE(p.stat().st_mode) for p in folder.path.iterdir()}


def test_a_new_task_is_as_open_to_a_group_as_its_folder_is(folder: TaskFolder) -> None:
    folder.path.chmod(0o2770)
    folder.push([task("i00009")])
    assert stat.S_IMODE((folder.path / f"{folder.task_id('i00009')}.json").stat().st_mode) == 0o660


def test_a_folder_that_an_earlier_siftline_opened_to_everybody_is_closed_once(folder: TaskFolder) -> None:
    folder.path.chmod(0o755)
    for path in folder.path.glob("[!.]*"):
        path.chmod(0o644)
    folder.ensure_project(["a", "b"])
    assert modes(folder) == (0o700, {0o600})
    folder.path.chmod(0o750)  # a person opens it to the group
    folder.ensure_project(["a", "b"])
    assert modes(folder) == (0o750, {0o600})


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
def test_a_link_that_somebody_put_there_closes_no_file_elsewhere(
    link: Callable[[Path, Path], None], folder: TaskFolder, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "page.html"
    elsewhere.write_text("{}")
    elsewhere.chmod(0o644)
    folder.path.chmod(0o777)
    (folder.path / f"{folder.task_id('i00000')}.json").chmod(0o644)
    link(folder.path / "other.json", elsewhere)
    folder.ensure_project(["a", "b"])
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o644


def test_a_file_that_a_tool_made_does_not_close_a_folder_opened_to_a_group(folder: TaskFolder) -> None:
    folder.path.chmod(0o750)
    for path in folder.path.iterdir():
        path.chmod(0o640)
    (folder.path / f"{folder.task_id('i00000')}.json").chmod(0o644)
    folder.ensure_project(["a", "b"])
    assert modes(folder) == (0o750, {0o640, 0o644})


def test_a_folder_that_people_made_stays_as_open_as_they_made_it(tmp_path: Path) -> None:
    folder = TaskFolder(tmp_path / "tasks", "p")
    folder.path.mkdir()
    folder.path.chmod(0o755)
    for _ in range(2):
        folder.ensure_project(["a", "b"])
        assert modes(folder) == (0o755, {0o600})


def test_an_answer_leaves_a_task_file_as_open_as_it_was(folder: TaskFolder) -> None:
    task_id = folder.task_id("i00000")
    path = folder.path / f"{task_id}.json"
    for mode in (0o660, 0o640, 0o600):
        path.chmod(mode)
        folder.annotate(task_id, labels=["a"], annotator="ann", seconds=1.0)
        assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several people")
@pytest.mark.parametrize(("group", "mode"), [(2000, 0o660), (2001, 0o604)], ids=["of the group", "of another"])
def test_a_colleagues_answer_leaves_a_task_file_to_its_group(group: int, mode: int) -> None:
    colleague = """
import os, sys
from pathlib import Path
from active.task_folder.service import TaskFolder
folder, task_id, group = TaskFolder(Path("."), "p"), sys.argv[1], int(sys.argv[2])
os.setgroups([group])
os.setgid(2001)
os.setuid(2001)
folder.annotate(task_id, labels=["a"], annotator="bob", seconds=1.0)
"""
    with tempfile.TemporaryDirectory() as shared:  # pytest's own folders are closed to other people
        folder = TaskFolder(Path(shared), "p")
        task_id = folder.push([task("i00000")])["i00000"]
        path = folder.path / f"{task_id}.json"
        folder.path.chmod(0o777)
        os.chown(path, 2000, 2000)
        path.chmod(mode)
        command = [sys.executable, "-c", colleague, task_id, str(group)]
        subprocess.run(command, cwd=shared, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
        found = path.stat()
    assert found.st_uid == 2001
    assert (found.st_gid, stat.S_IMODE(found.st_mode)) == ((2000, 0o660) if group == 2000 else (2001, 0o644))


@pytest.mark.parametrize("apart", [False, True], ids=["in one collect", "in two, of which the first died half-way"])
def test_answers_without_a_name_are_as_many_people_to_the_queue_as_to_the_labels(
    lake: Lake, tmp_path: Path, apart: bool
) -> None:
    plan(lake, "p", [0.5, 0.4])
    folder = TaskFolder(tmp_path / "tasks", "p")
    two = QueueConfig(project="p", classes=("a", "b"), annotators_per_task=2)
    push(lake, folder, two)
    write(folder, "news-0", [annotation("a", id=number, completed_by=None) for number in (1, 2)])
    write(folder, "news-1", [annotation("a", id=number, completed_by="ann") for number in (1, 2)])
    collect(lake, folder, two)
    if apart:
        with lake.stage("again", version=1, inputs=()) as stage:
            rows = stage.arrow("SELECT * EXCLUDE (run_id, committed_at) REPLACE ('confirmed' AS state) FROM queue")
            stage.commit([Upsert("queue", rows)])
        collect(lake, folder, two)
    with lake.read() as reader:
        assert reader.rows("SELECT item_id, annotations FROM gold_labels ORDER BY ALL") == [
            ("news-0", 2),
            ("news-1", 1),
        ]
        states = reader.rows("SELECT item_id, state FROM queue ORDER BY ALL")
        assert states == [("news-0", "answered"), ("news-1", "confirmed")]


def test_the_answer_in_the_readme_is_an_answer(folder: TaskFolder) -> None:
    text = (Path(__file__).parents[2] / "active" / "README.md").read_text("utf-8")
    start = text.index('{"data": {...}, ')
    example = json.loads(text[start : text.index("\n\n", start)].replace("{...}", "{}"))
    write(folder, "i00000", example["annotations"])
    [answer] = answers(folder)
    assert (answer.labels, answer.annotator) == (("earn",), "ann@example.org")
