"""The catalogue's server goes away when all stages of a run are done: its end fails by type and in words too."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

from tests.projects import ROOT
from tests.warehouse.servers import running_postgres

RUN = """
import json, os, signal, sys
from pathlib import Path
from flows.servers.prefect_server import prefect_api

root, server = Path(sys.argv[1]), int(sys.argv[2])
with prefect_api(root / ".siftline"):
    from flows.pipelines import flows as pipelines
    from flows.project.project import Project

    def on_result(result):
        if result.stage == "collect":
            os.kill(server, signal.SIGQUIT)
            while Path(f"/proc/{server}").exists() and Path(f"/proc/{server}/stat").read_text().split()[2] != "Z":
                pass

    pipelines.watch(pipelines.OpenProject(project=Project(root), on_result=on_result))
    state = pipelines.collect(str(root), return_state=True)
    print(json.dumps([state.type.value, state.message]))
"""


def test_a_collect_whose_catalogue_is_gone_after_its_stages_says_that_the_next_goes_on(
    tmp_path: Path, prefect_server: str
) -> None:
    root = tmp_path / "project"
    root.mkdir()
    (root / "data.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "LABEL_STUDIO_"))}
    with running_postgres() as server:
        (root / "siftline.toml").write_text(
            '[project]\nname = "p"\nclasses = ["a", "b"]\n[[sources]]\nname = "s"\npath = "data.jsonl"\n'
            f'[warehouse]\ncatalog = "{server.fresh()}"\n'
        )
        (root / "labeling_functions.py").write_text("")
        ended = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(RUN), str(root), str(server.server.pid)],
            cwd=ROOT,
            env={**environment, "PGPASSWORD": server.password, "PREFECT_API_URL": prefect_server},
            capture_output=True,
            text=True,
            check=False,
        )
    assert ended.returncode == 0, ended.stderr[-3000:]
    kind, words = json.loads(ended.stdout.splitlines()[-1])
    assert kind == "FAILED"
    assert "\n" not in words, "an alert shows one line"
    assert "LINE" not in words, "DuckDB's own query"
    assert words.startswith("collect failed at its end, after all stages: The catalogue's server does not answer")
    assert words.endswith("The service or the lock may be back by then: the next run goes on from here.")
