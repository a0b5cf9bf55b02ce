"""`siftline doctor`: what is needed to run, what of it is there, and how to mend the rest."""

import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from flows.cli.terminal.console import lines, of_the_system, out
from flows.report.text import counted
from warehouse import SiftlineError, WarehouseNotFound

if TYPE_CHECKING:
    from flows.project.project import Project

PACKAGES = ("torch", "duckdb", "pyarrow", "faiss-cpu", "snorkel", "prefect", "label-studio-sdk")
FREE_BYTES = 2 * 1024**3


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: its name, whether it is well, and what was found or how to mend it."""

    name: str
    well: bool
    words: str


def check_all(root: Path) -> int:
    """Run all checks and print them; returns 0 when all is well, 2 when something must be mended."""
    well = True
    told: set[str] = set()
    for check in (
        _python,
        _packages,
        _extensions,
        _project,
        _store,
        _sources,
        _gold,
        _encoder,
        _language_model,
        _disk,
        _prefect,
        _label_studio,
    ):
        for finding in _guarded(check, root):
            if not finding.well and finding.words in told:
                continue  # one fault in the settings stops several checks
            told.add(finding.words)
            mark = ("ok  ", "green") if finding.well else ("MEND", "red")
            out.print(Text.assemble(mark, f" {finding.name}: {lines(finding.words)}"))
            well = well and finding.well
    return 0 if well else 2


def _guarded(check: Callable[[Path], Iterator[Finding]], root: Path) -> list[Finding]:
    from engine.errors import EngineError

    try:
        return list(check(root))
    except (SiftlineError, EngineError) as error:
        return [Finding(check.__name__.strip("_").replace("_", " "), False, str(error))]
    except OSError as error:
        return [Finding(check.__name__.strip("_").replace("_", " "), False, of_the_system(error))]


def _python(_: Path) -> Iterator[Finding]:
    found = ".".join(str(part) for part in sys.version_info[:3])
    fits = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield Finding("python", fits, found if fits else f"{found}; Siftline supports 3.11 to 3.13")


def _packages(_: Path) -> Iterator[Finding]:
    pip = f"{sys.executable} -m pip install --constraint constraints.txt"
    for name in PACKAGES:
        try:
            yield Finding(name, True, version(name))
        except PackageNotFoundError:
            yield Finding(name, False, f"not installed; in Siftline's checkout: {pip} {name}")


def _extensions(_: Path) -> Iterator[Finding]:
    from warehouse import Lake

    with tempfile.TemporaryDirectory() as folder, Lake(Path(folder) / "lake") as lake:
        yield Finding("ducklake", True, f"a new warehouse opens, snapshot {lake.snapshot()}")


def _opened(root: Path) -> "Project | None":
    from flows.project.project import Project
    from flows.settings.settings_file import FILE_NAME

    return Project(root) if (root / FILE_NAME).is_file() else None


def _encoder(root: Path) -> Iterator[Finding]:
    from engine.kernels.native import MISSING, load_library
    from engine.load import load_encoder

    torch = importlib.import_module("torch")
    device = "CUDA " + torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU"
    project = _opened(root)
    encoder = load_encoder("default") if project is None else project.encoder
    encoder.encode(["Is the encoder well?"])
    words = f"{encoder.encoder_id} answers; device {device}, {counted(torch.get_num_threads(), 'thread')}"
    slower = "" if device != "CPU" or load_library() else f". It could be faster: {MISSING}"
    yield Finding("encoder", True, words + slower)


def _language_model(root: Path) -> Iterator[Finding]:
    project = _opened(root)
    if project is not None and project.prompt_client is not None:
        project.prompt_client.check()
        words = f"{project.prompt_client.config.url} answers. {project.prompt_client.account()}".rstrip()
        yield Finding("language model", True, words)


def _disk(root: Path) -> Iterator[Finding]:
    folder = root.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    words = f"{free / 1024**3:.1f} GiB free"
    yield Finding(
        "disk", free >= FREE_BYTES, words if free >= FREE_BYTES else words + "; make room, 2 GiB is the least"
    )


def _project(root: Path) -> Iterator[Finding]:
    from flows.report.current_models import unread_share
    from flows.report.narrative import unread_sentence
    from flows.settings.settings_file import FILE_NAME

    project = _opened(root)
    if project is None:
        yield Finding("project", True, f"no {FILE_NAME} in {root.absolute()}, so no project was checked")
        return
    yield Finding("project", True, f"{project.settings.project.name}, {len(project.classes)} classes")
    if not os.access(project.root, os.W_OK):
        words = f"{project.root} cannot be written to by this user, so nothing runs there; ask for the right to write"
        yield Finding("folder", False, words)
    yield Finding("labeling functions", True, f"{len(project.functions)} load")
    try:
        with project.read_lake() as lake, lake.read() as reader:
            items, unread = reader.scalar("SELECT count(*) FROM items"), unread_sentence(unread_share(reader))
        yield Finding("warehouse", True, f"{counted(items, 'item')} in {project.location.words}")
        if unread:
            yield Finding("texts", False, unread.replace("`", ""))
    except WarehouseNotFound:
        yield Finding("warehouse", True, "none yet; siftline run makes it")


def _store(root: Path) -> Iterator[Finding]:
    from warehouse.catalog.object_store import check_store

    project = _opened(root)
    if project is not None and project.location.on_s3:
        check_store(project.location)
        yield Finding("store", True, f"{project.location.data_path} may be listed; a run tells whether it may write")


def _sources(root: Path) -> Iterator[Finding]:
    from features.ingest.stage import read_source
    from features.readers.parquet import check_query
    from features.readers.source import find_files

    project = _opened(root)
    if project is not None:
        files = 0
        for source in project.ingest_config.sources:
            if source.path:
                found = tuple(find_files(source, project.root))
                files += len(found)
                # Its first record is refused where a column is not there.
                next(read_source(source, found[:1], project.root, lambda _: None), None)
            else:
                check_query(source, project.root)
        yield Finding("sources", True, f"{len(project.settings.sources)} named, files found: {files:,}")


def _gold(root: Path) -> Iterator[Finding]:
    from weak_labels.analysis.gold_file import read_gold_file

    project = _opened(root)
    if project is not None and (config := project.evaluate_config) is not None:
        read_gold_file(config)
        yield Finding("gold", True, f"{config.gold} is there")


def _prefect(root: Path) -> Iterator[Finding]:
    from flows.servers.prefect_server import behind, check_api, log_in_hint, other_version, use_api

    url = use_api(root.absolute() / ".siftline")
    if url is None:
        yield Finding("prefect server", True, "none configured; every run starts its own on loopback")
        return
    check_api(url)
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError
    from prefect.settings import PREFECT_API_URL, temporary_settings

    try:
        with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
            client.raise_for_api_version_mismatch()
            client.read_deployments(limit=1)
    except (PrefectHTTPStatusError, httpx.HTTPError, RuntimeError) as error:
        if str(error).startswith("Found incompatible versions"):
            words = str(other_version(error, url))
        else:
            cause = behind(error)
            words = f"{url} answers with an error: {cause}{log_in_hint(cause)}"
        yield Finding("prefect server", False, words)
    else:
        yield Finding("prefect server", True, f"{url} answers")


def _label_studio(root: Path) -> Iterator[Finding]:
    from flows.servers.label_studio import studio_key_file
    from flows.servers.running import running_label_studio

    url, key = (os.environ.get(name, "").strip() for name in ("LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"))
    project = _opened(root)
    if not url and not key and project is not None:
        local = running_label_studio(root, project.state_path, project.settings.annotate.service)
        url, key = (local.url, local.api_key) if local is not None else (url, key)
    if not url:
        if project is not None and project.settings.annotate.service == "label-studio":
            _ = project.service  # says what is missing
        yield Finding("label studio", True, "LABEL_STUDIO_URL is not set; tasks go to a folder")
        return
    if not key:
        yield Finding("label studio", False, "LABEL_STUDIO_API_KEY is not set; copy it from Account & Settings")
        return
    from active.label_studio.connection import Connection, count_of, text_of
    from active.label_studio.project import find_project

    key_file = studio_key_file(root.absolute(), url, key)
    name = "siftline doctor" if project is None else project.settings.project.name
    connection = Connection(url, key, name, timeout_s=10, key_file=key_file)
    release = connection.call(lambda: text_of(connection.client.versions.get().release))
    seen = connection.call(lambda: count_of(connection.client.projects.list(page=1, page_size=1).response.count))
    if project is not None and project.settings.annotate.service != "folder":
        find_project(connection)  # one of somebody's own is refused, as a run does it
    yield Finding("label studio", True, f"{url} answers, {release}; the key sees {counted(seen, 'project')}")
