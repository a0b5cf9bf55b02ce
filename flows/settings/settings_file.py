"""`siftline.toml` read and checked: from a file to `Settings`, or to words that name every wrong value."""

import os
import shlex
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_settings import SettingsError as VariableError

from flows.settings.settings import ADDRESS, PREFIX, Settings
from warehouse import Location, SettingsError
from warehouse.text import perhaps_meant

FILE_NAME = "siftline.toml"
_KINDS: dict[Any, tuple[str, tuple[type, ...]]] = {
    bool: ("true or false", (bool,)),
    int: ("a whole number", (int,)),
    float: ("a number", (int, float)),
}
"""What must stand in the file. Pydantic takes other kinds too: from the environment, where all is text, it must."""
_GONE: dict[tuple[int | str, ...], str] = {
    ("value", "seed"): "it never did anything, so it is no setting any more; take it out"
}
"""What older files may have."""


def load_settings(root: Path) -> Settings:
    """Read and check `siftline.toml` of a project folder.

    Args:
        root: project folder.

    Raises:
        SettingsError: the file is missing, is not TOML, or a value is wrong; every wrong value is named.
    """
    path = root / FILE_NAME
    if root.is_file():
        raise SettingsError(
            f"{root} is a file; a project is named by its folder: --project {shlex.quote(str(root.parent))}"
        )
    if not path.is_file():
        raise SettingsError(
            f"There is no {FILE_NAME} in {root.absolute()}. Make one: siftline init my-project --source FILE --text "
            "COLUMN --classes A,B; or name one with --project."
        )
    try:
        text = path.read_text("utf-8-sig")  # editors on Windows begin a file with a mark of the encoding
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is not valid TOML: {error}") from error
    return settings_of(text, path)


def settings_of(text: str, path: Path) -> Settings:
    """Check settings that stand, or will stand, in a file.

    Args:
        text: what is in it, TOML.
        path: the file, for messages.

    Raises:
        SettingsError: it is not TOML, or a value is wrong; every wrong value is named.
    """
    try:
        values: dict[str, Any] = tomllib.loads(text)
    except RecursionError as error:
        raise SettingsError(f"{path} is not valid TOML: it is nested too deep") from error
    except ValueError as error:  # a number of thousands of digits is no TOMLDecodeError
        raise SettingsError(f"{path} is not valid TOML: {error}") from error
    _check_variables()
    try:
        settings = Settings(**values)
    except VariableError as error:
        raise SettingsError(f"An environment variable that begins with SIFTLINE_ cannot be read: {error}") from error
    except ValidationError as error:
        variables = [_variable_of(problem["loc"]) for problem in error.errors()]
        where = "The environment" if all(variables) else path
        raise SettingsError(f"{where} has wrong settings:\n" + "\n".join(_lines(error))) from error
    if mistaken := list(_of_another_kind(values, settings)):
        raise SettingsError(f"{path} has wrong settings:\n" + "\n".join(mistaken))
    return settings


def warehouse_of(root: Path) -> Location:
    """Where the warehouse of a project folder is.

    A question needs no more of a project than this; `Project` brings what works on it, and torch with it.

    Raises:
        SettingsError: as `load_settings`.
    """
    return load_settings(root).warehouse.below(root)


def _of_another_kind(given: Any, taken: Any, place: str = "") -> Iterator[str]:
    """A line for each value that pydantic took for one of another kind, such as true for 1 or "32" for 32."""
    if isinstance(taken, BaseModel) and isinstance(given, dict):
        for name, value in given.items():
            yield from _of_another_kind(value, getattr(taken, name, None), f"{place}.{name}".lstrip("."))
    elif isinstance(taken, tuple) and isinstance(given, list):
        for number, pair in enumerate(zip(given, taken, strict=False)):  # the environment may name more or fewer
            yield from _of_another_kind(*pair, f"{place}.{number}")
    elif type(taken) in _KINDS:
        kind, types = _KINDS[type(taken)]
        if type(given) not in types:
            yield f"  {place}: must be {kind} (found {given!r})"


def _check_variables() -> None:
    """Refuse a variable for a section that does not exist, or with too few underscores, which would change nothing."""
    places = [f"{table}.{setting}" for table, model in _tables(Settings) if table for setting in model.model_fields]
    meant = {PREFIX + place.replace(".", "_").upper(): PREFIX + place.replace(".", "__").upper() for place in places}
    for name in os.environ:
        if name.upper() in meant:
            raise SettingsError(
                f"The environment variable {name} changes nothing; it is {meant[name.upper()]}, with two underscores."
            )
        section, nested, _ = name.upper().removeprefix(PREFIX).partition("__")
        if name.upper().startswith(PREFIX) and nested and section.lower() not in Settings.model_fields:
            raise SettingsError(
                f"The environment variable {name} names no section of {FILE_NAME}; there are: "
                f"{', '.join(Settings.model_fields)}."
            )


def _variable_of(place: Sequence[int | str]) -> str:
    """The environment variable that a setting comes from; empty for none."""
    setting = PREFIX + "__".join(str(part) for part in place).upper()
    found = (name for name in os.environ if name.upper().startswith(PREFIX))
    return next((name for name in found if f"{setting}__".startswith(f"{name.upper()}__")), "")


def _meant(place: Sequence[int | str]) -> str:
    """The table that a setting belongs under, or the setting that it was perhaps meant as; empty for neither."""
    name, tables = str(place[-1]), dict(_tables(Settings))
    here = ".".join(part for part in place[:-1] if isinstance(part, str))
    if homes := [table for table, model in tables.items() if table and name in model.model_fields]:
        listed = " or ".join("[[sources]]" if table == "sources" else f"[{table}]" for table in homes)
        return f"; it belongs under {listed}, a line that may still begin with #"
    return perhaps_meant(name, tables[here].model_fields)


def _tables(model: Any, table: str = "") -> Iterator[tuple[str, Any]]:
    """The tables of a settings file and what each of them may hold, by name; the file as a whole has none."""
    yield table, model
    for name, field in model.model_fields.items():
        for kind in (field.annotation, *get_args(field.annotation)):
            if hasattr(kind, "model_fields"):
                yield from _tables(kind, f"{table}.{name}".lstrip("."))


def _lines(error: ValidationError) -> list[str]:
    lines: list[str] = []
    problems = error.errors()
    for problem in problems:
        place = problem["loc"]
        if problem["type"] == "too_short" and any(o["loc"][: len(place)] == place != o["loc"] for o in problems):
            continue  # a list is too short for pydantic where one of its members is wrong
        where = ".".join(str(part) for part in problem["loc"]) or "(file)"
        if variable := _variable_of(problem["loc"]):
            where = f"{where} ({variable})"
        if place in _GONE:
            lines.append(f"  {where}: {_GONE[place]}")
        elif problem["type"] == "extra_forbidden":
            lines.append(f"  {where}: unknown setting{_meant(problem['loc'])}")
        elif problem["type"] == "missing":
            lines.append(f"  {where}: missing")
        elif problem["type"] == "model_type":  # what was found may be an address with a password
            table = ".".join(part for part in place if isinstance(part, str))
            head = f"[{table}]" if table == ".".join(map(str, place)) else f"[[{table}]]"
            lines.append(f"  {where}: must be a table of settings: {head} and below it a line for each")
        else:
            message = problem["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list in [ ]")
            told = bool(problem["loc"]) and problem["type"] != ADDRESS
            found = f" (found {problem['input']!r})" if told else ""
            lines.append(f"  {where}: {message}{found}")
    return lines
