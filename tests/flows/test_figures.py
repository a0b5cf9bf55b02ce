"""The tables that a run leaves in Prefect's view say of how many they are, and of whose labels."""

import base64
import html
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from flows.pipelines.figures import Rows, cells, curve_picture, figures
from tests.flows import report_lake
from tests.projects import ROOT


def test_of_too_many_figures_those_with_the_most_labels_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with report_lake.full_lake(tmp_path / "lake") as lake, lake.read() as reader:
        whole = {name: (rows, words) for name, rows, words in figures(reader)}
        monkeypatch.setattr("flows.pipelines.figures.FIGURES", 20)
        cut = {name: (rows, words) for name, rows, words in figures(reader)}
        monkeypatch.setattr("flows.pipelines.figures.FIGURES", 1)
        last = {name: (rows, words) for name, rows, words in figures(reader)}
    for name in ("queue", "learning-curve"):
        (rows, _), (shown, words) = whole[name], last[name]
        assert shown == rows[-1:] != rows[:1]
        assert f", the last 1 of {len(rows)}" in words
    rows, words = whole["metrics"]
    assert len(rows) == 3 * (3 + 4 * 2 + 1)
    assert words == "All figures, seeds averaged. 16 of the present labels are the simulated annotator's."
    rows, words = cut["metrics"]
    assert words.startswith("The 20 of 36 figures with the most labels, seeds averaged.")
    assert [row["labels"] for row in rows] == [60] * 3 + [16] * 15 + [8] * 2
    assert {"series": "siftline", "metric": "accuracy", "split": "test", "labels": 16, "value": 0.908} in rows


def test_the_curve_goes_by_labels_also_where_their_number_fell() -> None:
    curve: Rows = [
        {"gold labels": n, "accuracy": value, "split": "valid"}
        for n, value in ((0, 0.8), (32, 0.9), (16, 0.85), (64, ""))
    ]
    picture = base64.b64decode(curve_picture(curve).split(",")[1]).decode()
    places = [float(pair.split(",")[0]) for pair in picture.split('points="')[1].split('"')[0].split()]
    assert places == [60, 320, 580]
    assert "Valid accuracy by number" in picture


PUBLISHES = """
import json, sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
import flows.pipelines.artifacts as artifacts
from flows.pipelines.stages import RunSummary
from tests.flows import report_lake
from warehouse import StageResult
detail = {"items": 1200, "items_covered": 0, "share of doubt best label removes": 0.2501}
before = StageResult(stage="value", token="t", committed=False, detail=detail)
now = StageResult(stage="value", token="t", committed=True, detail=detail, rows_written={"values": 1200})
voted = StageResult(stage="vote", token="t", committed=False)
annotated = StageResult(stage="annotate", token="", committed=False, detail={"simulated answers": 3})
made, keys = {}, {}
artifacts.create_table_artifact = lambda table, key, description: made.update({key: [table, description]})
artifacts.create_markdown_artifact = lambda markdown, key, description: made.update({key: [markdown, description]})
with report_lake.full_lake(Path(sys.argv[1])) as lake:
    settings = SimpleNamespace(project=SimpleNamespace(name="p"))
    project = SimpleNamespace(lake=lake, settings=settings)
    results = [before, annotated, voted, now]
    for since, updated in (("now", datetime.now(UTC)), ("long ago", datetime(2026, 1, 1, tzinfo=UTC)), ("never", None)):
        made.clear()
        artifacts.Artifact.get = lambda key: updated and SimpleNamespace(updated=updated)
        artifacts.publish_run(project, RunSummary(passes=1, results=results))
        keys[since] = sorted(made)
made["since"] = keys
print(json.dumps(made))
"""


def test_what_a_run_leaves_in_prefects_view(tmp_path: Path) -> None:
    """The picture of the curve stands alone: below an image artifact its address would stand, of kilobytes."""
    command = [sys.executable, "-c", PUBLISHES, str(tmp_path / "lake")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    made = json.loads(ended.stdout.splitlines()[-1])
    picture, words = made["p-learning-curve-image"]
    assert re.fullmatch(r"!\[Learning curve\]\(data:image/svg\+xml;base64,[A-Za-z0-9+/=]+\)", picture)
    assert words == made["p-learning-curve"][1]
    assert words.endswith("16 of the present labels are the simulated annotator's.")
    stages = [(row["stage"], row["rows written"], row["counts"]) for row in made["p-stages"][0]]
    assert stages == [  # of a stage that found nothing new, what it counted the last time is not what this run did
        ("value", "", ""),
        ("annotate", "", "simulated answers 3"),
        ("vote", "", ""),
        ("value", "1,200 values", "items 1,200, share of doubt best label removes 0.250"),
    ]
    shown = {since: "p-labeling-functions" in keys for since, keys in made["since"].items()}
    assert shown == {"now": False, "long ago": True, "never": True}, "of a million records it takes seconds"
    assert all("p-stages" in keys for keys in made["since"].values())


TEXTS = [
    "![i](http://example.org/x.png)",
    "<img src=http://example.org/x.png onerror=alert(1)>",
    "[click](javascript:alert(1)) <http://example.org>",
    "*a* __b__ _c_ ~~d~~ `e` ***f*** ___ a_b __init__.py",
    "<!-- hidden --> <b>bill</b> &lt; &#33; \\[x] C:\\new\\*",
    "[r]: http://example.org/ 'title'",
    *(
        "# head",
        "> quote",
        "- a",
        "+ a",
        "* a",
        "1. one",
        "12) one",
        "---",
        "***",
        "```code",
        "===",
        "| a | b |",
        "-",
        "7.",
    ),
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_of_a_record_is_no_markup_in_prefects_view(text: str) -> None:
    [row] = cells([{"text": text, "item": text, "items": 3}])
    assert row["items"] == 3
    assert row["text"] == row["item"]
    shown = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(str(row["text"]))
    assert shown == f"<p>{html.escape(text, quote=True).replace('&#x27;', chr(39))}</p>\n"


def test_names_and_figures_are_left_as_they_are_in_prefects_view() -> None:
    plain: dict[str, object] = {
        "function": "short_thanks",
        "accuracy": "0.912 (0.90 to 0.95)",
        "value": "-0.5",
        "item": "a-1_b.c/d",
    }
    assert cells([plain]) == [plain]


def test_what_would_break_or_turn_a_line_in_prefects_view_is_shown() -> None:
    assert cells([{"text": "a\n\n# b\t\u202ec\x1b[2J"}]) == [{"text": "a # b ⟨U+202E⟩c⟨U+001B⟩\\[2J"}]
