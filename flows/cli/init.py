"""`siftline init`: a new project folder with commented settings, never over an existing one."""

import csv
import filecmp
import glob
import json
import re
import shlex
import shutil
import tempfile
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

from features.ingest.classes import check_apart
from features.ingest.stage import IngestConfig, ingest
from features.readers.label_file import has_labels
from features.readers.source import MissingColumns, SourceConfig
from flows.cli.terminal.console import out, stage_progress
from flows.report.text import counted
from flows.settings.settings_file import FILE_NAME, settings_of
from warehouse import DataError, Lake, SettingsError
from warehouse.files.atomic_file import replaced_file

_FUNCTIONS = "labeling_functions.py"
NOT_FOR_GIT = """\
# Records, answers and keys, and what siftline run makes of them. siftline.toml and the functions belong into git.
/data/
/lake/
/tasks/
/.siftline/
/prompt_answers.sqlite*
/report.html
/.env
/.envrc
__pycache__/
"""
_NO_TEXT = ("missing_text", "text_not_string")
_ONE = 'label_model = "auto"          # "majority", or its mean with "anchored"; others: "snorkel", "dawid_skene"'
# Of the letters in some records; letters of no script, as the marks over others, are left out.
_NOT_LATIN = r"""
    SELECT sum(length(regexp_replace(text, '[\P{L}\p{Latin}\p{Common}]', '', 'g'))) * 2
         > sum(length(regexp_replace(text, '\P{L}', '', 'g')))
    FROM (SELECT substr(content, 1, 1000) AS text FROM items LIMIT 1000)
"""
_SEVERAL = 'label_model = "anchored"      # the one that knows items with several classes'


def init_project(
    folder: Path,
    *,
    classes: str,
    source: Path | None,
    text: str | None,
    id_field: str | None,
    sample: str | None,
    multi_label: bool = False,
) -> None:
    """Write siftline.toml and labeling_functions.py into a folder and say what to do next.

    Raises:
        SettingsError: there is a project already, or a file that it would write, or the arguments do not fit.
    """
    if folder.exists() and not folder.is_dir():
        raise SettingsError(f"{folder} is a file; nothing was changed. Name a folder for the project.")
    for name in (FILE_NAME, _FUNCTIONS):
        if (folder / name).exists():
            raise SettingsError(f"{folder / name} exists already; nothing was changed. Edit it, or name a new folder.")
    if sample is not None and multi_label:
        raise SettingsError(f"Each item of the sample '{sample}' has one class; leave out --multi-label, or --sample.")
    own = {"--source": source, "--text": text, "--id": id_field, "--classes": classes}
    if sample is not None and (given := [option for option, value in own.items() if value]):
        raise SettingsError(
            f"The sample '{sample}' has records and classes of its own; leave out {' and '.join(given)}, or --sample."
        )
    text = text or "text"
    names = _class_names(classes)
    gold, path = None, "data/records.jsonl"
    if sample is None and (len(names) < 2 or len(set(names)) < len(names)):
        raise SettingsError(f"Name at least two classes, each once: --classes spam,ham (found {classes!r})")
    check_apart(names)
    if sample is not None:
        from features.ingest.samples import get_sample

        _check_sample_is_new(folder / "data")
        fetched = get_sample(sample, folder / "data")
        names, path, text, id_field, gold = (
            list(fetched.classes),
            "data/items.parquet",
            "text",
            "id",
            "data/gold.parquet",
        )
    elif source is not None:
        _check_source(source, text=text, id_field=id_field, classes=names)
        path = f"data/{source.name}"
        if (folder / path).exists() and not filecmp.cmp(source, folder / path, shallow=False):
            raise SettingsError(
                f"{folder / path} exists already and holds something else than {source}; nothing was changed. Move it "
                "away, or name a new folder."
            )
    template = files("flows.cli").joinpath("siftline.toml").read_text("utf-8")
    filled = _filled(
        template,
        NAME=json.dumps(_project_name(folder), ensure_ascii=False),
        CLASSES=json.dumps(names, ensure_ascii=False),
        PATH=json.dumps(path, ensure_ascii=False),
        TEXT=json.dumps(text, ensure_ascii=False),
        ID=f"id = {json.dumps(id_field, ensure_ascii=False)}" if id_field else '# id = "id"',
        MULTI="multi_label = true            " if multi_label else "# multi_label = false         ",
        MODEL=_SEVERAL if multi_label else _ONE,
        SPLIT='split = "split"' if sample else '# split = "split"',
        GOLD=f'gold = "{gold}"' if gold else '# gold = "data/gold.parquet"',
    )
    functions = files("flows.cli").joinpath("labeling_functions.py.txt").read_text("utf-8")
    if multi_label:
        functions = functions.replace(
            "for a class or abstains.", "for one class that an item has, or abstains; write some for each class."
        )
    first, second, *_ = (json.dumps(name, ensure_ascii=False) for name in names)
    functions = _filled(functions, FIRST=first, SECOND=second)
    settings_of(filled, folder / FILE_NAME)
    (folder / "data" if source else folder).mkdir(parents=True, exist_ok=True)
    if source is not None and not (folder / path).exists():
        with replaced_file(folder / path) as copy:  # its owner's only, as all that holds records
            shutil.copyfile(source, copy)
    (folder / _FUNCTIONS).write_text(functions, "utf-8")
    (folder / FILE_NAME).write_text(filled, "utf-8")
    lacking = _tell_git(folder / ".gitignore")
    several = "; each item may have several of them, or none" if multi_label else ""
    shown = ", ".join(repr(name) for name in names)
    out.print(f"Project made in {folder} with {len(names)} classes: {shown}{several}")
    if lacking:
        out.print(f"{folder / '.gitignore'} was there and stays. Add to it, or git takes records and keys:")
        out.print("\n".join(f"   {line}" for line in lacking))
    if sample is None and source is None:
        out.print(f'0. Put your records into {folder / path}, one {{"{text}": ...}} a line,')
        out.print(f"   or name your file in [[sources]] of {folder / FILE_NAME}")
    out.print(f"1. Look at {folder / FILE_NAME}")
    for_each = " for each class" if multi_label else ""
    out.print(f"2. Write labeling functions{for_each} in {folder / _FUNCTIONS}")
    out.print(f"   and try them: siftline lf preview --project {shlex.quote(str(folder))}")
    if source is not None and has_labels(folder / path, texts=(text,)):
        own = f"{shlex.quote(str(folder / path))} --project {shlex.quote(str(folder))}"
        out.print(f"   If its column 'label' is what people said: siftline import {own}")
    out.print(f"3. siftline run --project {shlex.quote(str(folder))}")


def _filled(template: str, **words: str) -> str:
    """A template with each `@NAME@` replaced in one pass: what is put in may hold such marks of its own."""
    return re.sub("@([A-Z]+)@", lambda mark: words[mark[1]], template)


def _tell_git(file: Path) -> list[str]:
    """Say in a new `.gitignore` what git leaves out; returns the lines that one of somebody's own lacks."""
    try:
        with file.open("x", encoding="utf-8") as ignored:
            ignored.write(NOT_FOR_GIT)
    except FileExistsError:
        theirs: set[str] = set()
        with suppress(OSError):
            theirs = {line.strip().strip("/") for line in file.read_text("utf-8", "replace").splitlines()}
        return [line for line in NOT_FOR_GIT.splitlines() if line.startswith("/") and line.strip("/") not in theirs]
    return []


def _project_name(folder: Path) -> str:
    """The folder's name, in the 3 to 50 letters that Label Studio takes: it stays once people were asked."""
    name = folder.absolute().name
    return (name if len(name) >= 3 else f"{name}-project")[:50].strip()


def _class_names(classes: str) -> list[str]:
    try:
        names = next(csv.reader([classes], skipinitialspace=True, strict=True), [])
    except csv.Error as error:
        raise SettingsError(
            f"--classes {classes!r} cannot be read ({error}). Separate names by commas, and put one that holds a comma "
            "in double quotes: --classes '\"new, unread\",old'"
        ) from error
    return [name.strip() for name in names if name.strip()]


def _check_sample_is_new(data: Path) -> None:
    """Refuse a folder with files of the sample's names that are no earlier sample's."""
    there = [data / name for name in ("items.parquet", "gold.parquet") if (data / name).exists()]
    if there and not (data / "manifest.json").exists():
        raise SettingsError(f"{there[0]} exists already; nothing was changed. Move it away, or name a new folder.")


def _check_source(source: Path, *, text: str, id_field: str | None, classes: list[str]) -> None:
    """Read the file once as `siftline run` would and say what is in it, before anything is written.

    Raises:
        SettingsError: the file or a column does not exist.
        DataError: not one record can be read.
    """
    if not source.is_file():
        if source.is_dir() or glob.has_magic(str(source)):
            raise SettingsError(
                f"--source names one file, and {source} is none. For several files leave --source out, put them below "
                '`data`, and name them in siftline.toml: path = "data/*.csv"; nothing was written.'
            )
        raise SettingsError(f"--source names {source}, which does not exist.")
    config = IngestConfig(
        root=source.absolute().parent,
        classes=tuple(classes),
        sources=(SourceConfig(name="records", path=source.name, text=text, id=id_field),),
    )
    with tempfile.TemporaryDirectory() as folder, Lake(Path(folder) / "lake") as lake:
        try:
            with stage_progress() as progress:  # half a minute for a million records
                counts = ingest(lake, config, progress.of("ingest")).detail
        except MissingColumns as error:
            raise SettingsError(
                f"{source} has no column {error.missing}. It has: {error.found}. Name yours: --text COLUMN (and --id "
                "COLUMN); nothing was written."
            ) from error
        with lake.read() as reader:
            reasons = reader.rows(
                "SELECT reason, count(*), arg_min(detail, position), min(position) FROM quarantine GROUP BY 1 "
                "ORDER BY 2 DESC, 1"
            )
            named = reader.scalar("SELECT count(*) FROM items WHERE item_id <> content_hash")
            foreign = reader.scalar(_NOT_LATIN)
    why = ", ".join(f"{count} {reason}" for reason, count, *_ in reasons)
    if not counts.get("stored"):
        first = f" The first: {reasons[0][2]}." if reasons else ""
        way = _way_to_text(text, reasons[0][2]) if reasons and reasons[0][0] in _NO_TEXT else ""
        raise DataError(
            f"Not one record of {source} can be read ({why or 'the file has none'}); nothing was written.{first}{way}"
        )
    if id_field and not named:
        nested = _way_out_of_an_object("id", id_field) if "." in id_field else ""
        raise SettingsError(
            f"No record of {source} has an id at {id_field!r}; nothing was written. Name yours: --id NAME, or leave it "
            f"out: the text is then the id.{nested}"
        )
    if twice := counts["duplicate"]:
        why = ", ".join(filter(None, [why, f"{twice} duplicate"]))
    out.print(f"{counted(counts['stored'], 'record')} can be read" + (f"; left out: {why}" if why else ""))
    if foreign:
        out.print(
            "   Most of their letters are not Latin; the encoders of Siftline learned from English, see [encoder]"
        )
    for reason, _, detail, position in reasons:
        where = f", {'row' if source.suffix == '.parquet' else 'line'} {position}" if position else ""
        out.print(f"   first {reason}{where}: {detail}")
    if any(reason == "duplicate_id_conflict" for reason, *_ in reasons):
        out.print(
            f"   Where '{id_field}' is not unique, begin anew with another --id, or without: the text is then the id"
        )


def _way_to_text(text: str, detail: str) -> str:
    """What to do where no record has a text of that name; a text inside an object has to come out of it."""
    inner = text if "." in text else f"{text}.NAME" if "is an object" in detail else None
    nested = _way_out_of_an_object("text", inner) if inner else ""
    return f" Name the field with the text: --text NAME.{nested}"


def _way_out_of_an_object(name: str, inner: str) -> str:
    return f" One inside an object comes out by jq -c '.{name} = .{inner}' FILE > data.jsonl"
