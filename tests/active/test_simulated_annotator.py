"""The simulated annotator: answers what its gold file knows, through the service, the same way every time."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from active.annotation.simulated_annotator import SimulatedAnnotator, seconds_to_answer
from warehouse import DataError


def gold(path: Path, **columns: list[str]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_the_time_grows_with_the_text_and_depends_on_item_and_seed_alone() -> None:
    text = "word " * 40
    times, again, other = ([seconds_to_answer(f"i{k}", text, seed) for k in range(500)] for seed in (1, 1, 2))
    assert times == again
    assert times != other
    assert seconds_to_answer("i0", text * 10, 1) > seconds_to_answer("i0", text, 1)
    assert 12 < sorted(times)[250] < 14  # 40 words at 4 a second, and 3 s to decide
    assert min(times) > 0


def test_a_file_that_is_no_gold_file_is_refused(tmp_path: Path) -> None:
    path = gold(tmp_path / "items.parquet", **{"id": ["a"], "text": ["x"], "": ["0"]})
    with pytest.raises(DataError, match="with columns id or text, and label: it has the columns id, text, ''"):
        SimulatedAnnotator(path, seed=0)


def test_only_the_annotator_and_the_scoring_open_the_gold_file() -> None:
    """No other module of these packages reads true labels, or any Parquet file, of the user's choice."""
    root = Path(__file__).parents[2]
    texts = {
        str(path.relative_to(root)): path.read_text("utf-8").lower()
        for package in ("active", "weak_labels")
        for path in (root / package).rglob("*.py")
    }
    readers = {name for name, text in texts.items() if "label_file" in text}
    assert readers == {
        "active/annotation/simulated_annotator.py",
        "weak_labels/analysis/gold_file.py",
        "active/queue/import_labels.py",
    }
    importer = texts[
        "active/queue/import_labels.py"
    ]  # it opens the file that a person names for it, which is no gold file
    assert ".gold" not in importer
    assert not [name for name, text in texts.items() if "import pyarrow.parquet" in text or "read_parquet" in text]
