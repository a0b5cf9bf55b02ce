"""`siftline init` with files as people have them: each is read, or refused with the way out and nothing written."""

import gzip
import io
import re
import stat
import subprocess
import tomllib
import uuid
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.cli.main import run_command
from tests.lakes import copy_of
from warehouse import Lake


def parquet(**columns: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


@pytest.fixture(autouse=True)
def copied_warehouse(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `siftline init` reads the file into to see how that goes: a copy, which is there in a tenth of the time."""
    monkeypatch.setattr("flows.cli.init.Lake", lambda path: copy_of(Lake, path))


def init(folder: Path, name: str, *options: str) -> int:
    source = str(folder / name)
    return run_command(["init", str(folder / "p"), "--source", source, "--classes", "a,b", *options])


@pytest.mark.parametrize(
    ("name", "content", "options", "told"),
    [
        ("a.csv", b"id;text\n1;hello, you\n2;b\n", [], "2 records can be read"),
        ("a.csv", b'\xef\xbb\xbf"id";"text"\r\n"1";"hello; you"\r\n', [], "1 record can be read"),
        ("a.csv", b"\n\nid\ttext\n1\ta,b\n", [], "1 record can be read"),
        ("a.csv", b"text,a;text\nx,y\n", [], "1 record can be read"),
        ("a.tsv.gz", gzip.compress(b"id\ttext\n1\ta\n", mtime=0), [], "1 record can be read"),
        ("a.csv", b"select,from,order\na,b,1\n", ["--text", "select", "--id", "order"], "1 record can be read"),
        ("a.csv", "größe,テキスト\n1,x\n".encode(), ["--text", "テキスト", "--id", "größe"], "1 record can be read"),
        ("a.csv", b"text,x,x\na,1,2\n", [], "1 record can be read"),
        ("a.csv", b"text\na\na\n", [], "1 record can be read; left out: 1 duplicate"),
        (
            "a.jsonl",
            b'{"text": "a", "id": 1}\n{"text": "b", "id": 1}\n{"text": ""}\n{"text": null}\n{"te\n',
            ["--id", "id"],
            "left out: 1 duplicate_id_conflict, 1 empty_text, 1 invalid_json, 1 null_text",
        ),
        (
            "a.jsonl",
            b'{"text": "a"}\n\n{"text": x}\n',
            [],
            "first invalid_json, line 3: a.jsonl: not JSON: Expecting value at character 10",
        ),
        ("a.csv", b'text\n"a\nb"\n""\n', [], "first empty_text, line 4: a.csv: 'text' is empty"),
        ("a.parquet", parquet(text=["a", ""]), [], "first empty_text, row 2: a.parquet: 'text' is empty"),
        ("a.jsonl", b'{"text": "a", "id": 1}\n{"text": "b"}\n', ["--id", "id"], "2 records can be read"),
        (
            "a.csv",
            'text\ngrün\na\n""\n""\n'.encode("latin-1"),
            [],
            "is the file UTF-8? From Windows-1252: iconv -f WINDOWS-1252 -t UTF-8",
        ),
        ("a.csv", b"text,who\na,1\nb,1\n", ["--id", "who"], "Where 'who' is not unique, begin anew with another --id"),
        (
            "a.parquet",
            parquet(text=pa.array(["a"], pa.large_string()).dictionary_encode()),
            [],
            "1 record can be read",
        ),
    ],
)
def test_what_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, options: list[str], told: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert init(tmp_path, name, *options) == 0
    assert told in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", b"id,text\n", "the file has none"),
        ("a.csv", b"text,text\na,b\n", "Rename all but one"),
        ("a.csv", "id,text\n1,a\n".encode("utf-16"), "UTF-16; convert it: iconv -f UTF-16 -t UTF-8"),
        ("a.csv", "id,text\n1,a\n".encode("utf-32"), "UTF-32; convert it"),
        ("a.csv", "id,text\n1,a\n".encode("utf-16-le"), "the file may be UTF-16"),
        ("a.csv", gzip.compress(b"text\na\n", mtime=0), "packed with gzip; end its name in .gz"),
        ("a.csv", b"PK\x03\x04\0\0", "save the sheet as CSV UTF-8"),
        ("a.csv", parquet(text=["a"]), "end its name in .parquet"),
        ("a.csv.gz", b"text\na\n", "take .gz off its name"),
        ("a.csv", b"id,text\r1,a\r2,b\r", "convert: tr '\\r' '\\n'"),
        ("a.jsonl", b'{"text":"a"}\r{"text":"b"}\r', "convert: tr '\\r' '\\n'"),
        ("a.jsonl", b'[{"text":"a"}]', "jq -c '.[]'"),
        ("a.json", b'[{"text":"a"}]', "jq -c '.[]'"),
        ("a.jsonl", b'{"text":{"body":"a"}}', "an object of 'body', not a string. Name"),
        ("a.jsonl", b'{"text":{"body":"a"}}', "jq -c '.text = .text.NAME'"),
        ("a.txt", b"a\nb\n", "jq -Rc '{text: .}'"),
        ("a.xlsx", b"PK\x03\x04", "Save the sheet as CSV UTF-8"),
        ("a.csv", b"id, text\n1, a\n", "It has: id, ' text'"),
        ("a.csv", b",body\n1,a\n", "It has: '', body"),
        ("a.csv", b"id;body\n1;a\n", "It has: id, body"),
        ("a.csv", b"c," * 5000 + b"c\n", "c, c and 4951 more"),
        (
            "a.parquet",
            parquet(text=[{"x": 1, "the body": "a"}]),
            'or take a text out of it, such as text."the body": in a project by a query, elsewhere in the file',
        ),
        ("a.parquet", parquet(text=[{"x": 1}]), "or take a text out of it, such as text.NAME: in"),
        (
            "a.parquet",
            parquet(text=pa.array([0], pa.timestamp("us"))),
            "or cast it to VARCHAR: in a project by a query, elsewhere in the file",
        ),
    ],
)
def test_what_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, told: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert init(tmp_path, name) == 2
    assert told in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "p").exists()


def test_an_array_of_json_is_read_after_the_command_that_needs_no_jq(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.json").write_text('[{"text": "größer"},\n {"text": "b"}]', "utf-8")
    assert init(tmp_path, "a.json") == 2
    way = re.search(r"python3 -c '[^']+' < FILE > data.jsonl", " ".join(capsys.readouterr().err.split()))
    assert way is not None
    subprocess.run(["sh", "-c", way[0].replace("FILE", "a.json")], cwd=tmp_path, check=True)
    assert init(tmp_path, "data.jsonl") == 0
    assert "2 records can be read" in capsys.readouterr().out


def test_a_large_file_is_read_with_a_sign_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("features.ingest.stage.PROGRESS_RECORDS", 1)
    monkeypatch.setattr("flows.cli.terminal.console.PLAIN_EVERY_S", 0.0)
    (tmp_path / "a.csv").write_text("text\na\nb\n")
    assert init(tmp_path, "a.csv") == 0
    assert "ingest, bytes: " in capsys.readouterr().err


def test_an_id_that_no_record_has_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """JSON has no header to look in; the texts became ids without a word."""
    (tmp_path / "a.jsonl").write_text('{"text": "a", "id": 1}\n{"text": "b", "id": 2}\n', "utf-8")
    assert init(tmp_path, "a.jsonl", "--id", "ticket") == 2
    told = capsys.readouterr().err
    assert "No record of" in told
    assert "has an id at 'ticket'; nothing was written" in told
    assert "or leave it out: the text is then the id" in told
    assert "jq" not in told
    assert init(tmp_path, "a.jsonl", "--id", "doc.key") == 2
    assert "One inside an object comes out by jq -c '.id = .doc.key' FILE > data.jsonl" in capsys.readouterr().err
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("我的 iPhone 屏幕坏了，要求退款", True),
        ("التوصيل سريع", True),
        ("सेवा बहुत अच्छी है", True),
        ("Дуже дякую 👍", True),
        ("Größe stimmt nicht", False),
        ("İyi ürün", False),
        ("the word 退款 means refund", False),
        ("123 👍", False),
    ],
)
def test_who_brings_another_script_is_told_that_the_encoders_learned_from_english(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: bool
) -> None:
    (tmp_path / "a.csv").write_text(f"text\n{text}\n{text}!\n", "utf-8")
    assert init(tmp_path, "a.csv") == 0
    assert ("the encoders of Siftline learned from English, see [encoder]" in capsys.readouterr().out) == said
    assert "learned from English" in (tmp_path / "p" / "siftline.toml").read_text("utf-8").partition("[encoder]")[2]


@pytest.mark.parametrize("name", ["", "*.csv"], ids=["a folder", "a glob"])
def test_several_files_at_once_have_another_way(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    (tmp_path / "a.csv").write_text("text\na\n")
    assert init(tmp_path, name) == 2
    assert 'path = "data/*.csv"' in " ".join(capsys.readouterr().err.split())


def test_a_project_is_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "a.csv"
    source.write_text("text\na\n")
    assert run_command(["init", str(source), "--source", str(source), "--classes", "a,b"]) == 2
    assert "a.csv is a file; nothing was changed. Name a folder" in " ".join(capsys.readouterr().err.split())
    assert source.read_text() == "text\na\n"


def test_the_copy_of_records_is_its_owners_only(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\na\n")
    (tmp_path / "a.csv").chmod(0o600)
    assert init(tmp_path, "a.csv") == 0
    copied = tmp_path / "p" / "data" / "a.csv"
    assert (copied.read_text(), stat.S_IMODE(copied.stat().st_mode)) == ("text\na\n", 0o600)
    assert [path.name for path in copied.parent.iterdir()] == ["a.csv"]


def test_a_class_may_hold_a_comma(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    assert run_command(["init", str(folder), "--classes", '"new, unread", 2" pipe,old']) == 0
    classes = tomllib.loads((folder / "siftline.toml").read_text("utf-8"))["project"]["classes"]
    assert classes == ["new, unread", '2" pipe', "old"]


def test_names_may_look_like_the_marks_of_the_template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(["init", "@CLASSES@", "--classes", "@SECOND@,@GOLD@,@PATH@"]) == 0
    settings = tomllib.loads(Path("@CLASSES@/siftline.toml").read_text("utf-8"))
    assert settings["project"]["name"] == "@CLASSES@"
    assert settings["project"]["classes"] == ["@SECOND@", "@GOLD@", "@PATH@"]
    functions = Path("@CLASSES@/labeling_functions.py").read_text("utf-8")
    assert 'keywords("@SECOND@", ' in functions
    assert 'regex("@GOLD@", ' in functions


def test_a_class_whose_quotes_do_not_close_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["init", str(tmp_path / "p"), "--classes", '"new, unread,old']) == 2
    assert "double quotes" in " ".join(capsys.readouterr().err.split())


def test_ids_of_type_uuid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    query = f"SELECT '{uuid.UUID(int=7)}'::UUID AS id, 'a' AS text"
    duckdb.sql(f"COPY ({query}) TO '{tmp_path / 'a.parquet'}'")
    assert init(tmp_path, "a.parquet", "--id", "id") == 0
    assert "1 record can be read" in capsys.readouterr().out
