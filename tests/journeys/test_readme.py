"""Does what the README says, word for word: its commands run as they stand, from an empty folder."""

import csv
import json
import os
import re
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from benchmarks.readme import filled
from features.ingest.samples import SampleFiles
from tests.projects import ROOT, write_first_items
from warehouse import connect
from warehouse.schema.views import VIEWS
from weak_labels import load_functions

README = (ROOT / "README.md").read_text("utf-8")


def blocks(heading: str, text: str = README, *, language: str = "sh") -> list[str]:
    """The blocks of a language below a heading."""
    section = text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


def shell(script: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a README block in bash; the first failing command fails it."""
    path = f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": path, **environment},
    )


TOPICS = {
    "billing": ["The invoice of {} is wrong, please send a refund.", "Why was I charged twice for {}?"],
    "bug": ["The page {} crashes when I press save.", "I get an error message in {} and it freezes."],
    "praise": ["I love the new {} view, thank you!", "Great work on {}, excellent support."],
}
THINGS = ["search", "export", "login", "billing", "calendar", "editor", "upload", "profile", "backup", "report"]


@pytest.fixture(scope="module")
def tickets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the reader's own data: tickets.csv."""
    folder = tmp_path_factory.mktemp("reader")
    with (folder / "tickets.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["number", "body"])
        number = 0
        for thing in THINGS:
            for texts in TOPICS.values():
                for text in texts:
                    writer.writerow([number := number + 1, text.format(thing)])
    return folder


@pytest.fixture(scope="module")
def own_data(tickets: Path, prefect_server: str) -> Path:
    """The project after the README's ten lines; a run that starts a server of its own is in test_small_project.py."""
    [script] = blocks("Your own data, in ten lines")
    assert len(script.splitlines()) <= 11
    ended = shell(script, tickets, PREFECT_API_URL=prefect_server)
    assert ended.returncode == 0, ended.stderr
    assert "tasks wait for annotators" in ended.stdout
    return tickets / "tickets"


def test_the_functions_of_the_ten_lines_match_in_any_case(tmp_path: Path) -> None:
    [script] = blocks("Your own data, in ten lines")
    file = tmp_path / "labeling_functions.py"
    file.write_text(script.split("<<'EOF'\n")[1].split("EOF\n")[0], "utf-8")
    text = {"billing": "REFUND me", "bug": "It Crashes", "praise": "Great work"}
    functions = load_functions(file, tuple(TOPICS))
    assert {function.name for function in functions} == set(text)
    for function in functions:
        assert pc.match_substring_regex(text[function.name], function.screen).as_py(), function.name


def test_own_data_ends_with_tasks_for_people(own_data: Path) -> None:
    tasks = [json.loads(p.read_text("utf-8")) for p in (own_data / "tasks").glob("*.json")]
    assert len(tasks) == 32
    assert all(task["data"]["text"] and task["data"]["reason"] for task in tasks)


def test_a_run_names_the_answers_it_cannot_take_before_it_says_that_tasks_wait(
    own_data: Path, prefect_server: str
) -> None:
    first = min((own_data / "tasks").glob("*.json"))
    asked = first.read_text("utf-8")
    choice = {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": ["biling"]}}
    first.write_text(json.dumps({**json.loads(asked), "annotations": [{"result": [choice]}]}), "utf-8")
    damaged = own_data / "tasks" / "import" / "export.json"
    damaged.parent.mkdir()
    damaged.write_text("[{", "utf-8")
    told = shell("siftline run 2>&1", own_data, PREFECT_API_URL=prefect_server).stdout
    first.write_text(asked, "utf-8")
    shutil.rmtree(damaged.parent)
    before, _, _ = told.partition("32 tasks wait for annotators")
    assert f"'biling' in task {first.stem} " in before
    assert "perhaps meant as 'billing'. The classes are: billing, bug, praise" in before
    assert "import/export.json cannot be read" in before


@pytest.fixture(scope="module")
def answered(own_data: Path, prefect_server: str) -> Path:
    """The project after people answered all its tasks and it ran again."""
    for path in (own_data / "tasks").glob("*.json"):
        task = json.loads(path.read_text("utf-8"))
        text = task["data"]["text"]
        label = next(c for c, forms in TOPICS.items() if any(f.split("{}")[0] in text for f in forms))
        choice = {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": [label]}}
        task["annotations"] = [{"result": [choice], "lead_time": 4.0}]
        path.write_text(json.dumps(task), "utf-8")
    again = shell("siftline run", own_data, PREFECT_API_URL=prefect_server)
    assert again.returncode == 0, again.stderr
    assert "32 gold labels" in again.stdout
    return own_data


def test_answers_in_the_task_files_are_learned_from_and_results_are_asked(answered: Path) -> None:
    for script in blocks("Ask the results"):
        ended = shell(script.replace("tickets.csv", "data/tickets.csv"), answered)
        assert ended.returncode == 0, ended.stderr
    rows = pq.read_table(answered / "labels.parquet").to_pylist()
    assert len(rows) == 60
    assert {row["label"] for row in rows} == set(TOPICS)
    assert pq.read_table(answered / "labels" / "training_set.parquet").num_rows == 60
    manifest = json.loads((answered / "labels" / "manifest.json").read_text("utf-8"))
    assert manifest["counts"]["by_label_source"] == {"gold": 32, "predicted": 28}
    [script] = blocks("Ask the results", language="python")
    (answered / "asked.py").write_text(script, "utf-8")
    asked = shell("python asked.py", answered)
    assert asked.returncode == 0, asked.stderr
    assert all(label in asked.stdout for label in TOPICS)
    assert "(60, 384)" in asked.stdout
    vectors = pq.read_table(answered / "vectors.parquet")
    assert vectors.num_rows == 60
    assert shell("siftline report", answered).returncode == 0
    assert (answered / "report.html").stat().st_size > 10_000


def test_the_figures_are_those_of_the_benchmark() -> None:
    figures = json.loads((ROOT / "docs" / "benchmarks" / "demo.json").read_text("utf-8"))
    assert filled("README.md") == README
    accuracy = figures["accuracy"]
    for labels, random in accuracy["random"].items():
        siftline = accuracy["siftline"][labels]["mean"]
        assert siftline > random["mean"] + random["sd"] * (1 if labels == "32" else 2)  # one run
        assert siftline > accuracy["gold_only"][labels]["mean"]
    assert figures["second_over_first"] < 0.2
    assert figures["first_run_s"] < 240
    assert figures["snapshots_added_by_second_run"] == 0


def test_it_names_every_view_and_every_view_answers(own_data: Path) -> None:
    sentence = README.split("The views for\npeople are ", 1)[1].split("The [data dictionary]", 1)[0]
    assert sorted(re.findall(r"`(\w+)`", sentence)) == sorted(view.name for view in VIEWS)
    counts = "; ".join(f"select count(*) from {view.name}" for view in VIEWS)
    assert shell(f'siftline sql "{counts}"', own_data).returncode == 0


def test_make_lists_its_targets_in_80_columns() -> None:
    listed = shell("make help", ROOT).stdout.splitlines()
    assert {"demo", "test", "studio"} <= {line.split()[1] for line in listed}
    assert max(map(len, listed)) <= 80


def make_demo_twice(clone: Path, **settings: str) -> None:
    """The commands of the first block; their set-up is the one that runs these tests already."""
    [script] = blocks("Two commands")
    demo = script.splitlines()[0].split("#")[0].strip()
    assert demo == "make demo"
    use_our_setup = f" VENV={ROOT / '.venv'} -o {ROOT / '.venv' / '.base'}"
    first = shell(demo + use_our_setup, clone, **settings)
    assert first.returncode == 0, first.stderr
    assert "simulated annotator" in first.stdout
    assert "examples/reuters/report.html" in first.stdout
    assert (clone / "examples" / "reuters" / "report.html").is_file()
    second = shell(demo + use_our_setup, clone, **settings)
    assert second.returncode == 0, second.stderr
    assert " 0 rows written" in second.stdout


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    ignored = shutil.ignore_patterns(".git", ".venv*", "lake", "tasks", ".siftline", "report.html", "data", "*cache*")
    return shutil.copytree(ROOT, tmp_path / "clone", ignore=ignored)


def test_make_demo_in_a_clone_ends_with_the_report_and_the_second_call_adds_nothing(
    clone: Path, reuters: SampleFiles, prefect_server: str
) -> None:
    """With the first texts of its sample: the command that gets it finds them there, as a second call finds all."""
    data = clone / "examples" / "reuters" / "data"
    write_first_items(data, reuters, train=120, test=30)
    manifest = json.loads(reuters.items.with_name("manifest.json").read_text("utf-8"))
    for name in ("items", "gold"):
        manifest[f"{name}_sha256"] = sha256((data / f"{name}.parquet").read_bytes()).hexdigest()
    (data / "manifest.json").write_text(json.dumps({**manifest, "rows": 150}), "utf-8")
    # Nothing here depends on the tokens behind the eighth of each news, nor on more labels than these.
    shorter = {"SIFTLINE_ENCODER__MAX_TOKENS": "8", "SIFTLINE_SELECT__BUDGET": "16"}
    make_demo_twice(clone, **shorter, PREFECT_API_URL=prefect_server)
    with connect(clone / "examples" / "reuters" / "lake") as reader:
        assert reader.scalar("SELECT count(*) FROM items") == 150


@pytest.mark.heavy
@pytest.mark.timeout(2400)
def test_make_demo_in_a_clone_with_all_of_its_texts(clone: Path) -> None:
    make_demo_twice(clone)
