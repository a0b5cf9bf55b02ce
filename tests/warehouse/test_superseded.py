"""Expiry deletes what earlier models said of items that nobody was asked about, and nothing that anybody looks at."""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from active.selection.exploration import score_fair_sample
from flows.cli.data.maintain import maintain_project
from flows.report.page import write_report
from tests.flows import report_lake
from warehouse import Append, Lake, Reader, Upsert, connect
from warehouse.commits.stage import last_token
from warehouse.maintenance import compaction as maintain_steps
from warehouse.maintenance.compaction import maintain
from warehouse.maintenance.superseded import delete_superseded

TABLES = ("weak_labels", "predictions", '"values"')
UNASKED = "i089"
LOOKED_AT = (
    "latest_weak_labels",
    "latest_predictions",
    "training_set",
    "gold_labels",
    "annotations",
    "queue",
    "models",
)


@pytest.fixture
def lake(tmp_path: Path) -> Any:
    """Three end models, two label models and three selections; people were asked about 20 of 90 items, and told of one
    that nobody had asked about."""
    with report_lake.full_lake(tmp_path / "lake") as lake:
        for number, model in enumerate(("w1", "w2"), start=1):
            with lake.read() as reader, lake.stage("label_model", version=number, inputs=()) as stage:
                weak = reader.arrow(
                    "SELECT item_id, ? AS label_model_id, [1.0, 0.0, 0.0]::FLOAT[] AS probs, 1::INTEGER AS votes "
                    "FROM items ORDER BY item_id",
                    [model],
                )
                stage.commit([Upsert("weak_labels", weak), Upsert("models", _model(reader, model, number))])
        with lake.read() as reader, lake.stage("collect", version=9, inputs=()) as stage:
            unasked = reader.arrow("FROM annotations LIMIT 1").drop_columns(["run_id", "committed_at"])
            place = unasked.column_names.index("item_id")
            stage.commit([Append("annotations", unasked.set_column(place, "item_id", [[UNASKED]]))])
        yield lake


def _model(reader: Reader, name: str, sequence: int) -> Any:
    return reader.arrow(
        "SELECT ? AS model_id, 'label_model' AS stage, 'majority' AS kind, 0::INTEGER AS gold_labels, "
        "90::INTEGER AS items, ?::INTEGER AS sequence, '{}' AS detail",
        [name, sequence],
    )


def seen(lake: Lake) -> dict[str, Any]:
    with lake.read() as reader:
        views = {name: reader.rows(f"SELECT * FROM {name} ORDER BY ALL") for name in LOOKED_AT}
        tokens = {name: last_token(reader, name.strip('"')) for name in TABLES}
        return {**views, "tokens": tokens, "fair": score_fair_sample(reader, 0)}


def counts(lake: Lake) -> list[int]:
    with lake.read() as reader:
        return [reader.scalar(f"SELECT count(*) FROM {table}") for table in TABLES]


def page(lake: Lake, path: Path) -> str:
    """The report, without the number of the snapshot and the time."""
    words = write_report(lake, path, title="p", classes=report_lake.CLASSES).read_text("utf-8")
    return re.sub(r"snapshot \d+|\d\d:\d\d UTC", "", words)


def test_what_people_and_stages_look_at_stays(lake: Lake, tmp_path: Path) -> None:
    before, looked = seen(lake), page(lake, tmp_path / "r.html")
    was = counts(lake)
    done = maintain(lake, expire_older_than_days=0)
    # 21 of 90 items stay under the former model of each kind; of the former selections those that they had chosen.
    assert (was, counts(lake)) == ([180, 270, 156], [90 + 21, 90 + 2 * 21, 44 + 20 + 12])
    assert done.rows_superseded == sum(was) - sum(counts(lake))
    assert seen(lake) == before
    assert page(lake, tmp_path / "r.html") == looked


def test_without_days_or_before_they_have_passed_nothing_goes(lake: Lake) -> None:
    for days in (None, 1):
        assert maintain(lake, expire_older_than_days=days).rows_superseded == 0
    assert counts(lake) == [180, 270, 156]


def test_a_snapshot_that_is_kept_still_has_all(lake: Lake) -> None:
    snapshot = lake.snapshot()
    _forget(lake)
    assert counts(lake) != [180, 270, 156]
    with connect(lake.location, at=snapshot) as reader:
        assert [reader.scalar(f"SELECT count(*) FROM {table}") for table in TABLES] == [180, 270, 156]


def _forget(lake: Lake) -> None:
    """As if models were older than the days and the snapshots were not."""
    assert maintain_steps._commit(lake, partial(delete_superseded, before="now()"), "maintain")  # pyright: ignore[reportPrivateUsage]


def test_a_second_call_finds_nothing_and_makes_no_snapshot(lake: Lake) -> None:
    for _ in range(2):  # the second merges what the first wrote
        maintain(lake, expire_older_than_days=0)
    snapshot = lake.snapshot()
    assert maintain(lake, expire_older_than_days=0).rows_superseded == 0
    assert lake.snapshot() == snapshot


def test_the_command_says_how_many(lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = json.dumps(list(report_lake.CLASSES))
    settings = f"[project]\nname = 'p'\nclasses = {names}\n[[sources]]\nname = 's'\npath = 's.csv'\n"
    (tmp_path / "siftline.toml").write_text(settings, "utf-8")
    maintain_project(tmp_path, None, 24)
    assert "superseded" not in capsys.readouterr().out
    maintain_project(tmp_path, 0, 24)
    assert "287 rows of superseded models deleted\n" in capsys.readouterr().out
