"""`siftline init`: what it asks for, says and writes, and that it never writes over what is there."""

import shlex
from pathlib import Path

import pytest

from flows.cli.init import NOT_FOR_GIT
from flows.cli.main import run_command
from flows.settings.settings_file import load_settings


def test_init_makes_a_multi_label_project(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = tmp_path / "own.jsonl"
    records.write_text('{"text": "Oil rose."}\n', "utf-8")
    folder = tmp_path / "p"
    wanted = ["init", str(folder), "--classes", "a,b", "--multi-label"]
    assert run_command([*wanted, "--sample", "reuters"]) == 2
    assert "has one class; leave out --multi-label" in capsys.readouterr().err
    assert run_command([*wanted, "--source", str(records)]) == 0
    printed = capsys.readouterr().out
    assert "several of them, or none" in printed
    assert "functions for each class" in printed
    settings = load_settings(folder)
    assert settings.project.multi_label
    assert settings.weak_labels.label_model == "anchored"
    assert "for one class that an item has" in (folder / "labeling_functions.py").read_text("utf-8")
    assert "@" not in (folder / "siftline.toml").read_text("utf-8")


def test_init_tells_git_what_to_leave_where_nobody_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["init", str(tmp_path / "p"), "--classes", "ham,spam"]) == 0
    assert (tmp_path / "p" / ".gitignore").read_text("utf-8") == NOT_FOR_GIT
    (tmp_path / "q").mkdir()
    (tmp_path / "q" / ".gitignore").write_text("/mine/\ndata\n.env\n", "utf-8")
    assert run_command(["init", str(tmp_path / "q"), "--classes", "ham,spam"]) == 0
    assert (tmp_path / "q" / ".gitignore").read_text("utf-8") == "/mine/\ndata\n.env\n"
    told = capsys.readouterr().out
    assert "q/.gitignore was there and stays. Add to it, or git takes records and keys:\n   /lake/\n" in told
    assert "/.env\n" not in told


def test_what_init_says_next_can_be_typed_as_it_stands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "Ann's tickets & more"
    assert run_command(["init", str(root), "--classes", "ham,spam"]) == 0
    said = [line.partition("siftline ")[2] for line in capsys.readouterr().out.splitlines() if "--project" in line]
    wanted = ["--project", str(root)]
    assert [shlex.split(line) for line in said] == [["lf", "preview", *wanted], ["run", *wanted]]


@pytest.mark.parametrize(
    ("name", "lines", "told"),
    [
        ("own.csv", "id,body,label\n1,a,spam\n", True),
        ("own.jsonl", '{"body": "a", "label": "spam"}\n', True),
        ("own.csv", "id,body,kind\n1,a,spam\n", False),
        ("own.jsonl", '{"body": "a"}\n', False),
    ],
)
def test_init_says_how_labels_of_its_file_come_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, lines: str, told: bool
) -> None:
    (tmp_path / name).write_text(lines, "utf-8")
    source = ["--source", str(tmp_path / name), "--text", "body"]
    assert run_command(["init", str(tmp_path / "the tickets"), "--classes", "ham,spam", *source]) == 0
    said = [
        line.partition("siftline ")[2] for line in capsys.readouterr().out.splitlines() if "siftline import" in line
    ]
    assert len(said) == told
    for line in said:
        assert run_command(shlex.split(line)) == 0
        assert "1 new or changed label from" in capsys.readouterr().out


def test_init_says_which_classes_it_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["init", str(tmp_path / "p"), "--classes", "billing, charges,bug [app]"]) == 0
    assert "with 3 classes: 'billing', 'charges', 'bug [app]'" in capsys.readouterr().out
    assert load_settings(tmp_path / "p").project.name == "p-project", "Label Studio takes no name below 3 letters"


def test_init_never_overwrites(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "p"
    assert run_command(["init", str(folder), "--classes", "spam,ham"]) == 0
    assert f"Put your records into {folder / 'data' / 'records.jsonl'}" in capsys.readouterr().out
    (folder / "labeling_functions.py").write_text("mine")
    assert run_command(["init", str(folder), "--classes", "other,classes"]) == 2
    assert "nothing was changed" in capsys.readouterr().err
    assert (folder / "labeling_functions.py").read_text() == "mine"


@pytest.mark.parametrize("name", ["labeling_functions.py", "data/own.csv"])
def test_init_leaves_files_that_are_there(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    records = tmp_path / "own.csv"
    records.write_text("text\nnew\n", "utf-8")
    folder = tmp_path / "p"
    (folder / "data").mkdir(parents=True)
    (folder / name).write_text("text\na week of work\n", "utf-8")
    assert run_command(["init", str(folder), "--source", str(records), "--classes", "a,b"]) == 2
    assert "nothing was changed" in capsys.readouterr().err
    assert [path for path in folder.rglob("*") if path.is_file()] == [folder / name]
    assert (folder / name).read_text("utf-8") == "text\na week of work\n"


def test_init_takes_records_that_lie_in_the_folder_already(tmp_path: Path) -> None:
    records = tmp_path / "p" / "data" / "own.csv"
    records.parent.mkdir(parents=True)
    records.write_text("text\nnew\n", "utf-8")
    assert run_command(["init", str(tmp_path / "p"), "--source", str(records), "--classes", "a,b"]) == 0
    assert load_settings(tmp_path / "p").sources[0].path == "data/own.csv"


@pytest.mark.parametrize(
    "option", [("--source", "own.csv"), ("--text", "text"), ("--id", "number"), ("--classes", "a,b")]
)
def test_init_takes_a_sample_or_what_is_ones_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: tuple[str, str]
) -> None:
    assert run_command(["init", str(tmp_path / "p"), "--sample", "reuters-r8", *option]) == 2
    assert f"leave out {option[0]}, or --sample" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "p").exists()


def test_init_overwrites_no_records_with_those_of_a_sample(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "gold.parquet").write_text("mine", "utf-8")
    assert run_command(["init", str(tmp_path), "--sample", "reuters-r8"]) == 2
    assert "gold.parquet exists already" in "".join(capsys.readouterr().err.split("\n"))


def test_init_writes_signs_of_any_plane(tmp_path: Path) -> None:
    records = tmp_path / "own.csv"
    records.write_text("text,🆔\nnew,1\n", "utf-8")
    folder = tmp_path / "pro😀"
    assert run_command(["init", str(folder), "--source", str(records), "--classes", "😀,😡", "--id", "🆔"]) == 0
    settings = load_settings(folder)
    assert (settings.project.name, settings.project.classes) == ("pro😀", ("😀", "😡"))
    assert settings.sources[0].id == "🆔"
    assert '"😀"' in (folder / "labeling_functions.py").read_text("utf-8")


def test_the_functions_that_init_writes_vote_for_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Who brings labels only, or adds functions below these, leaves them as they are."""
    records = tmp_path / "own.csv"
    records.write_text("text\nWhich of these words shall I replace?\nReplace this one. replace this one.\n", "utf-8")
    folder = tmp_path / "p"
    assert run_command(["init", str(folder), "--source", str(records), "--classes", "a,b"]) == 0
    capsys.readouterr()
    assert run_command(["lf", "preview", "--project", str(folder)]) == 0
    rows = [line.split("\t")[:3] for line in capsys.readouterr().out.splitlines()]
    assert rows[-2:] == [["keywords_first", "2", "0"], ["regex_second", "2", "0"]]


def test_init_writes_nothing_that_it_could_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["init", str(tmp_path / "p"), "--classes", "a,b\x7f"]) == 2
    assert "not valid TOML" in capsys.readouterr().err
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        ("body\nx\n", ["--text", "bdoy"], "no column 'bdoy'. It has: body. Name yours: --text COLUMN"),
        ("", ["--text", "body"], "nothing was written"),
        ("body\n", ["--text", "body"], "nothing was written"),
        ("body\nx\n", ["--text", "body", "--classes", "a"], "two classes"),
        ("body\nx\n", ["--text", "body", "--classes", "a,a"], "each once"),
        ("body\nx\n", ["--text", "body", "--classes", "a,A "], "The classes 'a' and 'A' differ only in case"),
    ],
)
def test_init_looks_at_the_file_and_leaves_nothing_behind_when_it_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, options: list[str], words: str
) -> None:
    (tmp_path / "own.csv").write_text(content, "utf-8")
    arguments = ["init", str(tmp_path / "p"), "--source", str(tmp_path / "own.csv"), "--classes", "a,b", *options]
    assert run_command(arguments) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "p").exists()


def test_init_names_the_fields_of_json_lines_when_none_has_the_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.jsonl").write_text('{"body": "x"}\n{"body": "y"}\n', "utf-8")
    assert run_command(["init", str(tmp_path / "p"), "--source", str(tmp_path / "own.jsonl"), "--classes", "a,b"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "2 missing_text" in told
    assert "the record has: 'body'" in told
    assert "--text NAME" in told
    assert not (tmp_path / "p").exists()
