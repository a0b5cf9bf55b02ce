"""A temporary folder without room: the stage that needs it ends in a typed error that says where, and the way out."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.projects import ROOT
from warehouse import Location
from warehouse.catalog.disk_full import disk_full
from warehouse.files.spill import PREFIX

FULL = """
import sys
from pathlib import Path
import pyarrow as pa
from features.ingest.stage import IngestConfig, ingest
from features.readers.source import SourceConfig
from flows.cli.data.sql import show
from tests.weak_labels.lf_helpers import add_items, run_vote
from warehouse import Lake
from warehouse.errors import DiskFull
from warehouse.queries import sandbox as protection
from warehouse.queries.open import connect_for_people
from weak_labels import keywords

folder = Path(sys.argv[1])


def refused(act):
    try:
        act()
    except DiskFull as error:
        assert str(folder / "small") in str(error) and "TMPDIR" in str(error) and "Free space" in str(error), error
        return True
    return False


with Lake(folder / "lake") as lake:
    many = folder / "many.csv"
    many.write_text("text\\n" + "".join(f"{n} {'x' * 100}\\n" for n in range(20_000)))
    config = IngestConfig(root=folder, classes=("sports", "b"), sources=(SourceConfig(name="s", path="many.csv"),))
    assert refused(lambda: ingest(lake, config))
    add_items(lake, {f"i{n:040d}": f"goal {n}" for n in range(20_000)})
    functions = [keywords("sports", ["goal"], name="goal")]
    before = lake.snapshot()
    assert refused(lambda: run_vote(lake, functions))
    assert lake.snapshot() == before
    protection._memory_bytes = lambda: 96 << 20
    many_rows = "SELECT hash(range)::VARCHAR || hash(range + 1) AS x FROM range(2000000) ORDER BY x OFFSET 1999999"
    assert refused(lambda: show(connect_for_people(lake.path), many_rows, "csv", None, folder))
    import tempfile
    tempfile.tempdir = str(folder)
    assert ingest(lake, config).committed and run_vote(lake, functions).committed
print("refused each time")
"""


def test_a_full_temporary_folder_is_told_and_a_larger_one_will_do(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    mount = 'mount -t tmpfs -o size=1m tmpfs "$1/small" && TMPDIR="$1/small" exec "$2" -c "$3" "$1"'
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", mount, "sh", str(tmp_path), sys.executable, FULL]
    if subprocess.run([*command[:3], "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a disk of their own (user namespaces are off)")
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert ended.stdout == "refused each time\n"


def test_a_temporary_folder_that_was_removed_is_not_called_full(tmp_path: Path) -> None:
    said = f'IO Error: Failed to create directory "{tmp_path}/{PREFIX}bulj39s9/0": No such file or directory'
    told = str(disk_full(said, Location(folder=tmp_path)))
    assert "was removed while it worked" in told
    assert "KiB free" not in told
