"""siftline.toml: everything a person can get wrong is named together with the way out."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest

from active.annotation.task_content import Content
from active.quality.relabeling import AskAgainConfig
from active.queue.outbox import QueueConfig
from active.selection.stage import SelectConfig
from active.value.stage import ValueConfig
from engine.errors import OptionError
from features.readers.source import SourceConfig
from flows.cli.main import run_command
from flows.pipelines.stages import check_ahead
from flows.project.project import Project
from flows.settings.settings import (
    AnnotateSection,
    EndModelSection,
    EvaluateSection,
    PromptSection,
    Section,
    SelectSection,
    Settings,
    SourceSection,
    ValueSection,
    WeakLabelsSection,
)
from flows.settings.settings_file import FILE_NAME, load_settings, warehouse_of
from warehouse import DataError, SettingsError
from weak_labels import label_models
from weak_labels.analysis.gold_file import EvaluateConfig
from weak_labels.applying.stage import VoteConfig
from weak_labels.classifiers import linear
from weak_labels.classifiers.linear import EndModelConfig
from weak_labels.label_models import LabelModelConfig
from weak_labels.prompting.client import PromptConfig

GOOD = """
[project]
name = "p"
classes = ["a", "b"]

[[sources]]
name = "s"
path = "data.csv"
"""
SEVERAL = GOOD.replace("[project]", "[project]\nmulti_label = true")


def write(folder: Path, text: str) -> Path:
    (folder / "siftline.toml").write_text(text, "utf-8")
    return folder


def test_the_least_file_is_enough(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, GOOD))
    assert (settings.select.batch, settings.select.budget) == (32, 128)
    assert settings.sources[0].text == "text"
    assert settings.weak_labels.label_model == "auto"


def test_several_classes_need_no_other_setting(tmp_path: Path) -> None:
    project = Project(write(tmp_path, SEVERAL + "[weak_labels]\nlabel_model = 'anchored'"))
    assert project.label_model_config.kind == "anchored"
    assert Project(write(tmp_path, SEVERAL)).label_model_config.multi_label
    both = Project(write(tmp_path, SEVERAL + "[select]\nmost_per_class = 0.5\n[annotate]\nsecond_look = 0.1"))
    assert (both.select_config.most_per_class, both.ask_again_config.second_look) == (0.5, 0.1)
    with pytest.raises(SettingsError, match="'badge' is not known to work"):
        Project(write(tmp_path, SEVERAL + "[select]\nstrategy = 'badge'"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "project: missing"),
        ("[project", "not valid TOML"),
        (GOOD.replace('classes = ["a", "b"]', "classes = ['a', ' ']"), "project.classes: .*a class has an empty name"),
        (GOOD.replace('classes = ["a", "b"]', "classes = ['a', 'b', 'a']"), "project.classes: .*distinct; repeated: a"),
        (GOOD + "[select]\nbatsh = 3", "select.batsh: unknown setting"),
        (GOOD + "[select]\nbatch = 0", r"select.batch: .*greater than or equal to 1 \(found 0\)"),
        (GOOD + "[select]\nbatch = 'many'", r"select.batch: .*\(found 'many'\)"),
        (GOOD + "[select]\nbatch = '32'", r"select.batch: must be a whole number \(found '32'\)"),
        (GOOD + "[annotate]\nannotators_per_task = true", "annotators_per_task: must be a whole number .*True"),
        (GOOD + "[annotate]\nreviewers = 'ann'", r"annotate.reviewers: .*\(found 'ann'\)"),
        (GOOD + "[annotate]\nreviewers = ['ann', ' ']", "annotate.reviewers: .*may be anybody"),
        (GOOD + "[annotate]\nreviewers = ['ann', 'ben', 'ann']", "annotate.reviewers: .*named twice: ann"),
        (GOOD + "[encoder]\nactive = true", "encoder.active: must be a number .*True"),
        (GOOD + "[end_model]\ncalibrate = 1", "end_model.calibrate: must be true or false .*1"),
        (GOOD + "[weak_labels.prompt]\nlimit = '1'", "weak_labels.prompt.limit: must be a number"),
        (GOOD + "max_record_bytes = 9.0", "sources.0.max_record_bytes: must be a whole number"),
        (GOOD + "[select]\ncost = 'hours'", r"select.cost: .*'label' or 'seconds' \(found 'hours'\)"),
        (GOOD + "[weak_labels]\nlabel_model = 'snorkle'", r"weak_labels.label_model: .*\(found 'snorkle'\)"),
        (GOOD + "[end_model]\nkind = 'forest'", r"end_model.kind: .*'linear', 'mlp' or 'auto' \(found 'forest'\)"),
        (GOOD + "[nonsense]\nx = 1", "nonsense: unknown setting$"),
        (GOOD + "[select]\nbacth = 3", "select.bacth: unknown setting, perhaps meant as 'batch'$"),
        (GOOD + "[selct]\nbatch = 3", "selct: unknown setting, perhaps meant as 'select'$"),
        (GOOD + "[[sources]]\nname = 'b'\npaht = 'b'", "sources.1.paht: unknown setting, perhaps meant as 'path'"),
        (GOOD + "[weak_labels.prompt]\nlimits = 1", "weak_labels.prompt.limits: .*, perhaps meant as 'limit'"),
        (
            GOOD + "[weak_labels]\ncalibrate = true",
            r"weak_labels.calibrate: unknown setting; it belongs under \[end_model\], a line that may still begin",
        ),
        (GOOD + "[weak_labels]\nprice_in = 1", r"it belongs under \[weak_labels.prompt\], a line that"),
        ("calibrate = true\n" + GOOD, r"calibrate: unknown setting; it belongs under \[end_model\]"),
        (GOOD.replace('["a", "b"]', '"a"'), r"project.classes: Input should be a list in \[ \] \(found 'a'\)"),
        (
            SEVERAL + "[weak_labels]\nlabel_model = 'snorkel'",
            "multi_label = true: .*'snorkel' gives each item one class",
        ),
        (SEVERAL + "[end_model]\nself_training = true", "multi_label = true: .end_model. self_training"),
        (SEVERAL + "[end_model]\nbalanced = true", "multi_label = true: .end_model. balanced"),
        (GOOD.replace('"a", "b"', '"a", "a"'), "distinct"),
        (GOOD.replace('"a", "b"', '"a"'), "project.classes"),
        (GOOD.replace('path = "data.csv"', ""), "either path or query"),
        (GOOD + 'query = "select 1"', "either path or query"),
        (GOOD + 'format = "xml"', "format"),
        (GOOD + "[schedule]\ncycle = 'hourly'", r"schedule.cycle: needs five fields .* has 1 \(found 'hourly'\)"),
        (GOOD + "[schedule]\ncycle = '61 * * * *'", "schedule.cycle: '61' is no minute: use 0 to 59"),
        (GOOD + "[schedule]\ncollect = '*/0 * * * *'", r"schedule.collect: '\*/0' is no minute"),
        (GOOD + "[schedule]\ncollect = '*/00 * * * *'", r"schedule.collect: '\*/00' is no minute"),
        (GOOD + "[schedule]\nrefresh = '0 0 * * mon-fri-sat'", "schedule.refresh: .* is no day of the week"),
        (GOOD + "[schedule]\nmaintenance = '0 9-5 * * *'", "schedule.maintenance: .* begins after its end"),
        (GOOD + "[schedule]\ntimezone = 'Berlin'", "schedule.timezone: is no time zone"),
        (GOOD + "[schedule]\ntimeout_min = 0", "schedule.timeout_min"),
        (GOOD + "[select]\nslice_by = 'auhtor'\nmost_per_slice = 0.5", "slice_by is 'auhtor', which no source has"),
        (GOOD + "[select]\nslice_by = 'author'", "select: slice_by and most_per_slice belong together"),
        (GOOD + "[select]\nmost_per_slice = 0.5", "select: slice_by and most_per_slice belong together"),
        (GOOD + "[value]\nseed = 0", "value.seed: it never did anything, so it is no setting any more; take it out"),
        (GOOD + "[weak_labels]\nseed = -1", "weak_labels.seed"),
        (GOOD + "[select]\nseed = 18446744073709551616", "select.seed"),
        (GOOD + "[schedule]\ntimeout_min = inf", "schedule.timeout_min"),
        (GOOD + "[schedule]\nexpire_days = 1e7", "schedule.expire_days: .*less than or equal to 1000000"),
        (GOOD + "[schedule]\ntimeout_min = 1e9", "schedule.timeout_min: .*less than or equal to 525600"),
        (GOOD + "[weak_labels.prompt]\nlimit = nan", "weak_labels.prompt.limit"),
        (GOOD + "[[sources]]\nname = 'twice'\npath = 'a'\n" * 2, "two sources are named 'twice'"),
        (GOOD + "[weak_labels.prompt]\nprice = 1", "weak_labels.prompt.price: unknown setting"),
        (GOOD + "[weak_labels.prompt]\nparallel = 0", "weak_labels.prompt.parallel: .*greater than or equal to 1"),
        (GOOD + "[weak_labels.prompt]\nrun_limit_s = -1", "weak_labels.prompt.run_limit_s"),
        (GOOD + "[weak_labels.prompt]\nlimit = 'much'", "weak_labels.prompt.limit"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        load_settings(write(tmp_path, text))


def test_a_wrong_source_is_one_mistake_and_not_also_none(tmp_path: Path) -> None:
    (tmp_path / "siftline.toml").write_text(
        '[project]\nname = "p"\nclasses = ["a", "b"]\n[[sources]]\nname = "s"\npath = "x.csv"\ntxet = "text"\n'
    )
    with pytest.raises(SettingsError, match="perhaps meant as 'text'") as told:
        load_settings(tmp_path)
    assert "at least 1 item" not in str(told.value)


def test_slices_may_be_of_one_source_and_their_limit_may_be_lifted(tmp_path: Path) -> None:
    with_author = GOOD + "metadata = ['author']\n[[sources]]\nname = 'other'\npath = 'b.csv'\n"
    for limit in (0.5, 1.0):
        text = f"{with_author}[select]\nslice_by = 'author'\nmost_per_slice = {limit}"
        assert load_settings(write(tmp_path, text)).select.most_per_slice == limit


@pytest.mark.parametrize(
    "url", ["http://localhost:81a80", "http://[::1", "localhost:8180", "http://me:canary@host:8180"]
)
def test_an_address_of_the_engine_that_is_none_is_refused_and_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    wanted = "must look like http://host:8180 or https://host/path, without a log-in$"
    with pytest.raises(SettingsError, match=f"engine.url: {wanted}") as refused:
        load_settings(write(tmp_path, f"{GOOD}[engine]\nurl = '{url}'"))
    assert "canary" not in str(refused.value)
    monkeypatch.setenv("SIFTLINE_ENGINE__URL", url)
    with pytest.raises(SettingsError, match=f"engine.url .SIFTLINE_ENGINE__URL.: {wanted}") as refused:
        load_settings(write(tmp_path, GOOD))
    assert "canary" not in str(refused.value)


def test_the_language_model_is_off_until_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIFTLINE_PROMPT_API_KEY", "canary-key")
    assert Project(write(tmp_path, GOOD)).prompt_client is None
    assert Project(write(tmp_path, GOOD + "[weak_labels.prompt]\nlimit = 9.0")).prompt_client is None
    assert not (tmp_path / "prompt_answers.sqlite").exists()


def test_every_setting_of_the_language_model_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIFTLINE_PROMPT_API_KEY", "canary-key")
    given = {
        "url": "http://localhost:9/v1",
        "requests_per_minute": 7.0,
        "limit": 2.5,
        "price_in": 0.15,
        "price_out": 0.6,
        "max_requests": 11,
        "timeout_s": 3.0,
        "run_limit_s": 12.0,
        "attempts": 2,
        "parallel": 2,
        "max_answer_tokens": 300,
    }
    section = "\n".join(f"{name} = {value!r}" for name, value in given.items())
    client = Project(write(tmp_path, GOOD + f"[weak_labels.prompt]\n{section}")).prompt_client
    assert client is not None
    with client:
        kept = {"cache": tmp_path / "prompt_answers.sqlite", "api_key": "canary-key"}
        assert dataclasses.asdict(client.config) == given | kept


def test_every_setting_reaches_its_stage(tmp_path: Path) -> None:
    """None of these values is the one that is assumed, so one that is read and not passed on would be missed."""
    given: dict[str, dict[str, Any]] = {
        "encoder": {"name": "routed", "active": 0.5, "max_tokens": 64, "precision": "int8", "stored": "float16"},
        "weak_labels": {"label_model": "anchored", "learn_from_gold": True, "max_fault_frac": 0.5, "seed": 1},
        "end_model": {"kind": "mlp", "seed": 2, "self_training": True, "calibrate": True, "balanced": True},
        "value": {"neighbors": 7},
        "select": {"strategy": "value", "batch": 4, "budget": 50, "refill_below": 5, "explore": 0.25, "seed": 4}
        | {"most_per_class": 0.5, "slice_by": "m", "most_per_slice": 0.75, "cost": "seconds"},
        "annotate": {"show": ["m"], "image": "m", "image_prefix": "https://x.org/", "annotators_per_task": 2}
        | {"folder": "asked", "second_opinion": 0.5, "second_look": 0.25, "suggest": False},
        "evaluate": {"gold": "gold.csv", "split": "valid", "rival_seeds": 2},
    }
    told = "".join(
        f"[{name}]\n" + "".join(f"{setting} = {json.dumps(value)}\n" for setting, value in section.items())
        for name, section in given.items()
    )
    project = Project(write(tmp_path, f"{GOOD}metadata = ['m']\nid = 'key'\ntext = 'body'\n{told}"))
    assert re.fullmatch(r"routed0\.5-int8-64-\w+-float16", project.encoder.encoder_id)
    weak, queue, again = project.label_model_config, project.queue_config, project.ask_again_config
    assert (weak.kind, weak.learn_from_gold, weak.seed) == ("anchored", True, 1)
    assert project.vote_config.max_fault_frac == 0.5
    assert given["end_model"].items() <= dataclasses.asdict(project.end_model_config).items()
    assert dataclasses.asdict(project.value_config) == given["value"]
    assert dataclasses.asdict(project.select_config) == given["select"] | {"project": "p", "neighbors": 7}
    content = queue.content
    assert (content.show, content.image, content.image_prefix) == (("m",), "m", "https://x.org/")
    assert not queue.suggest
    assert (queue.annotators_per_task, again.budget, again.second_opinion, again.second_look) == (2, 50, 0.5, 0.25)
    assert project.folder.path == tmp_path / "asked"
    scored = project.evaluate_config
    assert scored is not None
    assert (scored.gold, scored.split, scored.rival_seeds) == (tmp_path / "gold.csv", "valid", 2)
    assert (scored.ids, scored.texts) == (("key",), ("body",))


def test_a_setting_left_out_is_what_its_stage_assumes() -> None:
    """Both tell their defaults: one for a file, the other for who calls a package."""
    classes = ("a", "b")
    annotate, weak = AnnotateSection(), WeakLabelsSection()
    pairs: list[tuple[Section, Any]] = [
        (SourceSection(name="s", path="p"), SourceConfig(name="s", path="p")),
        (weak, VoteConfig(classes=classes, encoder_id="e")),
        (weak, LabelModelConfig(classes=classes)),
        (weak.prompt, PromptConfig(url="http://localhost:9/v1", cache=Path("c"))),
        (EndModelSection(), EndModelConfig(classes=classes, encoder_id="e")),
        (ValueSection(), ValueConfig()),
        (SelectSection(), SelectConfig(project="p", neighbors=ValueSection().neighbors)),
        (annotate, QueueConfig(project="p", classes=classes)),
        (annotate, Content()),
        (annotate, AskAgainConfig(project="p", budget=1)),
        (EvaluateSection(gold="g"), EvaluateConfig(gold=Path("g"), classes=classes)),
    ]
    for section, config in pairs:
        told, assumed = section.model_dump(), dataclasses.asdict(config)
        shared = (told.keys() & assumed.keys()) - {"url", "gold"}
        assert shared, f"{section!r} and {config!r} have nothing in common"
        assert {name: told[name] for name in shared} == {name: assumed[name] for name in shared}
    assert SelectConfig(project="p").neighbors == ValueConfig().neighbors
    assert LabelModelConfig(classes=classes).kind == weak.label_model


def test_a_folder_without_a_project_names_init(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=f"in {re.escape(str(tmp_path))}. Make one: siftline init"):
        load_settings(tmp_path)


def test_what_init_writes_names_every_setting_and_all_it_shows_is_taken(tmp_path: Path) -> None:
    assert run_command(["init", str(tmp_path / "p"), "--classes", "a,b"]) == 0
    shown = (tmp_path / "p" / FILE_NAME).read_text("utf-8")
    shown = re.sub(r"^# (?=\[|\w+ = )", "", shown, flags=re.MULTILINE)
    sections: dict[str, type[Section]] = {
        name: field.annotation
        for name, field in Settings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    }
    assert len(sections) == len(Settings.model_fields) - 1
    for name, section in {**sections, "[sources]": SourceSection, "weak_labels.prompt": PromptSection}.items():
        block = shown.split(f"\n[{name}]", 1)[1].split("\n[", 1)[0]
        for setting in set(section.model_fields) - {"query", "prompt"}:
            assert re.search(rf"^{setting} = ", block, re.MULTILINE), f"[{name}] {setting}"
    assert load_settings(write(tmp_path, shown)).weak_labels.prompt.parallel == 4


def test_the_kinds_of_models_are_those_that_there_are() -> None:
    for section, field, kinds in (
        (WeakLabelsSection, "label_model", label_models.KINDS),
        (EndModelSection, "kind", linear.KINDS),
    ):
        assert set(get_args(section.model_fields[field].annotation)) == set(kinds)


def test_the_environment_overrides_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIFTLINE_SELECT__BATCH", "7")
    settings = load_settings(write(tmp_path, GOOD + "[select]\nbatch = 3\nbudget = 9"))
    assert (settings.select.batch, settings.select.budget) == (7, 9)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (
            "SIFTLINE_SELECT__BATCH",
            "many",
            "The environment has wrong .*\n  select.batch .SIFTLINE_SELECT__BATCH",
        ),
        ("siftline_select__bathc", "7", "select.bathc .siftline_select__bathc.: unknown setting"),
        ("SIFTLINE_WEAK_LABELS_PROMPT_URL", "x", "it is SIFTLINE_WEAK_LABELS__PROMPT__URL, with two underscores"),
        ("SIFTLINE_SELCT__BATCH", "7", "SIFTLINE_SELCT__BATCH names no section .* there are: project, sources"),
    ],
)
def test_a_wrong_variable_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=words):
        load_settings(write(tmp_path, GOOD))


def test_the_mark_that_windows_puts_before_a_text_is_read(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text(GOOD, "utf-8-sig")
    assert load_settings(tmp_path).project.classes


@pytest.mark.parametrize("name", ["engine", "warehouse"])
def test_a_value_in_the_place_of_a_section_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with pytest.raises(SettingsError, match=rf"{name}: must be a table of settings: \[{name}\]") as refused:
        load_settings(write(tmp_path, f"{name} = 'http://me:canary@host'\n{GOOD}"))
    assert "canary" not in str(refused.value)
    monkeypatch.setenv(f"SIFTLINE_{name.upper()}", '"http://me:canary@host"')
    with pytest.raises(SettingsError, match=rf"{name} .SIFTLINE_{name.upper()}.: must be a table") as refused:
        load_settings(write(tmp_path, GOOD))
    assert "canary" not in str(refused.value)


def test_a_file_in_the_place_of_a_source_is_told_what_a_source_is(tmp_path: Path) -> None:
    text = GOOD.partition("[[sources]]")[0]
    with pytest.raises(SettingsError, match=r"sources\.0: must be a table of settings: \[\[sources\]\]"):
        load_settings(write(tmp_path, f"sources = ['records.csv']\n{text}"))


def test_an_unknown_strategy_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="valeu"):
        Project(write(tmp_path, GOOD + "[select]\nstrategy = 'valeu'"))


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("[annotate]\nshow = ['m', 'm', 'm', 'm', 'm']", "show names 5 keys"),
        ("[annotate]\nimage = 'm'", "image and image_prefix belong together"),
        ("[[sources]]\nname = ' '\npath = 'b'\nmetadata = ['m']", "A source has an empty name"),
    ],
)
def test_what_a_late_stage_refuses_is_refused_before_anything_runs(tmp_path: Path, section: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        Project(write(tmp_path, f"{GOOD}metadata = ['m']\n{section}"))


FUNCTIONS = "from weak_labels import keywords, prompt\ngood = keywords('a', ['good'])\n"
ASKING = FUNCTIONS + "asked = prompt('Is it b?', {'yes': 'b', 'no': None}, model='m')\n"


@pytest.mark.parametrize(
    ("section", "functions", "words"),
    [
        ("", None, "no file of labeling functions at"),
        ("", "from weak_labels import keywords\nbad = keywords('c', ['good'])\n", "'c'"),
        ("", ASKING, "'asked' asks a language model, but none is configured"),
        ("[weak_labels.prompt]\nurl = 'localhost'", ASKING, "prompt url must look like"),
        ("[evaluate]\ngold = 'gold.csv'", FUNCTIONS, r"gold file .*gold\.csv is not there"),
        ("[evaluate]\ngold = 'other.csv'", FUNCTIONS, "a label that is no class: 'A', perhaps meant as 'a'.*are: a, b"),
        ("[[sources]]\nname = 't'\npath = 'daat.csv'", FUNCTIONS, "'t': .*daat.csv does not exist"),
        ("[encoder]\nname = 'defualt'", FUNCTIONS, "no encoder 'defualt'"),
        ("[encoder]\nactive = 0.3", FUNCTIONS, "'default' is dense and has no budget"),
    ],
)
def test_files_of_late_stages_are_looked_at_ahead_and_leave_the_project_open(
    tmp_path: Path, section: str, functions: str | None, words: str
) -> None:
    if functions is not None:
        (tmp_path / "labeling_functions.py").write_text(functions, "utf-8")
    (tmp_path / "data.csv").touch()
    (tmp_path / "other.csv").write_text("id,label\n1,b\n2,A\n", "utf-8")
    project = Project(write(tmp_path, GOOD + section))
    with pytest.raises((SettingsError, DataError, OptionError), match=words):
        check_ahead(project)


def test_nothing_is_amiss_where_all_is_there(tmp_path: Path) -> None:
    (tmp_path / "labeling_functions.py").write_text(ASKING, "utf-8")
    (tmp_path / "gold.csv").write_text("id,label\n1,a\n", "utf-8")
    (tmp_path / "data.csv").touch()
    client = "[weak_labels.prompt]\nurl = 'http://localhost:9/v1'\n"
    project = Project(write(tmp_path, GOOD + client + "[evaluate]\ngold = 'gold.csv'"))
    check_ahead(project)
    assert project.prompt_client is not None
    project.prompt_client.close()


@pytest.mark.parametrize("line", ["*/10 * * * *", "0 9-17 * * mon-fri", "15,45 0 1 jan,jul *", "30 3 * * 7", ""])
def test_cron_lines_that_prefect_takes_too(tmp_path: Path, line: str) -> None:
    assert load_settings(write(tmp_path, GOOD + f"[schedule]\ncycle = '{line}'")).schedule.cycle == line
    if line:
        from prefect.client.schemas.schedules import CronSchedule

        assert CronSchedule(cron=line).cron == line


def test_a_day_that_no_month_has_is_no_cron_line(tmp_path: Path) -> None:
    never = ("0 0 31 2 *", "0 0 30 feb *", "0 0 31 4,6,9,11 *", "0 0 31,30 2 *", "0 0 31 2 mon", "0 0 31 4 1-5")
    for line in (*never, "0 0 30-31 2 *", "0 0 31/1 4 *", "0 0 31 4-9/5 *", "0 0 31 feb-feb *"):
        with pytest.raises(SettingsError, match="it would never run"):
            load_settings(write(tmp_path, GOOD + f"[schedule]\ncycle = '{line}'"))
    days = ("0 0 29 2 *", "0 0 31 * *", "0 0 31 2,3 *", "0 0 29 2 mon", "0 0 30 4-6 *", "0 0 1,31 2 *")
    for line in (*days, "0 0 */31 2 *", "0 0 28-31 2 *", "0 0 31 4-5 *", "0 0 31 feb-apr *", "0 0 31 4/3 *"):
        assert load_settings(write(tmp_path, GOOD + f"[schedule]\ncycle = '{line}'")).schedule.cycle == line


@pytest.mark.parametrize("text", ["x = " + "[" * 100_000, GOOD + "[select]\nbatch = " + "9" * 5000])
def test_a_file_that_pythons_reader_gives_up_on_is_refused_in_words(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError, match=r"siftline.toml is not valid TOML"):
        load_settings(write(tmp_path, text))


@pytest.mark.parametrize(
    "setting",
    [
        "catalog = 'postgresql://me:canary@db/x'",
        "data = 's3://me:canary@b/x'",
        "data = 'http://me:canary@b'",
        "data = 's3://b/x?s3_secret_access_key=canary'",
    ],
)
def test_a_secret_in_a_setting_is_refused_and_not_repeated(tmp_path: Path, setting: str) -> None:
    settings = load_settings(write(tmp_path, GOOD + f"[warehouse]\n{setting}"))
    with pytest.raises(SettingsError, match="without") as told:
        settings.warehouse.below(tmp_path)
    assert "canary" not in str(told.value)


@pytest.mark.parametrize("path", [".", "", "..", "a/.."])
def test_warehouse_and_tasks_have_folders_of_their_own(tmp_path: Path, path: str) -> None:
    write(tmp_path, f'{GOOD}[warehouse]\npath = "{path}"')
    with pytest.raises(SettingsError, match=r"path is .* the project's folder or one around it"):
        warehouse_of(tmp_path)
    write(tmp_path, f'{GOOD}[annotate]\nfolder = "{path}"')
    with pytest.raises(SettingsError, match=r"folder is .* the project's folder or one around it"):
        Project(tmp_path)


def test_tasks_are_not_where_a_source_has_its_files(tmp_path: Path) -> None:
    source = '[[sources]]\nname = "more"\npath = "data/parts/*.csv"\n'
    for folder in ("data", "data/parts", "x/../data/"):
        write(tmp_path, f'{GOOD}{source}[annotate]\nfolder = "{folder}"')
        with pytest.raises(SettingsError, match=r"where source 'more' has its files. Name a folder of its own"):
            Project(tmp_path)
    write(tmp_path, f'{GOOD}{source}[annotate]\nfolder = "data/tasks"')
    assert Project(tmp_path).folder.path == tmp_path / "data/tasks"
