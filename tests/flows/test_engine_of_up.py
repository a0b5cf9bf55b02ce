"""The engine's server of a project: that of `siftline up`, and one of a person's own."""

import os

import pytest

from engine.errors import UnavailableError
from flows.deployments import services
from flows.project.project import Project
from flows.servers.background import Background
from flows.servers.running import engine_start
from tests.projects import ROOT
from tests.studio import free_port


def test_an_engine_of_ones_own_answers_whether_its_address_ends_in_a_slash_or_not(
    project: Project, own_server: str
) -> None:
    path = project.root / "siftline.toml"
    settings = path.read_text()
    for address in (own_server, own_server.rstrip("/")):
        path.write_text(f'{settings}[engine]\nurl = "{address}"\n')
        lines = services.status(Project(project.root))
        assert [line.state for line in lines if line.name == "engine"] == ["yours"]


def write_settings(project: Project, encoder: str, url: str, patience_s: float = 60) -> None:
    text = (project.root / "siftline.toml").read_text().partition("[encoder]")[0]
    engine = f'[engine]\nurl = "{url}"\npatience_s = {patience_s}\n'
    (project.root / "siftline.toml").write_text(f"{text}[encoder]\n{encoder}\n{engine}")


def test_the_engine_of_up_follows_the_settings(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    service = Background("engine", project.state_path)
    urls = [f"http://127.0.0.1:{free_port()}", f"http://localhost:{free_port()}/", "http://engine.invalid:8180"]
    stops = "stopping the engine's server, which was started with other settings or another encoder"
    starts = "starting the engine's server"

    def told_by_up(encoder: str, url: str) -> list[str]:
        write_settings(project, encoder, url)
        told: list[str] = []
        services._engine_up(Project(project.root), os.environ, told.append)  # pyright: ignore[reportPrivateUsage]
        return told

    try:
        assert told_by_up('name = "dense"\nmax_tokens = 32', urls[0]) == [starts]
        assert told_by_up('name = "dense"\nmax_tokens = 32\nstored = "float16"', urls[0]) == []
        assert told_by_up('name = "dense"\nmax_tokens = 64', urls[1]) == [stops, starts]
        assert Project(project.root).encoder.max_tokens == 64
        assert told_by_up('name = "dense"\nmax_tokens = 64', urls[2]) == [stops]
        assert service.status() is None
    finally:
        service.stop()


def test_who_starts_an_engine_that_is_away_is_named(project: Project, own_server: str) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    write_settings(project, 'name = "dense"', f"{url}/", patience_s=0)
    record = project.state_path / "services" / "engine.json"
    record.parent.mkdir(parents=True)

    def told(of_up: str) -> str:
        record.write_text(f'{{"pid": 1, "started": 1, "url": "{of_up}"}}')
        with pytest.raises(UnavailableError) as away:
            _ = Project(project.root).encoder
        return str(away.value)

    assert "Start it with `siftline up`" in told(url), "the one of `up` died"
    assert "Start it with `siftline engine serve`" in told(own_server)
    write_settings(project, 'name = "dense"', own_server)
    by_hand = engine_start(Project(project.root).state_path, Project(project.root).engine_url)
    assert by_hand == "siftline engine serve", "`up` starts none where another answers"


def test_the_engine_of_up_is_started_again_with_another_file(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(services, "answers", lambda _: False)
    monkeypatch.setattr(Background, "start", lambda *_, asks, **__: asked.append(asks))
    write_settings(project, 'name = "mine.safetensors"', "http://127.0.0.1:8180")
    for content in (b"first", b"first", b"second"):
        (project.root / "mine.safetensors").write_bytes(content)
        services._engine_up(Project(project.root), {}, lambda _: None)  # pyright: ignore[reportPrivateUsage]
    assert asked[0] == asked[1] != asked[2]


def test_the_engine_of_up_computes_where_the_settings_say(project: Project) -> None:
    write_settings(project, 'device = "cuda"\nprecision = "bf16"\nactive = 0.5', url := "http://127.0.0.1:8180")
    command = services._engine_command(Project(project.root), url)  # pyright: ignore[reportPrivateUsage]
    options = command[command.index("serve") + 1 :]
    options = dict(zip(options[::2], options[1::2], strict=True))
    assert options["--device"] == "cuda"
    assert (options["--precision"], options["--active"]) == ("bf16", "0.5")
