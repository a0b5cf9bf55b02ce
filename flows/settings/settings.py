"""The settings of a project: what may stand in `siftline.toml`, and what is assumed where nothing does.

Every value can be overridden by an environment variable, `SIFTLINE_SELECT__BATCH=16` for `[select] batch`. Secrets
never stand in the file: the Label Studio key comes from `LABEL_STUDIO_API_KEY`. `settings_file` reads them.
"""

from collections import Counter
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from flows.settings.cron import check_cron
from warehouse import Location, SettingsError
from warehouse.catalog.address import is_plain_address
from warehouse.maintenance.compaction import MOST_DAYS
from warehouse.schema.answer_views import NAMELESS

PREFIX = "SIFTLINE_"
"""What the environment variables that override settings begin with."""
ADDRESS = "address"
"""Kind of a wrong value that is not repeated: it may hold a password."""
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What every generator takes, those of scikit-learn and snorkel included."""


class Section(BaseModel):
    """A table of siftline.toml; unknown keys are refused, so a typing error does not pass silently."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ProjectSection(Section):
    """What is labelled."""

    name: str = Field(min_length=1)
    classes: tuple[str, ...] = Field(min_length=2)
    multi_label: bool = False
    """An item may have several of the classes, or none."""
    title: str = ""

    @field_validator("classes")
    @classmethod
    def _distinct(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        if any(not c.strip() for c in classes):
            raise ValueError("a class has an empty name; name it or leave it out")
        if repeated := sorted(c for c, times in Counter(classes).items() if times > 1):
            raise ValueError(f"classes must be distinct; repeated: {', '.join(repeated)}")
        return classes


class SourceSection(Section):
    """Where raw records come from."""

    name: str = Field(min_length=1)
    path: str | None = None
    query: str | None = None
    format: Literal["auto", "parquet", "csv", "tsv", "jsonl"] = "auto"
    text: str = "text"
    id: str | None = None
    split: str | None = None
    default_split: Literal["train", "valid", "test"] = "train"
    metadata: tuple[str, ...] = ()
    max_record_bytes: int = Field(default=1024 * 1024, gt=0)

    @model_validator(mode="after")
    def _one_origin(self) -> "SourceSection":
        if (self.path is None) == (self.query is None):
            raise ValueError(f"source '{self.name}' needs either path or query, and not both")
        return self


def own_folder(root: Path, path: str, setting: str) -> Path:
    """A folder in or beside the project's, not the one that its other files are in.

    Raises:
        SettingsError: it is the project's folder, or one around it.
    """
    own = (root / path).resolve()
    if own == root.resolve() or own in root.resolve().parents:
        raise SettingsError(
            f"{setting} is {path!r}, which is the project's folder or one around it. Name a folder of its own, or "
            "leave it out."
        )
    return root / path


class WarehouseSection(Section):
    """Where the tables live."""

    path: str = "lake"
    catalog: str = "sqlite"
    """"sqlite" in that folder, or "postgres:dbname=... host=..."; the password comes from PGPASSWORD."""
    data: str = "data"
    """"data" in that folder, or "s3://bucket/prefix"; the keys come from AWS_*."""

    def below(self, root: Path) -> Location:
        """The warehouse of the project in the folder `root`.

        Raises:
            SettingsError: the path is the project's folder, or one around it.
        """
        # The data folder of such a warehouse would be the one that `siftline init` puts sources into.
        folder = own_folder(root, self.path, "[warehouse] path")
        return Location(folder=folder, catalog=self.catalog, data=self.data)


class EncoderSection(Section):
    """How texts become vectors."""

    name: str = "default"
    active: float | None = Field(default=None, gt=0, le=1)
    max_tokens: int | None = Field(default=None, ge=8, le=512)
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["fp32", "bf16", "int8", "int4"] = "fp32"
    stored: Literal["float32", "float16"] = "float32"
    """Numbers of the vectors; float16 takes half the disk."""


def _address(url: str) -> str:
    if not is_plain_address(url):
        raise PydanticCustomError(ADDRESS, "must look like http://host:8180 or https://host/path, without a log-in")
    return url


class EngineSection(Section):
    """Where the encoder runs: on a server of `siftline engine serve` when there is a url, else in this process."""

    url: Annotated[str, AfterValidator(_address)] | None = None
    patience_s: float = Field(default=60.0, ge=0)


class PromptSection(Section):
    """The language model that functions made by `prompt` ask; the key comes from SIFTLINE_PROMPT_API_KEY."""

    url: str = ""
    requests_per_minute: float = Field(default=60.0, gt=0)
    limit: float = Field(default=1.0, ge=0)
    price_in: float = Field(default=0.0, ge=0)
    price_out: float = Field(default=0.0, ge=0)
    max_requests: int = Field(default=10_000, ge=0)
    timeout_s: float = Field(default=30.0, gt=0)
    run_limit_s: float = Field(default=14_400.0, ge=0)
    """Seconds that one run may wait for answers in all; 0 for no limit."""
    attempts: int = Field(default=4, ge=1)
    parallel: int = Field(default=4, ge=1)
    max_answer_tokens: int = Field(default=16, ge=1)


class WeakLabelsSection(Section):
    """Labeling functions and the model that combines their votes."""

    functions: str = "labeling_functions.py"
    label_model: Literal["auto", "anchored", "snorkel", "dawid_skene", "majority"] = "auto"
    learn_from_gold: bool = False
    """Give people's labels to the label models that learn from them (anchored, auto)."""
    max_fault_frac: float = Field(default=0.05, ge=0, le=1)
    prompt: PromptSection = PromptSection()
    seed: Seed = 0


class EndModelSection(Section):
    """The classifier on the vectors."""

    kind: Literal["linear", "mlp", "auto"] = "linear"
    """mlp has a small hidden layer beside the linear head; auto decides by people's labels where there are 60."""
    seed: Seed = 0
    self_training: bool = False
    """Learn from labels that a classifier on vectors and one on words agree on; it helps where votes cover little."""
    calibrate: bool = False
    """Make probabilities as sure as answers are right, by people's labels where there are 60; no answer changes."""
    balanced: bool = False
    """Every class weighs the same in what is learned from: finds more of rare classes, for F1 rather than accuracy."""


class ValueSection(Section):
    """How the worth of a label is estimated."""

    neighbors: int = Field(default=20, ge=1)


class SelectSection(Section):
    """How many labels people are asked for."""

    strategy: str = "value"
    batch: int = Field(default=32, ge=1)
    budget: int = Field(default=128, ge=0)
    refill_below: int = Field(default=0, ge=0)
    explore: float = Field(default=0.0, ge=0, le=1)
    """Share of what is selected that is drawn at random, for figures that selection does not bias."""
    most_per_class: float = Field(default=1.0, gt=0, le=1)
    """Largest share of a batch that the end model may think of one class."""
    slice_by: str = ""
    """Metadata key that divides the items into slices."""
    most_per_slice: float = Field(default=1.0, gt=0, le=1)
    cost: Literal["label", "seconds"] = "label"
    """What a label is taken to cost: all the same, or the seconds that an answer is expected to take."""
    seed: Seed = 0

    @model_validator(mode="after")
    def _slices_have_a_limit(self) -> "SelectSection":
        limited = "most_per_slice" in self.model_fields_set if self.slice_by else self.most_per_slice < 1
        if bool(self.slice_by) != limited:
            raise ValueError("slice_by and most_per_slice belong together: set both or neither")
        return self


class AnnotateSection(Section):
    """Where people answer."""

    service: Literal["auto", "folder", "label-studio"] = "auto"
    folder: str = "tasks"
    show: tuple[str, ...] = ()
    """Metadata keys shown side by side in place of the text; two make a pair."""
    image: str = ""
    """Metadata key with the path of an image to show above the text."""
    image_prefix: str = ""
    """Address that every image's path is put behind."""
    gold: str | None = None
    """Answers (id or text, and label) for the simulated annotator; only `--annotator simulated` opens it."""
    seed: Seed = 0
    suggest: bool = True
    """Show people what the end model and the functions say; else they answer by the text alone."""
    annotators_per_task: int = Field(default=1, ge=1)
    """People who answer each task."""
    reviewers: tuple[str, ...] = ()
    """Annotators whose answer is an item's label, whatever others say."""
    second_opinion: float = Field(default=0.1, ge=0, le=1)
    """Share of the label budget for asking again where people disagree."""
    second_look: float = Field(default=0.0, ge=0, le=1)
    """Share of the label budget for asking again about labels that are probably wrong, each at most once."""

    @field_validator("reviewers")
    @classmethod
    def _somebody(cls, reviewers: tuple[str, ...]) -> tuple[str, ...]:
        if any(name.strip() in NAMELESS for name in reviewers):
            raise ValueError("name annotators as the view annotators does; '' and 'unknown' may be anybody")
        if repeated := sorted(name for name, times in Counter(reviewers).items() if times > 1):
            raise ValueError(f"named twice: {', '.join(repeated)}")
        return reviewers


class EvaluateSection(Section):
    """Scoring on the test split, where its labels are known."""

    gold: str | None = None
    split: Literal["test", "valid"] = "test"
    rival_seeds: int = Field(default=5, ge=1)


class ScheduleSection(Section):
    """What `siftline serve` runs and when: a cron line (minute hour day month weekday), or "" for never."""

    timezone: str = "UTC"
    cycle: str = "0 * * * *"
    """The whole pipeline: new records, models, values, the next tasks, answers."""
    collect: str = "*/10 * * * *"
    """New records and new answers only; starts a cycle when enough of them came."""
    refresh: str = ""
    """Models and values from what is in the warehouse; asks nobody for anything."""
    maintenance: str = "30 3 * * *"
    """Compaction of the warehouse, and its old snapshots given up."""
    new_labels: int = Field(default=32, ge=0)
    """Answers that start a cycle before its time; 0 for never."""
    new_records: int = Field(default=1000, ge=0)
    """Records that start a cycle before its time; 0 for never."""
    timeout_min: float = Field(default=360.0, gt=0, le=525_600)
    """A run that takes longer is stopped; a year at most."""
    expire_days: float | None = Field(default=None, ge=0, le=MOST_DAYS)
    """Age at which maintenance gives up snapshots and what superseded models said; left out, all are kept."""

    @field_validator("cycle", "collect", "refresh", "maintenance")
    @classmethod
    def _cron(cls, line: str) -> str:
        return check_cron(line) if line.strip() else ""

    @field_validator("timezone")
    @classmethod
    def _zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(
                "is no time zone; use a name of the IANA list, such as UTC, Europe/Berlin or America/New_York"
            ) from error
        return name


class Settings(BaseSettings):
    """All settings of one project."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, validate_default=True
    )

    project: ProjectSection
    sources: tuple[SourceSection, ...] = Field(min_length=1)
    warehouse: WarehouseSection = WarehouseSection()
    encoder: EncoderSection = EncoderSection()
    engine: EngineSection = EngineSection()
    weak_labels: WeakLabelsSection = WeakLabelsSection()
    end_model: EndModelSection = EndModelSection()
    value: ValueSection = ValueSection()
    select: SelectSection = SelectSection()
    annotate: AnnotateSection = AnnotateSection()
    evaluate: EvaluateSection = EvaluateSection()
    schedule: ScheduleSection = ScheduleSection()

    @field_validator("sources")
    @classmethod
    def _distinct_sources(cls, sources: tuple[SourceSection, ...]) -> tuple[SourceSection, ...]:
        names = [source.name for source in sources]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two sources are named {repeated[0]!r}; rename one of them")
        return sources

    @model_validator(mode="after")
    def _named_keys_are_kept(self) -> "Settings":
        for key in (*self.annotate.show, *filter(None, [self.annotate.image])):
            for source in self.sources:
                if key not in source.metadata:
                    raise ValueError(f"[annotate] shows {key!r}, which source '{source.name}' has not in its metadata")
        if (key := self.select.slice_by) and not any(key in source.metadata for source in self.sources):
            raise ValueError(f"[select] slice_by is {key!r}, which no source has in its metadata")
        return self

    @model_validator(mode="after")
    def _several_classes_are_possible(self) -> "Settings":
        if self.project.multi_label:
            model = self.weak_labels.label_model
            unfit = {
                f"[weak_labels] label_model = {model!r} gives each item one class; use 'anchored' or leave it out": (
                    "label_model" in self.weak_labels.model_fields_set and model != "anchored"
                ),
                "[end_model] self_training = true": self.end_model.self_training,
                "[end_model] balanced = true": self.end_model.balanced,
            }
            if wrong := [words for words, found in unfit.items() if found]:
                raise ValueError("does not go with [project] multi_label = true: " + "; ".join(wrong))
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file, whose values are the init values."""
        assert isinstance(init_settings, InitSettingsSource)
        return env_settings, init_settings
