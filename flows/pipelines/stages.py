"""The stages in their order, each a plain function of an open project, and the loop that runs them in passes.

Nothing here knows Prefect: `flows.pipelines.flows` runs the same loop with every stage as a Prefect task, and tests run
it as it stands.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from active.quality.consensus import consensus
from active.quality.relabeling import ask_again
from active.queue.push import push
from active.queue.service_migration import take_over_planned
from active.selection.stage import select
from active.value.stage import estimate_values
from features.embedding.stage import embed, encode_texts
from features.ingest.stage import ingest
from features.neighbors.faiss_index import build_index
from features.readers.source import find_files
from flows.project.project import Project
from warehouse import Progress, SettingsError, StageResult, Transient, silent
from weak_labels.analysis.evaluate import evaluate, evaluate_rivals
from weak_labels.analysis.gold_file import read_gold_file
from weak_labels.applying.batches import check_services
from weak_labels.applying.stage import vote
from weak_labels.end_model.stage import end_model
from weak_labels.label_models import label_model

StageFunction = Callable[[Project, Progress], StageResult]
RunStage = Callable[[str], StageResult]
"""Runs one stage by name; how (in process, as a Prefect task) is the caller's choice."""


def _ingest(project: Project, progress: Progress) -> StageResult:
    return ingest(project.lake, project.ingest_config, progress)


def _embed(project: Project, progress: Progress) -> StageResult:
    return embed(project.lake, project.encoder, project.embed_config, progress)


def _index(project: Project, progress: Progress) -> StageResult:
    return build_index(project.lake, project.index_config, project.encoder.encoder_id, project.index)


def _vote(project: Project, progress: Progress) -> StageResult:
    client = project.prompt_client
    if client is not None:
        client.begin_run()
    return vote(
        project.lake,
        project.functions,
        project.vote_config,
        encode=partial(encode_texts, project.encoder),
        ask=client.ask if client is not None else None,
        progress=progress,
    )


def _consensus(project: Project, progress: Progress) -> StageResult:
    return consensus(project.lake, project.settings.annotate.reviewers)


def _label_model(project: Project, progress: Progress) -> StageResult:
    return label_model(project.lake, project.label_model_config, progress)


def _end_model(project: Project, progress: Progress) -> StageResult:
    return end_model(project.lake, project.end_model_config, progress)


def _evaluate(project: Project, progress: Progress) -> StageResult:
    if project.evaluate_config is None:
        return StageResult(stage="evaluate", token="", committed=False, detail={"reason": "no [evaluate] gold"})
    return evaluate(project.lake, project.evaluate_config, project.end_model_config, progress)


def _value(project: Project, progress: Progress) -> StageResult:
    return estimate_values(project.lake, project.index(), project.value_config, progress)


def _select(project: Project, progress: Progress) -> StageResult:
    take_over_planned(project.lake, project.settings.project.name)
    return select(project.lake, project.index(), project.select_config)


def _ask_again(project: Project, progress: Progress) -> StageResult:
    return ask_again(project.lake, project.index, project.ask_again_config)


def _push(project: Project, progress: Progress) -> StageResult:
    return push(project.lake, project.service, project.queue_config, progress)


def _annotate(project: Project, progress: Progress) -> StageResult:
    annotator, name = project.simulated_annotator(), project.settings.project.name
    answered = annotator.answer(project.lake, project.service, name)
    counts = {"simulated answers": answered, UNKNOWN: annotator.unknown(project.lake, name)}
    return StageResult(stage="annotate", token="", committed=False, detail=counts)


def _collect(project: Project, progress: Progress) -> StageResult:
    return project.collect()


def _rivals(project: Project, progress: Progress) -> StageResult:
    if project.evaluate_config is None:
        return StageResult(stage="rivals", token="", committed=False, detail={"reason": "no [evaluate] gold"})
    return evaluate_rivals(project.lake, project.evaluate_config, project.end_model_config, progress)


STAGES: Mapping[str, StageFunction] = {
    "ingest": _ingest,
    "embed": _embed,
    "index": _index,
    "vote": _vote,
    "consensus": _consensus,
    "label_model": _label_model,
    "end_model": _end_model,
    "evaluate": _evaluate,
    "value": _value,
    "select": _select,
    "ask_again": _ask_again,
    "push": _push,
    "annotate": _annotate,
    "collect": _collect,
    "rivals": _rivals,
}

UNKNOWN = "without a label to answer with"
"""What the stage `annotate` calls the open tasks of items that the simulated annotator's file lacks."""
GATHER = ("ingest", "collect")
"""Stages that bring in what is new from outside: records and answers."""
REFRESH = ("embed", "index", "vote", "consensus", "label_model", "end_model", "evaluate", "value")
"""Stages that learn from what is in the warehouse, and ask nobody for anything."""
LOOK_S = 10.0
"""So long a run waits for a Label Studio that hangs before it reads the first record."""


def check_ahead(project: Project) -> None:
    """Look at what later stages need besides the settings, before a run works for hours and then stops at one of them.

    Raises:
        SettingsError: a file of a source is not there; the labeling functions do not load, or ask a language model that
            the settings do not name or name wrongly; or the gold file of [evaluate] is not there.
        DataError: the gold file cannot be read, or has labels that are no class.
        EngineError: the encoder is none, or its file or options are wrong.
        ServiceRefused: no task was sent yet, and Label Studio refuses the key or has a project of somebody's own under
            the project's name.
    """
    for source in project.ingest_config.sources:
        if source.path:
            find_files(source, project.root)
    client = project.prompt_client
    asking = [function for function in project.functions if function.kind == "prompt"]
    check_services(asking, None, client.ask if client is not None else None)
    if project.evaluate_config is not None:
        read_gold_file(project.evaluate_config)
    if project.settings.engine.url is None:
        _ = project.encoder
    with suppress(Transient):  # what is away may be back when tasks are sent
        studio = project.label_studio(timeout_s=LOOK_S)
        if studio is not None and project.last_in_folder() is not False:  # else Siftline's tasks are there
            studio.check()


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSummary:
    """What one run did.

    Attributes:
        passes: passes over the stages.
        results: results of all stages in the order they ran.
    """

    passes: int
    results: Sequence[StageResult]

    @property
    def rows_written(self) -> int:
        """Rows added or replaced in all tables."""
        return sum(sum(result.rows_written.values()) for result in self.results)

    def last(self, stage: str) -> StageResult | None:
        """What a stage did when it last ran; None where it did not."""
        return next((result for result in reversed(self.results) if result.stage == stage), None)

    def last_detail(self, stage: str) -> Mapping[str, Any]:
        """What a stage told when it last ran; empty where it did not."""
        result = self.last(stage)
        return {} if result is None else result.detail


def run_passes(run_stage: RunStage, *, simulated: bool, max_passes: int | None = None) -> RunSummary:
    """Run passes over the stages until a pass collects no new answer.

    A pass that brought answers is followed by one that learns from them, so the last pass always ends with models
    that know every answer.

    Args:
        run_stage: runs one stage by name.
        simulated: let the simulated annotator answer after each push.
        max_passes: stop after this many passes even when answers came in; None for no limit.

    Raises:
        SettingsError: no pass is to be made.
    """
    if max_passes is not None and max_passes < 1:
        raise SettingsError(f"max_passes is {max_passes}; give 1 or more, or none for no limit.")
    results: list[StageResult] = []
    passes = 0
    while max_passes is None or passes < max_passes:
        passes += 1
        for name in STAGES:
            if name == "rivals" or (name == "annotate" and not simulated):
                continue
            results.append(run_stage(name))
        if not results[-1].committed:
            break
    results.append(run_stage("rivals"))
    return RunSummary(passes=passes, results=results)


def run_stages(run_stage: RunStage, names: Sequence[str]) -> RunSummary:
    """Run some stages once, in the order given."""
    return RunSummary(passes=1, results=[run_stage(name) for name in names])


def run_stage_in_process(project: Project) -> RunStage:
    """A `RunStage` that calls the stage's function here and now."""

    def run(name: str) -> StageResult:
        return STAGES[name](project, silent)

    return run
