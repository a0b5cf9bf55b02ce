"""`siftline sql` without a query, in a real terminal: lines are edited and recalled, and no slip of a key ends it."""

import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from flows.cli.main import run_command
from tests.terminal import Terminal
from warehouse import Append, Lake

PROMPT, MORE = "siftline> ", "     ... "


class Prompt(Terminal):
    """The command without a query, in a terminal."""

    def __init__(self, project: Path) -> None:
        super().__init__("sql", "--project", str(project))

    def type(self, keys: str, end: str = PROMPT) -> str:
        """What it answers to some keys."""
        self.send(keys)
        return self.until(end)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prompt")
    (folder / "siftline.toml").write_text(
        '[project]\nname = "prompt"\nclasses = ["a", "b"]\n[[sources]]\nname = "s"\npath = "s.csv"\n', "utf-8"
    )
    with Lake(folder / "lake") as lake, lake.stage("ingest", version=1, inputs=()) as stage:
        stage.commit([Append("classes", pa.table({"class_id": pa.array([0, 1], pa.int32()), "name": ["a", "b"]}))])
    return folder


@pytest.fixture(scope="module")
def terminal(project: Path) -> Iterator[Prompt]:
    """One terminal for the tests that stay in it."""
    opened = Prompt(project)
    assert "Ctrl-D leaves" in opened.until(PROMPT)
    yield opened
    opened.leave("\x04")


def test_a_query_may_have_several_lines(terminal: Prompt) -> None:
    terminal.type("select max(name) as last,\n", MORE)
    assert "last" in (told := terminal.type("40 + 2 as sum from classes;\n"))
    assert "42" in told


def test_earlier_lines_come_back_and_can_be_edited(terminal: Prompt) -> None:
    assert "7000" in terminal.type("select 6999 + 1 as x;\n")
    up, left, backspace = "\x1b[A", "\x1b[D", "\x7f"
    assert "7001" in terminal.type(up + left * 6 + backspace + "2\n")


def test_a_wrong_query_is_told_and_the_prompt_stays(terminal: Prompt) -> None:
    told = terminal.type("select * from itms;\n")
    assert "itms does not exist" in told
    assert "show all tables" in told
    assert "DELETE is not for this prompt" in terminal.type("delete from classes;\n")
    assert "41" in terminal.type("select 40 + 1;\n")


def test_ctrl_c_gives_up_a_half_written_query(terminal: Prompt) -> None:
    terminal.type("select no_such_column\n", MORE)
    terminal.interrupt(PROMPT)
    assert "43" in terminal.type("select 40 + 3;\n")


def test_ctrl_c_stops_a_query_that_runs(terminal: Prompt) -> None:
    terminal.send("select sum(a.range * b.range) from range(10000000) a, range(10000000) b;\n")
    time.sleep(2)
    assert "interrupted" in terminal.interrupt(PROMPT).lower()
    assert "44" in terminal.type("select 40 + 4;\n")


@pytest.mark.parametrize("keys", ["exit\n", "quit;\n", "\\q\n", "\x04"])
def test_it_is_left_by_what_people_type(project: Path, keys: str) -> None:
    opened = Prompt(project)
    opened.until(PROMPT)
    assert opened.leave(keys) == 0


def test_ctrl_d_in_a_half_written_query_leaves_without_running_it(project: Path) -> None:
    opened = Prompt(project)
    opened.until(PROMPT)
    opened.type("select no_such_column\n", MORE)
    assert opened.leave("\x04") == 0


def test_brackets_and_colons_of_a_condition_are_no_markup(project: Path) -> None:
    where = "regexp_matches(content, '[/]') and content <> '[bold] :bug:'"
    report = Terminal("lf", "report", "--project", str(project), "--where", where)
    words = " ".join(report.until("").split())
    assert f"No item of the train split is one where {where}." in words
    assert report.leave() == 0


@pytest.mark.parametrize("form", ["csv", "json", "table"])
def test_a_text_steers_no_terminal_in_any_form(project: Path, form: str) -> None:
    query = "select chr(27) || ']0;title' || chr(7) || chr(155) || '2J' || chr(8238) || chr(13) || 'end' as t"
    asked = Terminal("sql", "--project", str(project), "--format", form, query)
    told = asked.until("")
    assert asked.leave() == 0
    assert "title" in told
    assert "end" in told
    assert not set(told) & set("\x07\x9b\u202e")
    assert "\x1b]" not in told


def test_a_long_table_ends_early_in_a_terminal_and_not_in_a_pipe(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query = "select 1000 + range as n from range(600)"
    asked = Terminal("sql", "--project", str(project), query)
    told = asked.until("").split()
    assert asked.leave() == 0
    assert "first 500 rows" in " ".join(told)
    assert "1499" in told
    assert "1500" not in told
    assert run_command(["sql", "--project", str(project), query]) == 0
    assert len(capsys.readouterr().out.split()) == 601
