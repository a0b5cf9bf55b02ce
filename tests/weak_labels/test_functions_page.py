"""The examples of docs/labeling-functions.md load, and every function votes on a text written for it."""

import re
import textwrap
from pathlib import Path

import numpy as np

from tests.weak_labels.lf_helpers import add_items, add_vectors, config, encode
from warehouse import Lake
from weak_labels import load_functions
from weak_labels.applying.stage import vote

PAGE = (Path(__file__).parents[2] / "docs" / "labeling-functions.md").read_text("utf-8")
CLASSES = ("billing", "bug", "praise")
TEXTS = {
    "invoice": "Charged  twice for one month",
    "crash": "It CRASHED again",
    "short_thanks": "many thanks",
    "like_these": "the app crashes when I open it",
    "cell": "zzz",
    "learned": "refund please",
    "asked": "is there a defect",
    "exclaims": "wonderful!",
    "shouts": "WHY",
}


def test_every_example_votes(lake: Lake, tmp_path: Path) -> None:
    (source,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    path = tmp_path / "labeling_functions.py"
    path.write_text(source, "utf-8")
    np.save(tmp_path / "clusters.npy", encode(["aaa", "zzz"]))
    add_items(lake, TEXTS)
    add_items(lake, {"by_form": "x"}, metadata='{"form": "money"}')
    add_vectors(lake)
    functions = load_functions(path, CLASSES)
    answers = {TEXTS["asked"]: "Yes"}
    vote(
        lake,
        functions,
        config(classes=CLASSES),
        encode=encode,
        ask=lambda model, instruction, texts, stop: [answers.get(text, "no") for text in texts],
    )
    with lake.read() as reader:
        cast = set(reader.rows("SELECT item_id, lf_name FROM lf_votes"))
        assert reader.rows("SELECT * FROM lf_faults") == []
        assert {(name, name) for name in [*TEXTS, "by_form"]} <= cast
        assert {f.name for f in functions} == {*TEXTS, "by_form"}
        (query,) = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
        coverage = dict(reader.rows(query))
    assert coverage["by_form"] == 0.1


def test_a_label_matrix_votes_as_it_did(lake: Lake, tmp_path: Path) -> None:
    (source,) = re.findall(r"    import numpy as np\n(?:    .*\n|\n)+", PAGE)
    path = tmp_path / "labeling_functions.py"
    path.write_text(textwrap.dedent(source), "utf-8")
    np.save(tmp_path / "L.npy", np.array([[0, -1], [2, 1]]))
    (tmp_path / "ids.txt").write_text("b\na\n", "utf-8")
    add_items(lake, {"a": "x", "b": "y", "new": "z"})
    vote(lake, load_functions(path, CLASSES), config(classes=CLASSES))
    with lake.read() as reader:
        cast = reader.rows("SELECT lf_name, item_id, vote FROM lf_votes ORDER BY ALL")
        assert reader.rows("SELECT * FROM lf_faults") == []
    assert cast == [("old_0", "a", 2), ("old_0", "b", 0), ("old_1", "a", 1)]
    np.save(tmp_path / "L.npy", np.array([[0, -1], [-1, 1]]))
    vote(lake, load_functions(path, CLASSES), config(classes=CLASSES))
    with lake.read() as reader:
        cast = reader.rows("SELECT lf_name, item_id, vote FROM lf_votes ORDER BY ALL")
    assert cast == [("old_0", "b", 0), ("old_1", "a", 1)]


def test_what_the_page_on_rare_classes_shows_loads_and_can_be_asked(lake: Lake, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "rare-classes.md").read_text("utf-8")
    (source,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    path = tmp_path / "labeling_functions.py"
    path.write_text(textwrap.dedent(source), "utf-8")
    assert {function.name for function in load_functions(path, ("other", "rare"))} == {"words", "like", "rest"}
    queries = re.findall(r'siftline sql (?:--output \S+ )?"(.*?)"', page.replace("\\\n", ""), re.DOTALL)
    with lake.read() as reader:
        assert [reader.rows(query) for query in queries] == [[], [], []]
