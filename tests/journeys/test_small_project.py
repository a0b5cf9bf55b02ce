"""A whole small project by the command: run, run again, ask in SQL meanwhile; the gold column stays out of sight."""

import contextlib
import csv
import io
import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from features.ingest.samples import SampleFiles
from flows.cli.init import NOT_FOR_GIT
from flows.cli.main import run_command
from flows.pipelines.stages import STAGES, run_passes, run_stage_in_process
from flows.project.project import Project
from tests.faults.test_killed_runs import CONTENT
from tests.projects import ROOT, make_small_project
from warehouse import Lake, StageResult
from warehouse.queries.sandbox import connect_locked_down

Asked = tuple[Path, str, list[tuple[int, int]]]
"""A project after its first run, what the run printed, and what readers saw meanwhile: (items, committed items)."""

COMMAND = [sys.executable, "-m", "flows.cli.main"]
LOOKS, LOOK_EVERY_S = 4, 0.5


TRAIN, TEST = 120, 30


def siftline(root: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments, "--project", str(root)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def here(root: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and words of a command that runs in this process, which has imported all that it needs."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        code = run_command([*arguments, "--project", str(root)])
    return code, out.getvalue()


def small(folder: Path, reuters: SampleFiles) -> Path:
    return make_small_project(folder / "project", reuters, train=TRAIN, test=TEST)


def look(root: Path) -> tuple[int, int]:
    """Items as a reader counts them, and as the commits say."""
    connection = connect_locked_down(root / "lake")
    total = connection.execute(
        "SELECT (SELECT count(*) FROM items), (SELECT coalesce(sum((rows_written->>'items')::INT), 0) FROM runs)"
    ).fetchone()
    connection.close()
    assert total is not None
    return int(total[0]), int(total[1])


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory, reuters: SampleFiles) -> Asked:
    root = small(tmp_path_factory.mktemp("journey"), reuters)
    seen: list[tuple[int, int]] = []
    run = subprocess.Popen(
        [*COMMAND, "run", "--annotator", "simulated", "--project", str(root)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while run.poll() is None:
        if not (root / "lake" / "catalog.sqlite").exists():
            time.sleep(0.05)
            continue
        shown, said = here(root, "sql", "--format", "csv", "select count(*) from items")
        if shown and ("holds no tables yet" in said or "no warehouse" in said):
            continue
        assert shown == 0, said
        assert int(said.split()[1]) in {0, TRAIN + TEST}
        # Each command takes some of the machine that the run has; between two, this process only looks.
        for _ in range(LOOKS):
            seen.append(look(root))
            time.sleep(LOOK_EVERY_S)
    printed = run.communicate()[0]
    assert run.returncode == 0, printed
    return root, printed, seen


def test_the_first_run_prints_no_traceback_no_telemetry_and_no_lock_error(
    asked: Asked,
) -> None:
    _, printed, _ = asked
    for word in ("Traceback", "telemetry", "database is locked", "ERROR", "Error"):
        assert word not in printed, printed
    assert "simulated" in printed


def test_sql_during_a_run_never_fails_and_never_sees_half_a_commit(
    asked: Asked,
) -> None:
    _, _, seen = asked
    assert len(seen) >= 3
    assert all(items == committed for items, committed in seen)
    assert seen[-1] == (TRAIN + TEST, TRAIN + TEST)


def test_counts_add_up_and_the_budget_is_kept(asked: Asked) -> None:
    root, _, _ = asked
    with Lake(root / "lake", read_only=True) as lake, lake.read() as reader:
        assert reader.rows("SELECT split, count(*) FROM items GROUP BY 1 ORDER BY 1") == [
            ("test", TEST),
            ("train", TRAIN),
        ]
        assert reader.scalar("SELECT count(*) FROM vectors") == TRAIN + TEST
        assert reader.rows("SELECT cycle, answered FROM queue_progress ORDER BY cycle") == [(1, 8), (2, 8)]
        assert reader.scalar("SELECT count(*) FROM gold_labels WHERE simulated") == 16
        assert reader.scalar("SELECT count(*) FROM queue JOIN items USING (item_id) WHERE split <> 'train'") == 0
        assert reader.rows("SELECT gold_labels FROM models WHERE stage = 'end_model' ORDER BY sequence") == [
            (0,),
            (8,),
            (16,),
        ]
        bad = reader.scalar("SELECT count(*) FROM predictions WHERE abs(list_sum(probs) - 1) > 1e-4")
        assert bad == 0


def test_of_a_project_git_takes_what_people_write_alone(asked: Asked, tmp_path: Path) -> None:
    root, _, _ = asked
    (tmp_path / "ignored").write_text(NOT_FOR_GIT, "utf-8")
    subprocess.run(["git", "init", "-q", "--bare", tmp_path / "git"], check=True)
    where = ["git", f"--git-dir={tmp_path / 'git'}", f"--work-tree={root}"]
    listed = [*where, "ls-files", "--others", f"--exclude-from={tmp_path / 'ignored'}"]
    taken = subprocess.run(listed, cwd=root, capture_output=True, text=True, check=True).stdout
    assert taken.split() == ["labeling_functions.py", "siftline.toml"]


def test_a_second_run_adds_no_row(asked: Asked) -> None:
    """Here by its stages; what the command says of it is in test_readme.py."""
    root, _, _ = asked
    with Lake(root / "lake") as lake:
        before, snapshot = lake.content_hash(), lake.snapshot()
    project = Project(root)
    assert run_passes(run_stage_in_process(project), simulated=True).rows_written == 0
    project.lake.close()
    with Lake(root / "lake") as lake:
        assert (lake.content_hash(), lake.snapshot()) == (before, snapshot)


@pytest.mark.parametrize(
    "command", ["status", "queue", "lf report", "lf preview", "collect", "queue reconcile", "doctor"]
)
def test_every_looking_command_answers_on_a_project(asked: Asked, command: str) -> None:
    root, _, _ = asked
    with Lake(root / "lake") as lake:
        before = lake.snapshot()
    shown, said = here(root, *command.split())
    assert shown == 0, said
    assert said.strip()
    with Lake(root / "lake") as lake:
        assert lake.snapshot() == before


def test_a_run_beside_another_leaves_cleanly(asked: Asked) -> None:
    from filelock import FileLock

    root, _, _ = asked
    with FileLock(str(root / ".siftline" / "run.lock")):
        second = siftline(root, "run")
    assert second.returncode == 3
    assert "Another run" in second.stderr


def test_only_the_simulated_annotator_needs_the_gold_column_and_scoring_changes_nothing_but_metrics(
    tmp_path: Path, reuters: SampleFiles, asked: Asked
) -> None:
    """Without [evaluate] the gold file is moved away while any other stage works, and all tables come out the same."""
    root = small(tmp_path, reuters)
    settings = (root / "siftline.toml").read_text("utf-8")
    head, _, _ = settings.partition("[evaluate]")
    (root / "siftline.toml").write_text(head, "utf-8")
    gold, away = root / "data" / "gold.parquet", root / "data" / "away"
    inner = run_stage_in_process(Project(root))

    def run_stage(name: str) -> StageResult:
        if name == "annotate":
            return inner(name)
        gold.rename(away)
        try:
            return inner(name)
        finally:
            away.rename(gold)

    assert "annotate" in STAGES
    run_passes(run_stage, simulated=True)
    rest = [name for name in CONTENT if name != "metrics"]
    with Lake(root / "lake") as one, Lake(asked[0] / "lake") as other:
        assert one.content_hash(rest) == other.content_hash(rest)
        with one.read() as reader:
            assert reader.scalar("SELECT count(*) FROM metrics") == 0


def test_the_end_model_says_of_any_text_what_it_says_of_an_item(asked: Asked, tmp_path: Path) -> None:
    root, output = asked[0], tmp_path / "said.parquet"
    with Lake(root / "lake", read_only=True) as lake, lake.read() as reader:
        stored = dict(reader.rows("SELECT item_id, label FROM latest_predictions"))
        text, label = reader.rows(
            "SELECT content, label FROM items JOIN latest_predictions USING (item_id) ORDER BY confidence DESC LIMIT 1"
        )[0]
    file = ["--input", str(root / "data" / "items.parquet"), "--id-field", "id", "--output", str(output)]
    code, said = here(root, "predict", *file)
    assert code == 0, said
    assert f"150 texts: {output}" in said
    rows = pq.read_table(output).to_pylist()
    assert {row["id"]: row["label"] for row in rows} == stored
    assert all(max(row["probs"], key=row["probs"].__getitem__) == row["label"] for row in rows)
    other = output.with_suffix(".csv")
    assert here(root, "predict", *file[:-1], str(other))[0] == 0
    with other.open(encoding="utf-8", newline="") as handle:
        assert {row["id"]: row["label"] for row in csv.DictReader(handle)} == stored
    code, said = here(root, "predict", text)
    assert said.splitlines()[-1].startswith(f"{label}\t")
    for wrong, words in (
        ([], "give texts, or a file"),
        ([text, " "], "Text 2 of 2 is empty"),
        ([text, *file], "give texts, or a file"),
        ([text, "--output", str(output)], "give texts, or a file"),
        ([*file[:-1], str(tmp_path / "x.txt")], "suffix .csv"),
        ([*file[:-1], str(tmp_path / "none" / "x.parquet")], "cannot be written"),
        (["--text-field", "body", *file], "no column"),
    ):
        code, said = here(root, "predict", *wrong)
        assert (code, words in said, "learned from" in said) == (2, True, False), said
