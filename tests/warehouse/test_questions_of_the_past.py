"""Saved questions about snapshots of every released schema: they answer, and say that the past had fewer columns."""

from pathlib import Path

import pytest

from flows.cli.main import run_command
from tests.warehouse.test_migrations import RELEASED, released
from warehouse import Lake
from warehouse.queries.open import connect_for_people
from warehouse.queries.saved_questions import questions
from warehouse.schema.old_snapshots import stand_in
from warehouse.schema.tables import SCHEMA_VERSION

SETTINGS = '[project]\nname = "p"\nclasses = ["a", "b"]\n[[sources]]\nname = "s"\npath = "x.csv"\n'


def migrated(version: int, root: Path) -> int:
    """A project whose warehouse was made by an older Siftline and opened by this one; the last snapshot before."""
    (root / "siftline.toml").write_text(SETTINGS)
    with Lake(released(version, root / "lake")) as lake:
        return lake.snapshot() - 1


@pytest.mark.parametrize("version", [v for v in RELEASED if v < SCHEMA_VERSION])
def test_questions_answer_before_a_migration_what_they_answer_after_it(version: int, tmp_path: Path) -> None:
    before = migrated(version, tmp_path)
    now, then = connect_for_people(tmp_path / "lake"), connect_for_people(tmp_path / "lake", at=before)
    assert stand_in(now) == ""
    assert f"has schema {version}" in stand_in(then)
    for asked in questions():
        found = then.execute(asked.sql).fetchall()
        # The migration is a run too, and no snapshot from before schema 6 knows which items were changed.
        if asked.name not in ("slowest-stages", "stream-drift"):
            assert str(found) == str(now.execute(asked.sql).fetchall()), asked.name  # NaN is not NaN
    assert then.execute("SELECT count(*) FROM lf_summary").fetchall() == [(2,)]
    unchanged = 0 if version < 6 else 17
    assert then.execute("SELECT count(*) FROM items WHERE changed_at IS NULL").fetchall() == [(unchanged,)]
    now.close()
    then.close()


def test_the_command_answers_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = migrated(4, tmp_path)
    asked = ["questions", "label-balance", "--project", str(tmp_path)]
    assert run_command([*asked, "--at", str(before)]) == 0
    told = capsys.readouterr()
    assert "has schema 4; it was asked with the views of today" in told.err
    assert "How to read" in told.out
    assert run_command(asked) == 0
    assert "schema" not in capsys.readouterr().err


def test_older_views_of_the_same_schema_do_not_stand_in_the_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "siftline.toml").write_text(SETTINGS)
    with Lake(tmp_path / "lake") as lake:
        cursor = lake.new_cursor()
        cursor.execute("DROP VIEW lake.view_version")
        cursor.execute("DROP VIEW lake.annotators")
        cursor.close()
        at = lake.snapshot()
    connection = connect_for_people(tmp_path / "lake", at=at)
    assert "older views" in stand_in(connection)
    assert connection.execute("SELECT count(*) FROM annotators").fetchall() == [(0,)]
    connection.close()
    assert run_command(["questions", "agreement-by-annotator", "--project", str(tmp_path)]) == 0
    assert "older views" in capsys.readouterr().err, "nor where nobody has written since the update"
