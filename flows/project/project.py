"""An open project: its settings and, made when first needed, its warehouse, encoder, functions, index and service.

Stages get everything they need from here, so that Prefect tasks pass only a folder and a stage name.
"""

import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from filelock import FileLock, Timeout

from active.annotation.service import AnnotationService
from active.annotation.simulated_annotator import SimulatedAnnotator
from active.annotation.task_content import Content
from active.label_studio.environment import TIMEOUT_S, server_from_env
from active.quality.relabeling import AskAgainConfig
from active.queue.collect import collect
from active.queue.cursor import Cursor
from active.queue.folder_state import Held
from active.queue.outbox import QueueConfig
from active.queue.service_migration import check_name, not_collected, stored_last_in
from active.selection.stage import SelectConfig, check_multi_label
from active.task_folder.service import TaskFolder
from active.value.stage import ValueConfig
from engine.client.api_key import key_from_environment
from engine.client.remote import connect
from engine.load import load_encoder
from engine.protocol import Encoder
from features.embedding.half_precision import CompactEncoder
from features.embedding.stage import EmbedConfig
from features.ingest.classes import check_classes
from features.ingest.stage import IngestConfig
from features.neighbors.faiss_index import IndexConfig, VectorIndex, open_index
from features.readers.source import SourceConfig
from flows.project.recovery import LOCK
from flows.servers.label_studio import studio_key_file
from flows.servers.running import engine_start, running_label_studio
from flows.settings.settings import Settings, own_folder
from flows.settings.settings_file import load_settings
from warehouse import (
    Lake,
    Location,
    SchemaTooOld,
    SettingsError,
    StageResult,
    WarehouseBusy,
    WarehouseNotFound,
)
from warehouse.files.atomic_file import keep_from_git
from weak_labels.analysis.evaluate import EvaluateConfig
from weak_labels.applying.stage import VoteConfig
from weak_labels.classifiers.linear import EndModelConfig
from weak_labels.functions.loader import load_functions
from weak_labels.functions.types import LabelingFunction
from weak_labels.label_models import LabelModelConfig
from weak_labels.prompting.client import PromptClient, PromptConfig

if TYPE_CHECKING:
    from active.label_studio.service import LabelStudioService


class LabelFileColumns(TypedDict):
    """Names of columns by which files of labels may call theirs of ids and of texts: those of the sources."""

    ids: tuple[str, ...]
    texts: tuple[str, ...]


class Project:
    """One project folder.

    Args:
        root: folder that holds siftline.toml.
        create: its warehouse is made where there is none; else it is refused.

    Raises:
        SettingsError: the settings are missing or wrong.
        WarehouseNotFound: there is no warehouse, and `create` is False.
    """

    def __init__(self, root: Path, *, create: bool = True) -> None:
        self.root = root.absolute()
        self.settings: Settings = load_settings(self.root)
        if self.multi_label:
            check_multi_label(self.settings.select.strategy)
        # Checked now, not when a run has come as far as their stages.
        _ = self.folder, self.ingest_config, self.select_config, self.queue_config, self.ask_again_config
        _ = self.label_model_config
        self._index: tuple[str, VectorIndex] | None = None
        if not create:
            self.lake = self._checked(Lake(self.location, create=False))

    @property
    def location(self) -> Location:
        """Where the warehouse's catalogue and data are."""
        return self.settings.warehouse.below(self.root)

    @property
    def state_path(self) -> Path:
        """Folder for locks, the index and Prefect's own data; a cache that may be deleted between runs."""
        return self.root / ".siftline"

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; the position is the class_id."""
        return self.settings.project.classes

    @property
    def multi_label(self) -> bool:
        """An item may have several classes or none."""
        return self.settings.project.multi_label

    @cached_property
    def lake(self) -> Lake:
        """The warehouse, open for writing; refused where its classes or its name are others than in the settings."""
        return self._checked(Lake(self.location))

    def read_lake(self) -> Lake:
        """The warehouse, open for reading only and refused as `lake`; the caller closes it."""
        return self._checked(Lake(self.location, read_only=True))

    def _checked(self, lake: Lake) -> Lake:
        try:
            with lake.read() as reader:
                check_classes(reader, self.classes, multi_label=self.multi_label)
                check_name(reader, self.settings.project.name)
        except BaseException:
            lake.close()
            raise
        return lake

    @property
    def encoder_name(self) -> str:
        """The encoder as the engine takes it: a name that it knows, or the whole path of a file."""
        name = self.settings.encoder.name
        return str(self.root / name) if name.endswith(".safetensors") else name

    @property
    def engine_url(self) -> str:
        """Address of the engine's server without a slash at its end; empty where there is none."""
        return (self.settings.engine.url or "").rstrip("/")

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder named in the settings: on the engine's server when [engine] url is set, else in this process."""
        full = self._full_encoder()
        return CompactEncoder(full) if self.settings.encoder.stored == "float16" else full

    def _full_encoder(self) -> Encoder:
        options = self.settings.encoder.model_dump(exclude={"name", "stored"})
        engine = self.settings.engine
        if engine.url is None:
            return load_encoder(self.encoder_name, **options)
        key, start = key_from_environment(), engine_start(self.state_path, self.engine_url)
        return connect(
            engine.url, name=self.encoder_name, key=key, patience_s=engine.patience_s, start=start, **options
        )

    @cached_property
    def functions(self) -> Sequence[LabelingFunction]:
        """The labeling functions of the project."""
        return load_functions(self.root / self.settings.weak_labels.functions, self.classes)

    @cached_property
    def prompt_client(self) -> PromptClient | None:
        """The language model that functions made by `prompt` ask; None where none is configured."""
        section = self.settings.weak_labels.prompt
        if not section.url:
            return None
        return PromptClient(
            PromptConfig(
                cache=self.root / "prompt_answers.sqlite",
                api_key=os.environ.get("SIFTLINE_PROMPT_API_KEY", "").strip(),
                **section.model_dump(),
            )
        )

    @cached_property
    def service(self) -> AnnotationService:
        """Where annotators answer: Label Studio where it is configured or `up` runs it, else a folder of tasks.

        Raises:
            SettingsError: Label Studio is asked for and not named, or answers would be left behind in silence: tasks
                went there last and nobody names it now, or the folder has answers that were not collected.
        """
        section = self.settings.annotate
        studio = self.label_studio()
        if studio is None:
            if section.service == "auto" and self.last_in_folder() is False:
                raise SettingsError(
                    "The tasks of this project were sent to Label Studio, and LABEL_STUDIO_URL and "
                    "LABEL_STUDIO_API_KEY are not set here. Set both (`siftline studio up` prints those of a local "
                    'server), or move the project to a folder of files: [annotate] service = "folder".'
                )
            return self.folder
        if self.folder.path.is_dir() and self.last_in_folder():
            with self.read_lake() as lake, lake.read() as reader:
                count = not_collected(reader, self.folder)
            if count:
                raise SettingsError(
                    f"{self.folder.path} has answers that are not collected yet ({count:,}), and the project would go "
                    f"on in {studio.describe()}, where they count no more. Collect them first: "
                    "SIFTLINE_ANNOTATE__SERVICE=folder siftline collect"
                )
        return studio

    @cached_property
    def folder(self) -> TaskFolder:
        """The folder of tasks, which is where people answer unless Label Studio is used.

        Raises:
            SettingsError: the project's other files are there, or a source's.
        """
        name = self.settings.annotate.folder
        path = own_folder(self.root, name, "[annotate] folder")
        for source in self.settings.sources:  # its JSON would be taken for tasks, and tasks for records
            if source.path and path.resolve() in [p.resolve() for p in (self.root / source.path).parents]:
                raise SettingsError(
                    f"[annotate] folder is {name!r}, where source '{source.name}' has its files. Name a folder of its "
                    "own, or leave it out."
                )
        return TaskFolder(path, self.settings.project.name, multi_label=self.multi_label)

    def accounts(self, annotations: Mapping[str, Sequence[tuple[str, ...]]]) -> Mapping[str, str]:
        """Names of accounts of the project's Label Studio, see `active.queue.import_labels`; none where it has none."""
        studio = self.label_studio()
        return {} if studio is None else studio.names_of(annotations)

    def label_studio(self, *, timeout_s: float = TIMEOUT_S) -> "LabelStudioService | None":
        """The project's Label Studio, with the longest time for one request; None where tasks go to a folder."""
        section = self.settings.annotate
        if section.service == "folder":
            return None
        server = server_from_env()
        if server is None and (local := running_label_studio(self.root, self.state_path, section.service)) is not None:
            server = local.url, local.api_key
        if server is None:
            if section.service == "label-studio":
                raise SettingsError(
                    "[annotate] service is 'label-studio', but there is no LABEL_STUDIO_URL and no "
                    'LABEL_STUDIO_API_KEY in the environment. Set what is missing, or use service = "folder".'
                )
            return None
        from active.label_studio.service import LabelStudioService

        return LabelStudioService(
            *server,
            self.settings.project.name,
            timeout_s=timeout_s,
            annotators_per_task=section.annotators_per_task,
            multi_label=self.multi_label,
            suggest=section.suggest,
            key_file=studio_key_file(self.root, *server),
        )

    def last_in_folder(self) -> bool | None:
        """True where tasks were stored last in the folder, False where in Label Studio; None where in neither yet."""
        try:
            with self.read_lake() as lake, lake.read() as reader:
                return stored_last_in(reader, self.folder)
        except SchemaTooOld:  # opening it to write brings it up to date
            with self.lake.read() as reader:
                return stored_last_in(reader, self.folder)
        except WarehouseNotFound:
            return None

    def index(self) -> VectorIndex:
        """The neighbour index of the newest vectors, verified or rebuilt; kept while the vectors stay the same."""
        version = self.lake.table_version("items") + self.lake.table_version("vectors")
        if self._index is None or self._index[0] != version:
            self._index = version, open_index(self.lake, self.index_config, self.encoder.encoder_id)
        return self._index[1]

    @contextmanager
    def only_run(self, *, patience_s: float = 0.0) -> Generator[None]:
        """Hold the lock that lets one process at a time run, collect or reconcile this project.

        The process that holds it may enter again.

        Args:
            patience_s: how long to wait for another process before leaving.

        Raises:
            WarehouseBusy: another process holds it.
        """
        self.state_path.mkdir(exist_ok=True, mode=0o700)
        keep_from_git(self.state_path)
        try:
            self._run_lock.acquire(timeout=patience_s, poll_interval=0.5)
        except Timeout as error:
            raise WarehouseBusy(f"Another run of {self.root} is at work; this one leaves it alone.") from error
        try:
            yield
        finally:
            self._run_lock.release()

    @cached_property
    def _run_lock(self) -> FileLock:
        return FileLock(str(self.state_path / LOCK), timeout=0)

    def simulated_annotator(self) -> SimulatedAnnotator:
        """The annotator that answers from the sample's gold column.

        Raises:
            SettingsError: the settings name no gold file, or it does not exist.
        """
        section = self.settings.annotate
        if section.gold is None:
            raise SettingsError(
                "--annotator simulated needs [annotate] gold in siftline.toml: a file with the columns id or text, and "
                "label (Parquet, CSV, JSON or JSONL)."
            )
        gold = self.root / section.gold
        if not gold.is_file():
            raise SettingsError(
                f"[annotate] gold names {gold}, which does not exist. Put it there, or name another file; that of a "
                "sample comes by siftline samples get."
            )
        return SimulatedAnnotator(gold, seed=section.seed, multi_label=self.multi_label, **self.label_file_columns)

    @property
    def label_file_columns(self) -> LabelFileColumns:
        """How the sources call their columns of ids and texts."""
        sources = self.settings.sources
        return {
            "ids": tuple(source.id for source in sources if source.id),
            "texts": tuple(source.text for source in sources),
        }

    # Each package's own configuration, made from siftline.toml in this one place.

    @cached_property
    def ingest_config(self) -> IngestConfig:
        """Configuration of `features.ingest.stage`."""
        return IngestConfig(
            root=self.root,
            classes=self.classes,
            multi_label=self.multi_label,
            sources=tuple(SourceConfig(**source.model_dump()) for source in self.settings.sources),
        )

    @cached_property
    def embed_config(self) -> EmbedConfig:
        """Configuration of `features.embedding.stage`."""
        return EmbedConfig(kept=self.state_path / "embedding")

    @cached_property
    def index_config(self) -> IndexConfig:
        """Configuration of `features.neighbors.faiss_index`."""
        return IndexConfig(folder=self.state_path / "index")

    @cached_property
    def vote_config(self) -> VoteConfig:
        """Configuration of `weak_labels.applying.stage`."""
        return VoteConfig(
            classes=self.classes,
            encoder_id=self.encoder.encoder_id,
            max_fault_frac=self.settings.weak_labels.max_fault_frac,
        )

    @cached_property
    def label_model_config(self) -> LabelModelConfig:
        """Configuration of `weak_labels.label_models`."""
        section = self.settings.weak_labels
        return LabelModelConfig(
            kind="anchored" if self.multi_label else section.label_model,
            classes=self.classes,
            seed=section.seed,
            learn_from_gold=section.learn_from_gold,
            multi_label=self.multi_label,
        )

    @cached_property
    def end_model_config(self) -> EndModelConfig:
        """Configuration of `weak_labels.end_model.stage`."""
        return EndModelConfig(
            classes=self.classes,
            encoder_id=self.encoder.encoder_id,
            multi_label=self.multi_label,
            kept=self.state_path / "end_model",
            **self.settings.end_model.model_dump(),
        )

    @cached_property
    def evaluate_config(self) -> EvaluateConfig | None:
        """Configuration of `weak_labels.analysis.evaluate`; None when the settings name no gold file."""
        section = self.settings.evaluate
        if section.gold is None:
            return None
        return EvaluateConfig(
            gold=self.root / section.gold,
            classes=self.classes,
            multi_label=self.multi_label,
            **self.label_file_columns,
            **section.model_dump(exclude={"gold"}),
        )

    @cached_property
    def value_config(self) -> ValueConfig:
        """Configuration of `active.value.stage`."""
        return ValueConfig(**self.settings.value.model_dump())

    @cached_property
    def select_config(self) -> SelectConfig:
        """Configuration of `active.selection.stage`."""
        return SelectConfig(
            project=self.settings.project.name,
            neighbors=self.settings.value.neighbors,
            **self.settings.select.model_dump(),
        )

    @cached_property
    def queue_config(self) -> QueueConfig:
        """Configuration of `active.queue.collect`."""
        section = self.settings.annotate
        content = Content(**section.model_dump(include={"show", "image", "image_prefix"}))
        return QueueConfig(
            project=self.settings.project.name,
            classes=self.classes,
            content=content,
            annotators_per_task=section.annotators_per_task,
            multi_label=self.multi_label,
            suggest=section.suggest,
        )

    def collect(self) -> StageResult:
        """Take what annotators said into the warehouse, see `active.queue.collect.collect`."""
        # A warehouse elsewhere may be of several machines or checkouts, with a folder of tasks each; of one in the
        # project's folder, the project's folder of tasks is right about what it holds.
        own = self.location.dsn is None and self.location.folder.resolve().is_relative_to(self.root.resolve())
        held = None if own else Held(self.state_path / "held.json")
        cursor = Cursor(self.state_path / "collect.json")
        return collect(self.lake, self.service, self.queue_config, cursor=cursor, held=held)

    @cached_property
    def ask_again_config(self) -> AskAgainConfig:
        """Configuration of `active.quality.relabeling`."""
        return AskAgainConfig(
            project=self.settings.project.name,
            budget=self.settings.select.budget,
            **self.settings.annotate.model_dump(include={"second_opinion", "second_look", "annotators_per_task"}),
        )
