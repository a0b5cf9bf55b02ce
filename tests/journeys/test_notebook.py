"""A data scientist's tools on a warehouse: notebooks in a real kernel, and the DuckDB UI's own server."""

import base64
import io
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import duckdb_extension_ui
import nbformat
import pytest
from matplotlib import image
from nbclient import NotebookClient

from tests.flows.report_lake import full_lake
from tests.projects import ROOT
from warehouse import attach_statement
from warehouse.session.extensions import open_duckdb

NOTEBOOK = ROOT / "docs" / "examples" / "look_at_the_labels.ipynb"


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("asked") / "lake"
    with full_lake(path):  # open for writing beside all that is read
        yield path


def test_the_notebook_runs_and_draws_its_pictures(lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIFTLINE_LAKE", str(lake))
    for variable in ("IPYTHONDIR", "MPLCONFIGDIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "it is kept without results"
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    pictures = [
        image.imread(io.BytesIO(base64.b64decode(output["data"]["image/png"])))
        for output in outputs
        if "image/png" in output.get("data", {})
    ]
    assert [pixels.shape[1] > 700 for pixels in pictures] == [True, True]
    bars, points = pictures
    width = bars.shape[1] // 3
    for panel in (*(bars[:, n * width : (n + 1) * width] for n in range(3)), points):
        assert len({tuple(pixel) for row in panel[::4, ::4].round(2).tolist() for pixel in row}) > 10
    frames = [output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert "label_source" in frames[0]
    assert "trade" in frames[1]
    assert [output["text"].split()[1] for output in outputs if output["output_type"] == "stream"] == ["90"]


HELPER = """
from weak_labels import sql, vectorized
from weak_labels.functions.types import check_functions

short = sql("a", "length(text) < 3", name="short")  # no notebook of ours has ipywidgets, which DuckDB's bar needs

def helper(text):
    return "one" in text

@vectorized("a")
def helped(batch):
    return [helper(text) for text in batch.texts]

def version():
    return check_functions([short, helped], ("a", "b"), where="here")[1].version

first = version()
"""


def test_functions_are_made_in_a_notebook_and_changed_in_other_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path))
    cells = [
        "import warehouse\nassert {'connect', 'Lake'} <= set(dir(warehouse))  # what is offered to be completed",
        HELPER,
        "assert version() == first",
        "def helper(text):\n    return 'two' in text",
        "assert version() != first",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(ROOT)}}).execute()


def wait_for(port: int) -> None:
    """The server says that it has started a little before it listens."""
    for _ in range(100):
        with socket.socket() as trial:
            if trial.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"nothing listens on port {port}")


def test_the_duckdb_ui_answers_from_a_warehouse(lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its server, and the door through which its page asks. The page itself comes from ui.duckdb.org."""
    (tmp_path / ".duckdb" / "extension_data").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    [extension] = (Path(str(duckdb_extension_ui.__file__)).parent / "extensions").rglob("ui.duckdb_extension")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with open_duckdb() as connection:
        connection.execute(f"LOAD '{extension}'")
        connection.execute(attach_statement(lake, read_only=True))
        connection.execute("USE lake")
        connection.execute(f"SET ui_local_port = {port}")
        connection.execute("CALL start_ui_server()")
        try:
            wait_for(port)
            asked = urllib.request.Request(
                f"http://localhost:{port}/ddb/run",
                data=b"select label, count(*) from lake.training_set group by all order by all",
                headers={"Origin": f"http://localhost:{port}"},
            )
            with urllib.request.urlopen(asked, timeout=30) as answer:
                content = answer.read()
        finally:
            connection.execute("CALL stop_ui_server()")
    assert all(name in content for name in (b"grain", b"ship <b>&", b"trade"))
