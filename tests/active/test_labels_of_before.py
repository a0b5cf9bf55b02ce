"""Labels that a project has from elsewhere come in as docs/label-studio.md says."""

import re
from pathlib import Path

import pytest

from active.queue import collect
from active.task_folder import TaskFolder
from tests.active.task_folders import CONFIG
from tests.projects import ROOT
from warehouse import Lake

PAGE = (ROOT / "docs" / "label-studio.md").read_text("utf-8")


def test_labels_of_before_come_in_as_answers_also_where_nobody_was_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stocked: Lake
) -> None:
    section = PAGE.partition("## Labels that you have already")[2]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found is not None
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels.csv").write_text("id,label\ni00001,b\ni00003,a\nwho,a\ni00004,c\n", "utf-8")
    exec(found.group(1), {})
    detail = collect(stocked, TaskFolder(tmp_path / "tasks", "p"), CONFIG).detail
    assert detail["answers for unknown items"].startswith("1, such as 'who'; ids are those")
    assert "'c' in task" in detail["unknown labels"]
    with stocked.read() as reader:
        assert reader.rows("SELECT item_id, class_id FROM gold_labels ORDER BY 1") == [("i00001", 1), ("i00003", 0)]
        assert reader.rows("SELECT DISTINCT annotator FROM current_annotations") == [("before",)]
        assert reader.scalar("SELECT count(*) FROM queue") == 0
