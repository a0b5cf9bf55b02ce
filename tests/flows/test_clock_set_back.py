"""A clock that was ahead is put right while the schedule is served: Prefect does not wait until it is there again."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from flows.servers import clock
from tests.flows.test_deployments import DEPLOYED, ended_well
from tests.prefect_runs import wait_for
from tests.projects import ROOT, give_prefect_database


def test_a_clock_was_set_back_once_whatever_else_was_done_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = [0.0]
    monkeypatch.setattr(clock, "ahead_s", lambda: ahead[0])
    watched = clock.Clock()

    def after(*by_s: float) -> list[bool]:
        return [bool(ahead.append(ahead.pop() + by)) or watched.was_set_back() for by in by_s]

    assert after(0, 86_400, 0, -59, 30) == [False] * 5, "a machine that slept, and a clock that is a little wrong"
    assert after(-3600, 0) == [True, False]
    assert after(-30, -30, 0) == [False, True, False], "in two steps"
    assert after(3600, -3600) == [False, True]


RUNS_OF_LATER = (
    DEPLOYED
    + """
            from prefect.client.schemas.filters import DeploymentFilter
            from flows.servers import clock
            await client.pause_deployment(made[1])
            await client._client.post(f"/deployments/{made[0]}/schedule", json={"min_runs": 3})
            of_cycle = DeploymentFilter.model_validate({"id": {"any_": made[:1]}})

            async def listed():
                return {run.id for run in await client.read_flow_runs(deployment_filter=of_cycle)}

            first = await listed()
            print(len(first) >= 3)
            watching = asyncio.create_task(deployments.make_anew_when_set_back(project, every_s=0.1))
            await asyncio.sleep(1.0)
            print(first <= await listed())
            clock.ahead_s = lambda ahead_s=clock.ahead_s(): ahead_s - 86_400
            for _ in range(300):
                await asyncio.sleep(0.1)
                if not first & await listed():
                    break
            print(first & await listed(), (await client.read_deployment(made[1])).paused)
            watching.cancel()

    asyncio.run(main())
"""
)


def test_runs_of_a_time_that_comes_again_are_taken_off_the_list(tmp_path: Path, prefect_database: Path) -> None:
    assert ended_well(RUNS_OF_LATER, tmp_path, prefect_database) == ["True", "True", "set() True"]


# The clock stands a day further back as soon as there is a file; the server that starts anew takes it as it is.
SERVER = """
import os, socket, sys
from pathlib import Path
from flows.servers import clock, prefect_process
set_back = Path(sys.argv[1])
clock.ahead_s = lambda: 0.0 if set_back.exists() else 86_400.0
prefect_process.LOOK_S = 0.1
door = socket.create_server(("127.0.0.1", 0))
os.set_inheritable(door.fileno(), True)
print(door.getsockname()[1], flush=True)
prefect_process.main("taken", door.detach())
"""


def test_the_server_starts_anew_as_the_same_process_at_the_same_door(tmp_path: Path, prefect_database: Path) -> None:
    give_prefect_database(tmp_path, prefect_database)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_PROFILES_PATH": str(tmp_path / "none.toml")}
    environment |= {"PREFECT_UI_ENABLED": "0", "PYTHONPATH": str(ROOT)}
    set_back = tmp_path / "set-back"
    with (tmp_path / "log").open("w") as log:
        command = [sys.executable, "-c", SERVER, str(set_back)]
        server = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    assert server.stdout is not None
    try:
        health = f"http://127.0.0.1:{int(server.stdout.readline())}/api/health"

        def answers() -> bool:
            assert server.poll() is None, (tmp_path / "log").read_text()
            with contextlib.suppress(httpx.HTTPError):
                return httpx.get(health, timeout=60, trust_env=False).is_success
            return False

        wait_for(answers)
        set_back.touch()
        wait_for(lambda: b"\0taken\0" in Path(f"/proc/{server.pid}/cmdline").read_bytes())
        wait_for(answers)
        assert (tmp_path / "log").read_text().count("The clock was set back; starting anew") == 1
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=60)
