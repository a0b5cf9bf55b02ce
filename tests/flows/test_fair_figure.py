"""Where no gold file tells the accuracy, items drawn at random do: in the report and after a run."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from active.selection.exploration import FairScore
from active.selection.stage import SelectConfig, select
from active.value.stage import ValueConfig, estimate_values
from flows.cli.summary import print_summary
from flows.pipelines.stages import RunSummary
from flows.project.project import Project
from flows.report.narrative import fair_sentence, fair_soon
from flows.report.page import write_report
from tests.active.pools import CLASSES, SmallPool, clusters, label, small_pool
from tests.lakes import copy_of
from warehouse import Lake

SAID = "Of 12 items drawn at random the end model had 9 right before people answered: 75%, 95% interval 47% to 91%."


def settings(folder: Path) -> None:
    (folder / "siftline.toml").write_text(
        f'[project]\nname = "p"\nclasses = {list(CLASSES)}\n[[sources]]\nname = "s"\npath = "s.csv"\n', "utf-8"
    )


def asked_at_random(lake: Lake, folder: Path, count: int) -> tuple[SmallPool, npt.NDArray[np.int64]]:
    """A pool of 120 items and their classes, of which so many were drawn at random and queued."""
    vectors, classes = clusters(120)
    pool = small_pool(lake, folder, vectors, np.eye(len(CLASSES))[classes] * 0.4 + 0.2)
    estimate_values(lake, pool.index(), ValueConfig())
    assert select(lake, pool.index(), SelectConfig(project="p", batch=count, budget=24, explore=1.0)).committed
    return pool, classes


def test_the_report_and_a_run_say_how_often_the_end_model_is_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings(tmp_path)
    with copy_of(Lake, tmp_path / "lake") as lake:
        pool, classes = asked_at_random(lake, tmp_path / "index", 12)
        with lake.read() as reader:
            asked = sorted(item for (item,) in reader.rows("SELECT item_id FROM queue"))
        label(pool, {item: int(classes[pool.ids.index(item)] + (n < 3)) % 3 for n, item in enumerate(asked)})
        page = write_report(lake, tmp_path / "report.html", title="p", classes=CLASSES).read_text("utf-8")
        other = write_report(lake, tmp_path / "other.html", title="p", classes=CLASSES, seed=1).read_text("utf-8")
    assert f'<p id="fair">{SAID}' in page
    assert '<b id="figure-accuracy">75%</b>' in page
    assert "95% interval 47% to 91%, on 12 items drawn at random" in page
    assert "Nothing has been scored" in page
    assert "Without one, " not in page, "it is done already"
    batch = page.split('id="table-batches"')[1].split("</table>")[0]
    assert "–</td></tr>" in batch.replace("\n", ""), "no value had a part in choosing them"
    assert "items drawn at random" not in other.split("<nav")[0], "another seed draws others, which are not answered"
    print_summary(Project(tmp_path), RunSummary(passes=1, results=[]), seconds=1.0)
    assert SAID in capsys.readouterr().out.replace("\n", " ")


def test_a_few_items_say_nothing() -> None:
    assert fair_sentence(None) == fair_sentence(FairScore(9, 9)) == ""
    assert "10 right" in fair_sentence(FairScore(10, 10))


def test_until_there_are_enough_of_them_a_run_and_the_report_say_how_many_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who set `explore` saw nothing for as long as there were nine."""
    assert fair_soon(None) == fair_soon(FairScore(10, 10)) == ""
    settings(tmp_path)
    with copy_of(Lake, tmp_path / "lake") as lake:
        pool, _ = asked_at_random(lake, tmp_path / "index", 9)
        with lake.read() as reader:
            label(pool, {item: 0 for (item,) in reader.rows("SELECT item_id FROM queue")})
        page = write_report(lake, tmp_path / "report.html", title="p", classes=CLASSES).read_text("utf-8")
    said = "9 items drawn at random count so far; from 10 on they tell how often the end model is right."
    assert said in page
    print_summary(Project(tmp_path), RunSummary(passes=1, results=[]), seconds=1.0)
    assert said in capsys.readouterr().out.replace("\n", " ")


def test_a_sample_of_what_came_before_a_time_says_so() -> None:
    said = fair_sentence(FairScore(20, 15, datetime(2026, 3, 4, 5, 6, tzinfo=UTC)))
    assert "Of 20 items drawn at random from those of before 2026-03-04 05:06 (UTC) the end model had 15 right" in said


def test_the_items_that_were_answered_last_stand_beside_all() -> None:
    said = fair_sentence(FairScore(90, 45, None, last=30, last_right=24))
    assert said.endswith("answered: 50%, 95% interval 40% to 60%. Of the 30 answered last: 80%.")
