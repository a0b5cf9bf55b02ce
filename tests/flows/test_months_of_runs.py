"""After months of runs what people look at shows the newest cycles and end models, and says how many came before."""

import base64
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

import pytest

from flows.cli.data.history import list_snapshots
from flows.cli.status import show_queue, show_status
from flows.pipelines.figures import NAMED_POINTS, Rows, curve_picture, figures
from flows.report.page import write_report
from tests.flows import report_lake
from warehouse import Append, Lake
from warehouse.schema.tables import rows_in_words


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Two batches are answered, a third waits; three end models."""
    settings = (
        f"[project]\nname = 'p'\nclasses = {list(report_lake.CLASSES)}\n[[sources]]\nname = 's'\npath = 's.csv'\n"
    )
    (tmp_path / "siftline.toml").write_text(settings, "utf-8")
    report_lake.full_lake(tmp_path / "lake").close()
    return tmp_path


def table(printed: str, title: str) -> list[list[str]]:
    part = printed.split(f"# {title}")[1].split("\n# ")[0]
    return [line.split("\t") for line in part.splitlines()[2:] if "\t" in line]


def test_status_and_queue_add_up_what_is_done(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    show_status(project)
    whole = table(capsys.readouterr().out, "queue")
    assert [row[0] for row in whole] == ["1", "2", "3"]
    monkeypatch.setattr("flows.cli.status.FEW_ROWS", 1)
    show_status(project)
    status = capsys.readouterr().out
    show_queue(project, 1)
    for printed in (status, capsys.readouterr().out):
        earlier, last = table(printed, "queue")
        assert last == whole[-1]
        assert earlier[0] == "2 earlier"
        assert [int(n) for n in earlier[1:]] == [
            int(a) + int(b) for a, b in zip(*(r[1:] for r in whole[:2]), strict=True)
        ]
    assert [row[0] for row in table(status, "end models, the last 1 of 3")] == ["3"]


def test_status_tells_of_commits_by_a_clock_that_was_ahead(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    show_status(project)
    assert "clock" not in capsys.readouterr().out

    class SetBack(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.now(tz) - timedelta(days=365)

    monkeypatch.setattr("flows.cli.status.datetime", SetBack)
    show_status(project)
    assert "which this machine's clock has not reached. If a clock was ahead then" in capsys.readouterr().out


def test_status_tells_of_answers_that_the_models_do_not_know(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show_status(project)
    assert "last learned" not in capsys.readouterr().out
    with Lake(project / "lake") as lake, lake.stage("collect", version=1, inputs=(), params={"more": 1}) as stage:
        later = "updated_at + INTERVAL 1 HOUR AS updated_at"
        edited = f"* EXCLUDE (run_id, committed_at) REPLACE ('n' || annotation_id AS annotation_id, {later})"
        rows = stage.arrow(f"SELECT {edited} FROM annotations ORDER BY item_id LIMIT 2")
        stage.commit([Append("annotations", rows)])
    show_status(project)
    status = " ".join(capsys.readouterr().out.split())
    assert "2 answers have come since the models last learned. To learn from them: siftline run --project" in status


def test_one_row_is_not_called_by_the_name_of_its_table(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show_status(project)
    list_snapshots(project, 99)
    shown = capsys.readouterr().out
    assert shown.count("1 model, ") == 1 + 3
    assert "1 models" not in shown
    assert rows_in_words({"classes": 1, "queue": 1, "items": 1000}) == "1 class, 1 queue, 1,000 items"


def test_an_old_cycle_with_an_open_task_is_still_named(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Lake(project / "lake") as lake:
        cursor = lake.new_cursor()
        cursor.execute("UPDATE queue SET state = 'confirmed' WHERE cycle = 1 AND rank = 1")
        cursor.close()
    monkeypatch.setattr("flows.cli.status.FEW_ROWS", 1)
    show_queue(project, 1)
    assert [row[0] for row in table(capsys.readouterr().out, "queue")] == ["1 earlier", "1", "3"]


def test_the_report_folds_what_is_older(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def page() -> str:
        with Lake(project / "lake", read_only=True) as lake:
            return write_report(lake, project / "r.html", title="p", classes=report_lake.CLASSES).read_text("utf-8")

    assert "earlier batch" not in page()
    monkeypatch.setattr("flows.report.text.FEW_ROWS", 2)
    folded = page()
    assert "<details><summary>1 earlier batch</summary>" in folded
    assert "<details><summary>1 earlier end model</summary>" in folded
    rows = {name: folded.split(f'id="table-{name}"')[1].split("</table>")[0].count("<tr>") - 1 for name in TABLES}
    assert rows == {"batches": 2, "batches-before": 1, "cycles": 2, "cycles-before": 1}


TABLES = ("batches", "batches-before", "cycles", "cycles-before")


def test_the_artifacts_of_a_run_do_not_grow_with_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.pipelines.figures.FIGURES", 2)
    with report_lake.full_lake(tmp_path / "lake") as lake, lake.read() as reader:
        found = {name: (rows, words) for name, rows, words in figures(reader)}
    assert [row["cycle"] for row in found["queue"][0]] == [2, 3]
    assert found["queue"][1] == "Annotation tasks by cycle and state, the last 2 of 3."
    assert [row["gold labels"] for row in found["learning-curve"][0]] == [8, 16]
    assert found["learning-curve"][1].startswith("End models in their order, the last 2 of 3: labels they learned from")


def test_the_picture_of_many_points_names_some_of_them_and_the_last() -> None:
    curve: Rows = [{"gold labels": n, "accuracy": 0.5 + n / 1000, "split": "test"} for n in range(200)]
    picture = base64.b64decode(curve_picture(curve).split(",")[1]).decode()
    assert picture.count("<circle") == 200
    assert 2 <= picture.count('text-anchor="middle">0.') <= NAMED_POINTS
    assert ">0.699</text>" in picture
