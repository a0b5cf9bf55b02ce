"""A record that has to go for good, as docs/operations.md says: no byte of the project's folder tells of it then."""

import contextlib
import io
import json
import re
import shutil
import sqlite3
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.cli.main import run_command
from flows.cli.status import make_report
from flows.pipelines.stages import run_passes, run_stage_in_process
from flows.project.project import Project
from tests.projects import ROOT
from warehouse import Append, Lake
from warehouse.maintenance.compaction import maintain

PAGE = (ROOT / "docs" / "operations.md").read_text("utf-8")
SECTION = PAGE.partition("## A record that has to go\n")[2].partition("\n## ")[0]
RECORDS = 40
ANSWERED, OPEN = "5", "17"
TEXTS = {
    ANSWERED: "!first of all texts, Zanzibar was charged twice, invoice q4711z",
    OPEN: "zz last of all texts, Mombasa cannot log in, crash, password hunter",
}
WORDS = ("zanzibar", "q4711z", "mombasa", "hunter", "c-tanga")
"""None that a checksum in hexadecimal holds by chance."""
FUNCTIONS = """
from snorkel.labeling import labeling_function
from weak_labels import keywords

bills = keywords("billing", ["invoice", "charged"])
bugs = keywords("bug", ["crash", "error"])


@labeling_function()
def talks(x):
    if "password" in x.text:
        raise ValueError(f"cannot read {x.text}")
    return -1
"""


def block(language: str) -> list[str]:
    """The section's blocks of a language, without their indentation."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", SECTION, re.DOTALL | re.MULTILINE)
    return ["".join(line[len(indent) :] + "\n" for line in text.splitlines()) for indent, text in found]


def say(root: Path, *arguments: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        code = run_command([*arguments, "--project", str(root)])
    assert code == 0, out.getvalue()
    return out.getvalue()


def run(root: Path) -> None:
    project = Project(root)
    run_passes(run_stage_in_process(project), simulated=False)
    project.lake.close()


def write_records(root: Path, *, without: tuple[str, ...] = ()) -> None:
    lines = []
    for number in range(RECORDS):
        text = TEXTS.get(str(number), f"Hello, {'an invoice came' if number % 2 else 'an error came'}, number {number}")
        record = {"id": str(number), "body": text, "customer": "c-tanga" if str(number) in TEXTS else f"c{number}"}
        lines += [json.dumps(record) + "\n"] if str(number) not in without else []
    (root / "data").mkdir(exist_ok=True)
    (root / "data" / "tickets.jsonl").write_text("".join(lines))


SETTINGS = f"""
[project]
name = "tickets"
classes = ["billing", "bug"]

[[sources]]
name = "records"
path = "data/tickets.jsonl"
text = "body"
id = "id"
metadata = ["customer"]

[warehouse]
path = "lake"

[encoder]
name = "default"

[weak_labels]
functions = "labeling_functions.py"
label_model = "majority"

[select]
batch = {RECORDS}
budget = {RECORDS}

[annotate]
service = "folder"
"""


def made(root: Path) -> Path:
    """A project in which people answered all tasks but one."""
    root.mkdir()
    write_records(root)
    (root / "siftline.toml").write_text(SETTINGS)
    (root / "labeling_functions.py").write_text(FUNCTIONS)
    run(root)
    for path in (root / "tasks").glob("*.json"):
        task = json.loads(path.read_text())
        if task["data"]["item_id"] != OPEN:
            label = "billing" if "invoice" in task["data"]["text"] else "bug"
            part = {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": [label]}}
            path.write_text(json.dumps({**task, "annotations": [{"result": [part], "completed_by": "ann"}]}))
    run(root)
    return root


def contents(path: Path, whole: bytes) -> Iterator[bytes]:
    """A file's bytes, and what they hold: members, rows, vectors."""
    yield whole
    if whole.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(path) as members:
            yield from (members.read(name) for name in members.namelist())
    if whole.startswith(b"PAR1"):
        table = pq.read_table(path)
        yield str(table.drop_columns([c for c in ("vector",) if c in table.column_names]).to_pylist()).encode()
        if "vector" in table.column_names:
            yield from (np.asarray(vector, np.float32).tobytes() for vector in table["vector"].to_pylist())
    if whole.startswith(b"SQLite format 3"):
        with contextlib.closing(sqlite3.connect(path)) as database:
            names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for name in names:
                yield str(database.execute(f'SELECT * FROM "{name}"').fetchall()).encode()


def telling(root: Path, vectors: dict[str, bytes]) -> dict[str, list[str]]:
    """The files that tell of a word, or of the vector of an item."""
    found: dict[str, list[str]] = {}
    files = [(path, path.read_bytes()) for path in sorted(root.rglob("*")) if path.is_file()]
    for path, whole in files:  # read before: SQLite removes files beside a database that is looked into
        for content in contents(path, whole):
            low = content.lower()
            told = [word for word in WORDS if word.encode() in low or word.encode("utf-16-le") in low]
            told += [f"vector of {item}" for item, vector in vectors.items() if vector in content]
            if told:
                found.setdefault(str(path.relative_to(root)), []).extend(told)
    return found


def removed(root: Path, *items: str) -> None:
    """What the section says to do about the project's files and settings."""
    write_records(root, without=items)
    line = json.loads(block("json")[0])
    lines = [json.dumps({**line, "id": item}) + "\n" for item in items]
    (root / "data" / "removed.jsonl").write_text("".join(lines))
    settings = (root / "siftline.toml").read_text()
    (root / "siftline.toml").write_text(settings.replace("[[sources]]", f"{block('toml')[0]}\n[[sources]]", 1))


def test_nothing_tells_of_a_record_that_went_as_the_page_says(tmp_path: Path) -> None:
    root = made(tmp_path / "tickets")
    make_report(root, root / "report.html")
    with Project(root).read_lake() as lake, lake.read() as reader:
        before = reader.rows("SELECT item_id, vector FROM vectors WHERE item_id IN (?, ?)", [ANSWERED, OPEN])
        vectors = {str(item): np.asarray(vector, np.float32).tobytes() for item, vector in before}
        assert reader.scalar("SELECT count(*) FROM lf_faults WHERE contains(detail, 'hunter')") == 1
        gold = set(reader.rows("SELECT item_id, label FROM gold_labels"))
    tells = {path.split("/")[0] for path in telling(root, vectors)}
    assert tells == {".siftline", "data", "lake", "report.html", "tasks"}, "the case is there"

    removed(root, ANSWERED, OPEN)
    run(root)
    asked, steps = (text for text in block("sh"))
    command, query = re.findall(r'^siftline (sql) "(.+)"$', asked)[0]
    named = say(root, command, "--format", "csv", query.replace("('17')", f"('{ANSWERED}', '{OPEN}')")).split()[1:]
    for task in named:
        (root / "tasks" / f"{task}.json").unlink(missing_ok=True)
    shown = [json.loads(path.read_text())["data"] for path in (root / "tasks").glob("*.json")]
    assert [data["text"] for data in shown if data["item_id"] in TEXTS] == ["(removed)"], (
        "a task without a file stays open"
    )
    (swept,) = re.findall(r"^rm -rf (.+?) +#", steps, re.MULTILINE)
    assert swept == ".siftline report.html"
    shutil.rmtree(root / ".siftline")
    (root / "report.html").unlink()
    (upkeep,) = re.findall(r"^siftline (maintain .+?) +#", steps, re.MULTILINE)
    say(root, *upkeep.split())
    run(root)
    make_report(root, root / "report.html")

    assert telling(root, vectors) == {}
    with Project(root).read_lake() as lake, lake.read() as reader:
        kept = reader.rows("SELECT content, metadata, split FROM items WHERE item_id IN (?, ?)", [ANSWERED, OPEN])
        assert kept == [("(removed)", "{}", "valid")] * 2
        assert reader.scalar("SELECT count(*) FROM items") == RECORDS
        assert set(reader.rows("SELECT item_id, label FROM gold_labels")) == gold - {(ANSWERED, "billing")} != gold

    write_records(root)
    run(root)
    with Project(root).read_lake() as lake, lake.read() as reader:
        assert reader.scalar("SELECT count(*) FROM quarantine WHERE reason = 'duplicate_id_conflict'") == 2
    assert set(telling(root, vectors)) == {"data/tickets.jsonl"}, "it came in again, and was refused"


def test_rows_of_the_quarantine_go_by_the_pages_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {
        "source": ["records", "records"],
        "position": pa.array([1, 2], pa.int64()),
        "reason": ["bad_split", "bad_split"],
        "detail": ["'Mombasa'", "'other'"],
        "raw_hash": ["a", "b"],
        "raw_bytes": pa.array([7, 5], pa.int64()),
    }
    with Lake(tmp_path / "lake") as lake, lake.stage("ingest", version=1, inputs=()) as stage:
        stage.commit([Append("quarantine", pa.table(rows))])
    monkeypatch.chdir(tmp_path)
    for digest in ("a", "none"):  # once more, with another hash
        monkeypatch.setattr(sys, "argv", ["-c", digest])
        exec(compile(block("python")[0], "operations.md", "exec"), {})
    with Lake(tmp_path / "lake") as lake:
        maintain(lake, expire_older_than_days=0, grace_h=0)
        with lake.read() as reader:
            assert reader.rows("SELECT raw_hash FROM quarantine") == [("b",)]
    assert telling(tmp_path / "lake", {}) == {}
