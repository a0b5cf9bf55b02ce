"""`siftline import` from `siftline init` on, and to a warehouse with other classes as docs/label-studio.md has it."""

import json
import re
import shlex
from pathlib import Path

import pytest

from active.quality import label_errors
from active.quality.label_errors import Suspect
from features.ingest.stage import ingest
from features.readers.label_file import read_label_file
from flows.cli.main import run_command
from flows.pipelines.stages import run_stage_in_process, run_stages
from flows.project.project import Project
from warehouse import connect

PAGE_FOLDER = Path(__file__).parents[2] / "docs"
PAGE = (PAGE_FOLDER / "label-studio.md").read_text("utf-8")


def ask(project: Path, *arguments: str) -> int:
    return run_command([*arguments, "--project", str(project)])


def mail(folder: Path, *options: str) -> Path:
    """A project of two records, of which one looks like a formula."""
    (folder / "mail.csv").write_text("id,text\n1,=one\n2,two\n", "utf-8")
    given = ["--source", str(folder / "mail.csv"), "--classes", "ham,spam", "--id", "id"]
    assert run_command(["init", str(folder / "p"), *given, *options]) == 0
    return folder / "p"


def labels(project: Path, lake: str) -> list[tuple[object, ...]]:
    with connect(project / lake) as reader:
        return reader.rows("SELECT item_id, label FROM gold_labels ORDER BY 1")


def test_labels_come_in_first_and_go_along_to_other_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [("1", "one", "spam"), ("2", "two", "ham"), ("3", "three", "")]
    (tmp_path / "mail.csv").write_text("id,text,kind\n" + "".join(",".join(row) + "\n" for row in rows), "utf-8")
    project = tmp_path / "p"
    options = ["--source", str(tmp_path / "mail.csv"), "--classes", "ham,spam", "--id", "id"]
    assert run_command(["init", str(project), *options]) == 0
    settings = project / "siftline.toml"
    settings.write_text(re.sub(r"# metadata = .*", 'metadata = ["kind"]', settings.read_text("utf-8")), "utf-8")
    given = tmp_path / "labels.jsonl"
    given.write_text('{"id": "1", "label": "spam"}\n{"id": "9", "label": "ham"}\n', "utf-8")
    assert ask(project, "import", str(given.with_name("label.jsonl"))) == 2
    assert "label.jsonl does not exist. Name a" in capsys.readouterr().err
    assert ask(project, "import", str(given), "--annotator", "ann") == 0
    said = capsys.readouterr().out
    assert "1 new or changed label " in said
    assert "Left out, ids that are no items: 1; import the file again" in said
    assert "To learn from them: siftline run --project" in said
    assert labels(project, "lake") == [("1", "spam")]

    query = "select item_id, metadata ->> 'kind' as label from items"
    assert ask(project, "sql", "--output", str(given), "--force", query) == 0
    assert ask(project, "import", str(given), "--annotator", "ann") == 0
    assert labels(project, "lake") == [("1", "spam"), ("2", "ham")]

    table = tmp_path / "mail.csv"
    table.write_text("body,label\ntwo,spam\n", "utf-8")  # the column has the name that the source's has
    settings.write_text(settings.read_text("utf-8").replace('text = "text"', 'text = "body"'), "utf-8")
    (project / "data" / "mail.csv").write_text("id,body,kind\n1,one,spam\n2,two,ham\n3,three,\n", "utf-8")
    assert ask(project, "import", str(table), "--annotator", "ann") == 0
    assert labels(project, "lake") == [("1", "spam"), ("2", "spam")]
    capsys.readouterr()
    assert ask(project, "import", str(table), "--annotator", "ann", "--withdraw") == 0
    assert "1 label taken back, of those in" in capsys.readouterr().out
    assert labels(project, "lake") == [("1", "spam")]
    table.write_text("body,label\ntwo,ham\nten,ham\n", "utf-8")
    assert ask(project, "import", str(table), "--annotator", "ann") == 0
    assert "Left out, texts that are no item's: 1; import the file again" in capsys.readouterr().out

    settings.write_text(settings.read_text("utf-8").replace('["ham", "spam"]', '["good", "bad", "odd"]'), "utf-8")
    capsys.readouterr()
    assert ask(project, "import", str(given)) == 2
    assert (
        "take people's labels to another warehouse: siftline docs label-studio 'Other classes'"
        in capsys.readouterr().err
    )
    [taken] = re.findall(r'siftline sql --output labels\.jsonl "(select item_id, annotator, .+)"', PAGE)
    assert ask(project, "sql", "--output", str(given), "--force", taken) == 0
    kept = given.read_text("utf-8")
    assert {"item_id": "1", "annotator": "ann", "label": ["spam"]} in [json.loads(line) for line in kept.splitlines()]
    given.write_text(kept.replace("spam", "bad").replace("ham", "good"), "utf-8")
    settings.write_text(settings.read_text("utf-8").replace('path = "lake"', 'path = "other"'), "utf-8")
    assert ask(project, "import", str(given)) == 0
    assert labels(project, "other") == [("1", "bad"), ("2", "good")]
    assert labels(project, "lake") == [("1", "spam"), ("2", "ham")]


def test_labels_that_records_carry_come_out_by_the_lines_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [("1", ["ham", "spam"], "train"), ("2", [], "train"), ("3", ["spam"], "test")]
    records = [{"id": item, "text": f"text {item}", "category": given, "split": split} for item, given, split in rows]
    (tmp_path / "mail.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    options = ["--source", str(tmp_path / "mail.jsonl"), "--classes", "ham,spam", "--id", "id", "--multi-label"]
    assert run_command(["init", str(tmp_path / "p"), *options]) == 0
    monkeypatch.chdir(tmp_path / "p")
    settings = Path("siftline.toml")
    kept = 'metadata = ["category"]\nsplit = "split"'
    settings.write_text(re.sub(r"# metadata = .*", kept, settings.read_text("utf-8")), "utf-8")
    project = Project(Path())
    ingest(project.lake, project.ingest_config)
    [gold, given] = re.findall(r"siftline (sql --output (\S+) \"select [^\"]+ ->> 'category' as label [^\"]+\")", PAGE)
    for line, _ in (gold, given):
        assert run_command(shlex.split(line)) == 0
    assert run_command(["import", given[1]]) == 0
    assert labels(Path(), "lake") == [("1", "ham, spam"), ("2", "(none)")]
    assert [(row.item_id, row.labels) for row in read_label_file(Path(gold[1]))] == [("3", ("spam",))]


def test_what_people_said_is_corrected_in_their_names(tmp_path: Path) -> None:
    project, given = mail(tmp_path), tmp_path / "given.csv"
    given.write_text("id,label,annotator\n1,spam,ann\n1,spam,bob\n2,ham,ann\n", "utf-8")
    assert ask(project, "import", str(given)) == 0
    [query] = re.findall(r'siftline sql --output again\.csv "(.+)"', PAGE)
    again = tmp_path / "again.csv"
    assert ask(project, "sql", "--output", str(again), query.replace("'grain'", "'spam'")) == 0
    rows = again.read_text("utf-8")
    assert sorted(rows.split()) == ["1,ann,'=one,spam", "1,bob,'=one,spam", "item_id,annotator,content,label"]
    given.write_text("id,label\n1,ham\n", "utf-8")
    assert ask(project, "import", str(given), "--annotator", "chief") == 0
    assert labels(project, "lake") == [("1", "spam"), ("2", "ham")]
    again.write_text(rows.replace("spam", "ham"), "utf-8")
    assert ask(project, "import", str(again)) == 0
    assert labels(project, "lake") == [("1", "ham"), ("2", "ham")]


def test_a_reviewer_settles_what_people_disagree_on(tmp_path: Path) -> None:
    project, given = mail(tmp_path), tmp_path / "given.csv"
    given.write_text("id,label,annotator\n1,spam,ann\n1,spam,bob\n1,ham,cem\n2,ham,ann\n2,ham,bob\n", "utf-8")
    assert ask(project, "import", str(given)) == 0
    [query] = re.findall(r'siftline sql --output review\.csv "(.+)"', PAGE)
    [section] = re.findall(r"    \[annotate\]\n    (reviewers = \S+)", PAGE)
    review, settings = tmp_path / "review.csv", project / "siftline.toml"
    settings.write_text(settings.read_text("utf-8").replace("[annotate]\n", f"[annotate]\n{section}\n"), "utf-8")
    assert ask(project, "sql", "--output", str(review), query) == 0
    [head, row] = review.read_text("utf-8").splitlines()
    assert (head, row) == (
        "item_id,label,opinions,content",
        '1,spam,"[""ann: spam"", ""bob: spam"", ""cem: ham""]",\'=one',
    )
    lists, [as_lists] = tmp_path / "lists.jsonl", re.findall(r"`(select item_id,\s+g\.labels [^`]+)`", PAGE)
    assert ask(project, "sql", "--output", str(lists), as_lists.replace("\n", " ")) == 0
    assert json.loads(lists.read_text("utf-8"))["label"] == ["spam"]
    review.write_text(f"{head}\n{row.replace(',spam,', ',ham,')}\n", "utf-8")
    assert ask(project, "import", str(review), "--annotator", "lead@example.org") == 0
    run_stages(run_stage_in_process(Project(project)), ["consensus"])
    assert labels(project, "lake") == [("1", "ham"), ("2", "ham")]
    assert ask(project, "sql", "--output", str(review), "--force", query) == 0
    assert review.read_text("utf-8").splitlines() == [head]


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("form", ["csv", "json"])
def test_what_suspects_lists_is_corrected_and_imported(
    form: str, several: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    project, file = mail(tmp_path, *["--multi-label"] * several), tmp_path / f"again.{form}"
    file.write_text("id,label\n1,ham\n2,ham\n" if form == "csv" else '{"id": 1, "label": "ham"}\n', "utf-8")
    assert ask(project, "import", str(file), "--annotator", "ann") == 0
    found = [Suspect(item_id="1", labels=(0,), likely=(1,), suspicion=0.9, in_question=0 if several else None)]
    monkeypatch.setattr(label_errors, "suspects", lambda *_: found)
    monkeypatch.setattr(Project, "index", lambda _: None)
    capsys.readouterr()
    assert ask(project, "suspects", "--format", form) == 0
    file.write_text(capsys.readouterr().out.replace("ham", "spam", 1), "utf-8")
    assert ask(project, "import", str(file), "--annotator", "ann") == 0
    assert labels(project, "lake")[0] == ("1", "spam")


def test_records_that_get_no_label_as_they_could_not_be_read_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mail.csv").write_text("id,text\n1,one\n2,\n", "utf-8")
    options = ["--source", str(tmp_path / "mail.csv"), "--classes", "ham,spam", "--id", "id"]
    assert run_command(["init", str(tmp_path / "p"), *options]) == 0
    (tmp_path / "labels.csv").write_text("id,label\n1,ham\n2,ham\n", "utf-8")
    assert ask(tmp_path / "p", "import", str(tmp_path / "labels.csv")) == 0
    told = "Records of the sources that were not read, and get no label: 1. Which, and why: siftline questions"
    assert told in capsys.readouterr().err
    assert ask(tmp_path / "p", "questions", "what-was-not-read") == 0
    assert "mail.csv" in capsys.readouterr().out


def test_labels_go_along_by_their_texts_where_all_ids_are_new(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    project, heading = tmp_path / "p", "What was edited or is gone"
    project.mkdir()
    monkeypatch.chdir(project)
    Path("mail.csv").write_text("id,text\n" + "".join(f"{n},words {n}\n" for n in range(10)), "utf-8")
    assert run_command(["init", ".", "--source", "mail.csv", "--classes", "ham,spam", "--id", "id"]) == 0
    Path("given.csv").write_text("id,label\n3,spam\n4,ham\n", "utf-8")
    assert run_command(["import", "given.csv"]) == 0
    Path("data", "mail.csv").write_text("id,text\n" + "".join(f"a{n},words {n}\n" for n in range(10)), "utf-8")
    capsys.readouterr()
    assert run_command(["import", "given.csv"]) == 2
    assert f"siftline docs operations '{heading}'" in " ".join(capsys.readouterr().err.split())
    page = (PAGE_FOLDER / "operations.md").read_text("utf-8")
    section = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    first, second = re.findall(r"```sh\n(.*)\n(.*)\n```", section)[0]
    assert run_command(shlex.split(first)[1:]) == 0
    settings = Path("siftline.toml")
    settings.write_text(settings.read_text("utf-8").replace('path = "lake"', 'path = "other"'), "utf-8")
    assert run_command(shlex.split(second)[1:]) == 0
    assert labels(project, "other") == [("a3", "spam"), ("a4", "ham")]
