"""The loader of a user's file of labeling functions: it runs the file and names what is wrong with it."""

import ast
import dataclasses
import importlib.util
import sys
import traceback
from collections.abc import Iterator, Sequence, Set
from contextlib import redirect_stdout
from hashlib import sha256
from importlib.machinery import SourceFileLoader
from itertools import islice
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

from warehouse import SettingsError
from weak_labels.functions.data_files import SIFTLINES, another_place, importable, own_modules
from weak_labels.functions.types import LabelingFunction, check_functions, is_function, to_function

_LOOKED_AT = 10_000
"""Entries of a list that are looked at for functions: a longer one holds words, and each process loads the file."""


def load_functions(path: Path | str, classes: Sequence[str]) -> list[LabelingFunction]:
    """The labeling functions of a Python file, in the order of their definition.

    Collected are module variables that hold a `LabelingFunction` or one of Snorkel's, then those in a list named
    `functions` that have no variable of their own. A function without a name takes its variable's.

    Args:
        path: the file; modules beside it can be imported by it.
        classes: class names of the project.

    Raises:
        SettingsError: the file is missing, raises, holds no function or some where nobody reads them, repeats a name or
            a variable, or votes for an unknown class.
    """
    path = Path(path).absolute()
    if not path.is_file():
        raise SettingsError(f"There is no file of labeling functions at {path}. Name one in [weak_labels] functions.")
    with own_modules(path.parent):
        module = _run_file(path)
        found: list[LabelingFunction] = []
        known: set[int] = set()
        listed = getattr(module, "functions", [])
        if isinstance(listed, list | tuple | Set) and all(isinstance(thing, str | int | float) for thing in listed):
            listed = []  # of words or numbers, which the functions may use
        if isinstance(listed, Set | Iterator):  # a set has another order in each process, a generator is used up
            raise SettingsError(f"{path}: 'functions' is a {type(listed).__name__}. Make it a list: functions = [...]")
        unnamed = listed if isinstance(listed, list | tuple) else []
        members = [*vars(module).items(), *(("", thing) for thing in unnamed)]
        for variable, thing in members:
            if id(thing) in known:
                continue
            function = to_function(thing, as_loaded=False)  # processes that load the file anew will call it
            if function is None:
                if not variable:
                    raise SettingsError(_not_one(path, thing))
                continue
            known.add(id(thing))
            name = str(function.name or variable)
            if not name:
                raise SettingsError(
                    f"{path}: a {function.kind} function in the list 'functions' has no name; give it name=."
                )
            found.append(dataclasses.replace(function, name=name, source=path, made_of=()))
    _check_none_lost(path, {variable for variable, thing in vars(module).items() if is_function(thing)})
    _check_none_unread(path, module, known)
    if not found and getattr(module, "functions", None) != []:
        raise SettingsError(
            f"{path} defines no labeling function. Write one, such as: about_sports = keywords('sports', ['match']); "
            "to go without, write: functions = []"
        )
    check_functions(found, classes, where=str(path))
    return found


def _not_one(path: Path, thing: object) -> str:
    what = f"the plain function '{thing.__name__}'" if isinstance(thing, FunctionType) else f"{thing!r:.100}"
    return (
        f"{path}: the list 'functions' holds {what}, which would not vote. Make it a labeling function with "
        "keywords, regex, @vectorized(...) or another builder of weak_labels, or with Snorkel's @labeling_function()."
    )


def _check_none_lost(path: Path, variables: set[str]) -> None:
    """Refuse a variable that is bound to a function after another one, of which nothing would be left.

    An earlier value that the file reads in between, as for the list `functions`, is not lost.
    """
    bound: dict[str, int] = {}
    for statement in ast.parse(path.read_bytes()).body:
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                bound.pop(node.id, None)
        names: list[str] = []
        if isinstance(statement, ast.FunctionDef) and statement.decorator_list:
            names = [statement.name]
        elif isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Call):
            names = [target.id for target in statement.targets if isinstance(target, ast.Name)]
        for name in variables.intersection(names):
            if name in bound:
                raise SettingsError(
                    f"{path}:{statement.lineno}: '{name}' is defined in line {bound[name]} already, and only the last "
                    "one would vote. Rename one of them."
                )
            bound[name] = statement.lineno


def _check_none_unread(path: Path, module: ModuleType, known: set[int]) -> None:
    """Refuse a list, by another name than `functions`, of functions that are nowhere else: they would not vote."""
    for variable, thing in vars(module).items():
        listed = thing if isinstance(thing, list | tuple) else thing.values() if isinstance(thing, dict) else ()
        unread = sum(is_function(one) and id(one) not in known for one in islice(listed, _LOOKED_AT))
        if unread:
            raise SettingsError(
                f"{path}: '{variable}' holds {unread} labeling function{'s' if unread > 1 else ''} that would not "
                "vote. Name each by a variable of its own, or put them into a list named functions."
            )


class _Loader(SourceFileLoader):
    """Compiles the file each time. What Python keeps of it in `__pycache__` is believed by size and second, and a power
    cut may leave a part of it, at which every run would stop.
    """

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def _run_file(path: Path) -> ModuleType:
    name = f"siftline_functions_{sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path, loader=_Loader(name, str(path)))
    assert spec is not None, path
    assert spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # Snorkel's preprocessors copy rows in a way that looks their classes up here
    with importable(path.parent), redirect_stdout(sys.stderr):  # what it prints must not mix with what a command prints
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            del sys.modules[name]
            raise SettingsError(f"{_where(error, path)}: {_in_words(error, path.parent)}") from error
    return module


def _where(error: BaseException, path: Path) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    return f"{path}:{lines[-1]}" if lines else str(path)


def _in_words(error: BaseException, folder: Path) -> str:
    if isinstance(error, SettingsError):
        return str(error)
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg}"
    name = str(error.name).partition(".")[0] if isinstance(error, ImportError) else ""
    if name in SIFTLINES and any((folder / beside).exists() for beside in (name, f"{name}.py")):
        return f"Siftline has a package '{name}' itself, which hides the one beside this file. Rename the latter."
    if isinstance(error, ImportError) and "relative import" in str(error):
        return f"ImportError: {error}. Modules beside this file are imported by their name, without a dot before it."
    return f"{type(error).__name__}: {error}{another_place(error)}"
