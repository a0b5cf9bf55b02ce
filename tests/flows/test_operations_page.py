"""What docs/operations.md, prefect.yaml and deploy/ say is what the code takes: settings, flows, automation, units."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
import yaml

from features.ingest.stage import ingest
from flows.pipelines.stages import STAGES
from flows.project.project import Project
from flows.servers import prefect_process
from flows.servers.label_studio import Account, StudioServer
from flows.servers.prefect_server import QUIET
from flows.settings.settings import ScheduleSection
from tests.prefect_runs import wait_for
from tests.projects import ROOT, give_prefect_database
from tests.studio import free_port
from tests.warehouse.servers import Postgres
from warehouse import silent

PAGE = (ROOT / "docs" / "operations.md").read_text("utf-8")


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found.group(1)


def test_the_schedule_on_the_page_names_every_setting() -> None:
    shown = tomllib.loads(block("toml"))["schedule"]
    assert set(shown) == set(ScheduleSection.model_fields)
    ScheduleSection(**shown)


def test_the_template_of_init_shows_the_defaults() -> None:
    lines = (ROOT / "flows" / "cli" / "siftline.toml").read_text("utf-8").partition("# [schedule]")[2].splitlines()[1:]
    shown = tomllib.loads("\n".join(line.removeprefix("# ") for line in lines))
    assert set(shown) == set(ScheduleSection.model_fields)
    assert ScheduleSection(**{**shown, "expire_days": None}) == ScheduleSection()


@pytest.mark.parametrize("place", ["docs/engine-server.md", "deploy/siftline-engine.service", "deploy/compose.yaml"])
def test_the_engine_shown_has_the_token_limit_that_init_writes(place: str) -> None:
    template = (ROOT / "flows" / "cli" / "siftline.toml").read_text("utf-8")
    [limit] = re.findall(r"^max_tokens = (\d+)", template, re.MULTILINE)
    lines = (ROOT / place).read_text("utf-8").splitlines()
    [command] = [line for line in lines if re.search(r"^(siftline|ExecStart=|\s+command:).*engine,? serve\b", line)]
    assert re.search(rf'--max-tokens,? "?{limit}\b', command)


def test_the_alerts_are_automations_that_hear_what_the_page_says() -> None:
    from prefect.events.schemas.automations import AutomationCore
    from prefect.server.events.schemas.automations import EventTrigger
    from prefect.server.events.schemas.events import ReceivedEvent

    failed, silent = (yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
    heard: list[list[str]] = []
    for alert in (failed, silent):
        AutomationCore.model_validate(alert)
        trigger = EventTrigger.model_validate(alert["trigger"])
        heard.append([])
        for project in ("tickets", "other"):
            for flow in ("cycle", "collect"):
                tags = [{"prefect.resource.id": f"prefect.tag.{tag}"} for tag in ("siftline", project)]
                event = ReceivedEvent.model_validate(
                    {
                        "id": uuid4(),
                        "occurred": datetime.now(UTC),
                        "event": alert["trigger"]["expect"][0],
                        "resource": {"prefect.resource.id": f"prefect.flow-run.{uuid4()}"},
                        "related": [
                            {
                                "prefect.resource.id": f"prefect.flow.{uuid4()}",
                                "prefect.resource.role": "flow",
                                "prefect.resource.name": flow,
                            },
                            *({**tag, "prefect.resource.role": "tag"} for tag in tags),
                        ],
                    }
                )
                if trigger.covers(event) and trigger.expects(event.event):
                    heard[-1].append(f"{flow}/{project}")
    assert heard == [["cycle/tickets", "collect/tickets", "cycle/other", "collect/other"], ["cycle/tickets"]]


def test_prefect_yaml_has_all_flows_and_the_same_times_as_the_settings() -> None:
    from flows.deployments.deployments import FLOWS

    listed = yaml.safe_load((ROOT / "prefect.yaml").read_text("utf-8"))["deployments"]
    crons = {d["entrypoint"]: [s["cron"] for s in d["schedules"]] for d in listed}
    defaults = ScheduleSection()
    assert crons == {f"flows.pipelines.{f.name}": [c for c in [getattr(defaults, f.name)] if c] for f in FLOWS}
    for deployment in listed:
        assert deployment["concurrency_limit"]["collision_strategy"] == "CANCEL_NEW"


def test_the_units_are_well_formed(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not on this machine")
    for unit in (ROOT / "deploy").glob("*.service"):
        # The programs of a real host are not here; Python stands for them.
        text = re.sub(r"ExecStart=\S+", f"ExecStart={sys.executable}", unit.read_text("utf-8"))
        (tmp_path / unit.name).write_text(text)
    units = sorted(str(path) for path in tmp_path.glob("*.service"))
    ended = subprocess.run([program, "verify", *units], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_prefects_server_has_a_folder_of_its_own_for_its_pages() -> None:
    unit = (ROOT / "deploy" / "siftline-prefect.service").read_text("utf-8")
    [place] = re.findall(r"^Environment=PREFECT_UI_STATIC_DIRECTORY=(.+)$", unit, re.MULTILINE)
    [state] = re.findall(r"^StateDirectory=(.+)$", unit, re.MULTILINE)
    assert Path(place).is_relative_to(Path("/var/lib") / state)
    server = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text("utf-8"))["services"]["prefect"]
    place = Path(server["environment"]["PREFECT_UI_STATIC_DIRECTORY"])
    assert any(place.is_relative_to(writable) for writable in server["tmpfs"])


def test_prefects_server_keeps_places_and_forgets_runs_wherever_it_is_started() -> None:
    asked = dict(re.findall(r"^export (PREFECT_SERVER_(?:CONCURRENCY|SERVICES)\w+)=(.+)$", PAGE, re.MULTILINE))
    assert len(asked) == 2
    unit = (ROOT / "deploy" / "siftline-prefect.service").read_text("utf-8")
    assert all(f"Environment={name}={value}\n" in unit for name, value in asked.items())
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text("utf-8"))
    server = compose["services"]["prefect"]
    assert asked.items() <= server["environment"].items()
    volume, _, place = server["volumes"][0].partition(":")
    assert volume in compose["volumes"], "places are files, and outlive the container"
    assert place == server["environment"]["PREFECT_HOME"]
    assert f"--owner siftline {place}" in (ROOT / "deploy" / "Dockerfile").read_text("utf-8")


def test_folders_in_memory_are_open_to_the_user_of_the_container() -> None:
    services = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text("utf-8"))["services"]
    folders = [folder for service in services.values() for folder in service.get("tmpfs", ())]
    # Without a mode they have the image's one and belong to root: a home (0700) its user cannot even look into, and the
    # client of PostgreSQL ends Prefect's server.
    assert {folder for folder in folders if not folder.endswith(":mode=1777")} == {"/tmp"}


def test_checks_of_health_are_lines_for_a_shell(tmp_path: Path) -> None:
    services = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text("utf-8"))["services"]
    asked = {name: it["healthcheck"]["test"] for name, it in services.items() if "healthcheck" in it}
    assert {way for way, *_ in asked.values()} == {"CMD-SHELL"}, "podman-compose splits the other form at its quotes"
    # By its socket PostgreSQL's image answers before the server that stays is there.
    assert "-h 127.0.0.1" in asked["database"][1]
    for program in ("python", "pg_isready"):
        (tmp_path / program).write_text('#!/bin/sh\nfor word; do printf "%s\\n" "$word"; done\n')
        (tmp_path / program).chmod(0o755)
    [_, line] = asked["prefect"]
    found = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    ended = subprocess.run(["sh", "-c", line], env=found, capture_output=True, text=True, check=True)
    option, code = ended.stdout.splitlines()
    assert option == "-c"
    compile(code, "health", "exec")
    assert "http://127.0.0.1:4200/api/health" in code


def test_the_project_of_the_containers_is_a_folder_that_is_there() -> None:
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text("utf-8"))
    project, *volumes = compose["services"]["siftline"]["volumes"]
    # In the short form a name without a slash is a volume, and a wrong path a new empty folder of root's.
    assert (project["type"], project["bind"]) == ("bind", {"create_host_path": False})
    assert {volume.partition(":")[0] for volume in volumes} <= compose["volumes"].keys(), "unnamed ones pile up"


def test_the_image_takes_the_index_of_torch_that_compose_gives_it() -> None:
    build = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text("utf-8"))["x-siftline"]["build"]
    before, install, _ = (ROOT / "deploy" / "Dockerfile").read_text("utf-8").partition("RUN pip install")
    assert install
    stage = before.rpartition("\nFROM ")[2]
    assert build["args"]
    assert set(build["args"]) == set(re.findall(r"^ARG (\w+)$", stage, re.MULTILINE))


def test_label_studio_in_a_container_is_as_closed_as_ours(tmp_path: Path) -> None:
    account = Account(username="name", password="word", api_key="key")
    ours = StudioServer(tmp_path, environment=tmp_path)._variables(account)
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text("utf-8"))
    theirs = compose["services"]["label-studio"]["environment"]
    switches = {n: v for n, v in ours.items() if n.startswith("LABEL_STUDIO_") and v in ("true", "false", "")}
    assert {name: theirs.get(name) for name in switches} == switches
    assert theirs["LABEL_STUDIO_ALLOWED_HOSTS"] == f"{ours['LABEL_STUDIO_ALLOWED_HOSTS']},label-studio"


def test_the_image_is_built_from_what_it_needs_and_from_no_secrets() -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert lines[1] == "*"
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    needed = {"pyproject.toml", "constraints.txt", settings["project"]["readme"], *settings["project"]["license-files"]}
    packed = settings["tool"]["setuptools"]
    needed |= {name.rstrip("*") for name in packed["packages"]["find"]["include"]} | {
        f"{name}.py" for name in packed["py-modules"]
    }
    needed |= {pages.partition("/")[0] for beside in packed["data-files"].values() for pages in beside}
    links = [file for name in needed for file in ROOT.glob(f"{name}/*") if file.is_symlink()]
    needed |= {link.resolve().relative_to(ROOT).parts[0] for link in links}  # the saved questions
    assert {line[1:] for line in lines if line.startswith("!")} == needed
    assert "/deploy/.env" in (ROOT / ".gitignore").read_text("utf-8").splitlines(), "nor does git take them"


def test_prefects_server_of_the_unit_is_the_one_that_answers_under_our_names_only() -> None:
    unit = (ROOT / "deploy" / "siftline-prefect.service").read_text("utf-8")
    [module, port] = re.findall(r"^ExecStart=\S+ -P -m (\S+) staying (\d+)$", unit, re.MULTILINE)[0]
    assert module == prefect_process.__name__
    assert f"http://127.0.0.1:{port}," in unit


def test_prefects_server_in_a_container_answers_under_our_names_and_its_own_only(
    tmp_path: Path, prefect_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text("utf-8"))["services"]["prefect"]
    [python, *arguments] = server["entrypoint"]
    assert (python, arguments[4:6]) == ("python", ["4200", "0.0.0.0"])
    port = free_port()
    arguments[4:6] = [str(port), "127.0.0.1"]
    give_prefect_database(tmp_path, prefect_database)
    for name in [n for n in os.environ if n.startswith("PREFECT_")]:
        monkeypatch.delenv(name)
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_UI_ENABLED": "0", **QUIET}
    process = subprocess.Popen([sys.executable, *arguments], env={**environment, "PYTHONPATH": str(ROOT)})

    def told(name: str) -> int:
        address = f"http://127.0.0.1:{port}/api/health"
        with suppress(httpx.TransportError):
            return httpx.get(address, headers={"Host": name}, trust_env=False, timeout=60).status_code
        return 0

    try:
        wait_for(lambda: told("localhost") == 200)
        assert [told(name) for name in ("prefect:4200", "127.0.0.1:4200", "evil.example")] == [200, 200, 400]
    finally:
        process.terminate()
        process.wait()


def test_a_container_of_the_project_has_the_secrets_that_a_unit_may_have() -> None:
    [row] = re.findall(r"^\| `tickets.env` .*$", PAGE, re.MULTILINE)
    named = set(re.findall(r"`([A-Z_*]+)`", row)) - {
        "SIFTLINE_WEBHOOK_SECRET"
    }  # of the receiver, which has no container
    assert {"PGPASSWORD", "AWS_*", "SIFTLINE_PROMPT_API_KEY"} <= named
    passed = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text("utf-8"))["services"]["siftline"][
        "environment"
    ]
    assert named - {"AWS_*"} <= passed.keys()
    read = set(
        re.findall(
            r'environ\.get\("(AWS_\w+)"\)', (ROOT / "warehouse" / "catalog" / "connection.py").read_text("utf-8")
        )
    )
    assert read - {"AWS_DEFAULT_REGION"} <= passed.keys()


def make_tickets(folder: Path, catalog: str = "") -> Path:
    """A project with two records, and `siftline` in `bin` beside it."""
    root = folder / "tickets"
    (root / "data").mkdir(parents=True)
    (root / "tasks").mkdir()
    (root / "siftline.toml").write_text(
        '[project]\nname = "p"\nclasses = ["a", "b"]\n[[sources]]\nname = "s"\npath = "data/s.jsonl"\n' + catalog
    )
    (root / "labeling_functions.py").write_text("")
    (root / "data" / "s.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    program = folder / "bin" / "siftline"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m flows.cli.main "$@"\n')
    program.chmod(0o755)
    return root


def backed_up(root: Path, script: str) -> Path:
    """The copy that lines of the page make of a project that is open, as beside a run."""
    project = Project(root)
    assert ingest(project.lake, project.ingest_config).committed  # and it stays open
    programs, place = root.parent / "bin", root.parent / "backup"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{programs}:{os.environ['PATH']}"}
    script = script.replace("/backup", str(place))
    ended = subprocess.run(["sh", "-ec", script], cwd=root, env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert re.search(r"\d files? of [1-9]\d* KiB (are as they were|is as it was) written", ended.stdout)
    [copy] = place.iterdir()
    assert not copy.stat().st_mode & 0o077, "nobody else reads a backup"
    return copy


def test_the_backup_on_the_page_is_a_project(tmp_path: Path) -> None:
    [script] = re.findall(r"```sh\n(to=[^`]*?sqlite.*?)```", PAGE, re.DOTALL)
    root, disk = make_tickets(tmp_path), tmp_path / "disk"
    for folder in (disk, root / "lake"):
        folder.mkdir()
    (root / "lake" / "data").symlink_to(disk)
    copy = backed_up(root, script)
    assert not (copy / "lake" / "data").is_symlink(), "it would verify by the files of the original"
    with Project(copy).read_lake() as lake, lake.read() as reader:
        assert reader.scalar("SELECT count(*) FROM items") == 2
        [watched] = re.findall(r'siftline sql --format csv "(.*?)"', PAGE, re.DOTALL)
        assert reader.rows(watched) == [(0, None, 0, 0, None)], "what monitoring asks, with records alone"
    assert not ingest(Project(copy).lake, Project(copy).ingest_config).committed


def test_monitoring_hears_that_a_function_is_switched_off_and_that_it_is_well_again(tmp_path: Path) -> None:
    [watched] = re.findall(r'siftline sql --format csv "(.*?)"', PAGE, re.DOTALL)
    root = make_tickets(tmp_path)
    (root / "data" / "s.jsonl").write_text("".join(f'{{"text": "{number}"}}\n' for number in range(20)))
    off: list[int] = []
    for body in ("raise RuntimeError", "return [True] * len(batch.texts)"):
        functions = f'from weak_labels import vectorized\n@vectorized("a")\ndef one(batch):\n    {body}\n'
        (root / "labeling_functions.py").write_text(functions)
        project = Project(root)
        for stage in ("ingest", "vote"):
            STAGES[stage](project, silent)
        with project.lake.read() as reader:
            off += reader.arrow(watched).column("functions_off").to_pylist()
        project.lake.close()
    assert off == [1, 0]


def test_the_backup_of_a_catalogue_in_postgresql_has_a_catalogue_of_its_own(
    tmp_path: Path, postgres_server: Postgres
) -> None:
    postgres_server.ask("postgres", "CREATE DATABASE tickets")
    catalog = f'[warehouse]\ncatalog = "postgres:dbname=tickets host={postgres_server.folder} user=siftline"\n'
    root = make_tickets(tmp_path, catalog)
    lines = re.findall(r"```sh\n((?:to=[^`]*?pg_dump|psql)[^`]*)```", PAGE)
    assert len(lines) == 2
    copy = backed_up(root, "".join(lines).replace("host=db ", f"host={postgres_server.folder} "))
    (root / "data" / "s.jsonl").write_text('{"text": "three"}\n')
    assert ingest(Project(root).lake, Project(root).ingest_config).committed  # which the copy knows nothing of
    with Project(copy).read_lake() as lake, lake.read() as reader:
        assert reader.scalar("SELECT count(*) FROM items") == 2
    assert not ingest(Project(copy).lake, Project(copy).ingest_config).committed
