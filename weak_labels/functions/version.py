"""A labeling function's version: a hash of its code and of everything simple that the code refers to.

Votes are recomputed only when the version changes, so the hash has to notice a changed keyword list in another line
of the file and must not notice where the file lies or how often it was loaded. It follows names from a function's
source to module constants, helper functions, classes and modules of the user's own code. It stops at installed
libraries, and it cannot see files, environment variables or services that the code reads while it runs, nor modules
that a function imports only then. Handles that cannot be copied (locks, open files, connections) count by their type.
"""

import ast
import contextlib
import copyreg
import functools
import hashlib
import importlib.util
import inspect
import linecache
import logging
import re
import sys
import sysconfig
import textwrap
from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from importlib.machinery import ModuleSpec
from pathlib import Path, PurePath
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, MethodWrapperType, ModuleType
from typing import Any

import numpy as np
import pyarrow as pa

_LIBRARY_FOLDERS = (
    *(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    Path(__file__).resolve().parents[1],
)
# A cache fills while the function runs; scikit-learn's vectorizers keep an address beside their stop words; the module
# of a decorated function is named after its folder; from 3.12 on Python notes type parameters beside a cached function.
_NOT_STATE = ("_cache", "_stop_words_id", "__module__", "__type_params__")
_PLAIN = (str, bytes, int, float, complex, bool, type(None), type(Ellipsis), range, slice)
_CONTENT = (*_PLAIN, Mapping, list, tuple, set, frozenset, re.Pattern, np.ndarray)
"""Whose methods are followed to them; others, such as a generator of random numbers, are not the user's."""


_loaded: dict[int, tuple[ModuleSpec | ModuleType, str]] = {}
"""Text of each module as it was when it was first looked at; a module that is loaded again has another spec, and one
that was not imported has none."""


def fingerprint(*parts: Any, as_loaded: bool = False) -> str:
    """First 16 hexadecimal digits of a sha256 over code and values; equal on every machine for equal code.

    Args:
        parts: functions, classes, modules, constants, containers and plain objects of them.
        as_loaded: this program calls them itself, so that what counts is the code that it has loaded, whatever was
            written into a module's file since; else it is the file.
    """
    hashed = _Hash(as_loaded=as_loaded)
    for part in parts:
        hashed.walk(part)
    return hashed.hexdigest()[:16]


class _Hash:
    """One hash over values and all that they refer to, each once."""

    def __init__(self, *, as_loaded: bool) -> None:
        self._as_loaded = as_loaded
        self._digest = hashlib.sha256()
        self._seen: dict[int, int] = {}
        self._keep_alive: list[Any] = []  # an id is unique only while its object lives
        self._home: Path | None = None  # folder of the last function

    def hexdigest(self) -> str:
        """The hash of what was walked over so far."""
        return self._digest.hexdigest()

    def walk(self, value: Any) -> None:
        """Add a value and what it refers to."""
        if isinstance(value, _PLAIN):
            self._add(f"{type(value).__name__}:{value!r}")
            return
        if id(value) in self._seen:
            self._add(f"again:{self._seen[id(value)]}")
            return
        self._seen[id(value)] = len(self._seen)
        self._keep_alive.append(value)
        if isinstance(value, Mapping):
            self._add(f"mapping:{len(value)}")
            for key, item in value.items():
                self.walk(key)
                self.walk(item)
        elif isinstance(value, list | tuple):
            self._add(f"{type(value).__name__}:{len(value)}")
            for item in value:
                self.walk(item)
        elif isinstance(value, set | frozenset):
            members = [repr(item) if _is_plain(item) else self._digest_of(item) for item in value]
            self._add("set:" + "|".join(sorted(members)))
        elif isinstance(value, KeysView | ValuesView | ItemsView):
            self._add("view:")
            self.walk(list(value))
        elif isinstance(value, PurePath):
            home, path = self._home, value.as_posix()
            if home is not None and value.is_relative_to(home):
                path = f"beside/{value.relative_to(home).as_posix()}"
            self._add(f"path:{path}")
        elif isinstance(value, re.Pattern):
            self._add(f"pattern:{value.pattern!r}:{value.flags}")
        elif isinstance(value, np.ndarray | np.generic):
            array = np.asarray(value)
            self._add(f"array:{array.dtype}:{array.shape}")
            if array.dtype.names:
                fields: Any = array
                self.walk([fields[name] for name in array.dtype.names])  # the bytes between fields are anything
            elif array.dtype == object:
                self.walk(array.tolist())  # the bytes would be addresses
            else:
                self._digest.update(array.tobytes())
        elif (content := _table_or_tensor(value)) is not None:
            self._add(f"content:{type(value).__qualname__}")
            self.walk(content)
        elif isinstance(value, ModuleType):
            self._module(value)
        elif isinstance(value, MethodType):
            self.walk(value.__func__)
            self.walk(value.__self__)
        elif isinstance(value, functools.partial):
            self.walk([value.func, value.args, value.keywords])
        elif isinstance(value, FunctionType):
            self._function(value)
        elif isinstance(value, BuiltinFunctionType | MethodWrapperType):
            self._add(f"builtin:{getattr(value, '__module__', None)}.{value.__qualname__}")
            if isinstance(value.__self__, _CONTENT):
                self.walk(value.__self__)
        elif isinstance(value, logging.Logger):
            self._add(f"logger:{value.name}")  # it knows all other loggers of the process
        elif isinstance(value, property):
            self.walk([value.fget, value.fset, value.fdel])
        elif isinstance(value, classmethod | staticmethod):
            self.walk(value.__func__)
        elif isinstance(value, type):
            self._add(f"class:{value.__module__ if is_library(value) else ''}.{value.__qualname__}")
            if not is_library(value):
                self._class(value)
        else:
            self._object(value)

    def _object(self, value: Any) -> None:
        self.walk(type(value))
        library = is_library(type(value))
        state = getattr(value, "__dict__", None)
        pickled = state is None and library and type(value).__getstate__ is not object.__getstate__
        if pickled:
            state = value.__getstate__()  # compiled parts of a classifier, such as the nodes of a tree
        self.walk({k: v for k, v in state.items() if k not in _NOT_STATE} if isinstance(state, dict) else state)
        if not pickled and not (state and library) and (rest := _beside_dict(value)):
            self.walk(rest)

    def _digest_of(self, member: Any) -> str:
        """Of a member of a set by itself, as the order of members is another one in each process."""
        outer = self._digest, self._seen
        self._digest, self._seen = hashlib.sha256(), dict(self._seen)
        self.walk(member)
        own = self.hexdigest()
        self._digest, self._seen = outer
        return own

    def _class(self, own: type) -> None:
        self._add(source_of(own))
        self.walk([base for base in own.__bases__ if base is not object])
        for name, member in vars(own).items():
            # Other names with two underscores are Python's and libraries' own, and may hold addresses.
            if name not in _NOT_STATE and (isinstance(member, FunctionType) or not name.startswith("__")):
                self._add(f"member:{name}")
                self.walk(member)

    def _function(self, function: FunctionType) -> None:
        if is_library(function):
            self._add(f"library:{function.__globals__.get('__name__')}.{function.__code__.co_qualname}")
            if wrapped := vars(function).get("__wrapped__"):  # a library's decorator around code of the user's
                self.walk(wrapped)
            return
        self._home = Path(function.__code__.co_filename).parent
        self._add(f"function:{source_of(function)}")
        if self._as_loaded and _was_changed(function.__code__):
            self._add(f"loaded:{_byte_code(function.__code__)}")
        self.walk([function.__defaults__, function.__kwdefaults__])
        for cell in function.__closure__ or ():
            try:
                self.walk(cell.cell_contents)
            except ValueError:  # the cell is empty until its name is bound
                self._add("empty cell")
        for name in sorted(_names(function.__code__)):
            if name in function.__globals__:
                self._add(f"global:{name}")
                self.walk(function.__globals__[name])

    def _module(self, module: ModuleType) -> None:
        file = getattr(module, "__file__", None)
        if is_library(module) or not (file or hasattr(module, "__path__")):
            self._add(f"module:{module.__name__}")
            return
        text = _text_of(Path(file)) if file else ""  # a folder of modules without an __init__.py has none
        if self._as_loaded:
            origin = module.__spec__ or module
            _, text = _loaded.setdefault(id(origin), (origin, text))
        self._add(f"module:{module.__name__}:{text}")
        for name in _imported(module, text):
            self.walk(sys.modules[name])

    def _add(self, text: str) -> None:
        self._digest.update(text.encode("utf-8", "surrogatepass") + b"\0")


def is_library(thing: Any) -> bool:
    """Whether a function, class or module comes with Python, an installed package or Siftline itself."""
    if isinstance(thing, FunctionType):  # functools.wraps gives a wrapper the module of what it wraps
        module = sys.modules.get(thing.__globals__.get("__name__", ""))
    else:
        module = thing if isinstance(thing, ModuleType) else inspect.getmodule(thing)
    file = getattr(module, "__file__", None)
    if file is None:  # built in, typed into a notebook, or a folder of modules without an __init__.py
        folders = list(getattr(module, "__path__", []))
        return all(map(_in_library, folders)) if folders else module is not None and module.__name__ != "__main__"
    return _in_library(file)


@functools.cache
def _in_library(file: str) -> bool:
    path = Path(file).resolve()
    return any(path.is_relative_to(folder) for folder in _LIBRARY_FOLDERS)


def _is_plain(value: Any) -> bool:
    return isinstance(value, _PLAIN) or (type(value) is tuple and all(map(_is_plain, value)))


def _table_or_tensor(value: Any) -> Any:
    """What an object of pyarrow, pandas or torch holds, in lists and arrays; None for anything else."""
    if isinstance(value, pa.Array | pa.ChunkedArray):
        return [str(value.type), value.to_pylist()]
    if isinstance(value, pa.Scalar):
        return [str(value.type), value.as_py()]
    if isinstance(value, pa.Table | pa.RecordBatch):
        return [value.column_names, value.columns]
    pandas, torch = sys.modules.get("pandas"), sys.modules.get("torch")
    if pandas is not None and isinstance(value, pandas.Index):
        return [value.names, str(value.dtype), value.to_numpy()]
    if pandas is not None and isinstance(value, pandas.Series):
        return [value.name, str(value.dtype), value.index, value.to_numpy()]
    if pandas is not None and isinstance(value, pandas.DataFrame):
        return [value.index, value.columns, [value.iloc[:, column] for column in range(value.shape[1])]]
    if torch is not None and isinstance(value, torch.Tensor) and not value.is_meta:
        flat = value.detach().cpu().to_dense().resolve_conj().resolve_neg().contiguous().reshape(-1)
        return [str(value.dtype), list(value.shape), flat.view(torch.uint8).numpy()]
    return None


def _beside_dict(value: Any) -> list[Any]:
    """What an object is made of beside its `__dict__`, as `copy` asks for it; empty for nothing and for handles."""
    reduce = copyreg.dispatch_table.get(type(value))
    try:
        made: Any = reduce(value) if reduce else value.__reduce_ex__(4)
    except Exception:  # noqa: BLE001 - each library says with another error that there is nothing to copy
        return []
    if isinstance(made, str):
        return [made]
    parts: Any = (*made, None, None, None)
    maker, args, state, *items = parts[:5]
    by_python = getattr(maker, "__module__", None) == "copyreg"
    if by_python:
        args = args[1:]  # the first is the class
    elif maker is not type(value):
        args = (maker, *args)
    if by_python and isinstance(state, tuple):
        state = state[1]  # of `__slots__`; the first is `__dict__`
    elif getattr(value, "__dict__", None):
        args = state = None  # they say it again
    members = [list(part) for part in items if part is not None]
    return [args, state, *members] if args or state is not None or any(members) else []


def _imported(module: ModuleType, text: str) -> list[str]:
    """Names of the modules of the user's own that a module imports when it is loaded itself."""
    names = {value.__name__ for value in vars(module).values() if isinstance(value, ModuleType)}
    for name in _from_imports(text):
        with contextlib.suppress(ImportError):  # one that failed, in a `try`
            names.add(importlib.util.resolve_name(name, module.__package__))
    return sorted(name for name in names if name in sys.modules and not is_library(sys.modules[name]))


def _text_of(file: Path) -> str:
    """A module's text as Python reads it: by the encoding that it names, and without an editor's mark before it."""
    try:
        return importlib.util.decode_source(file.read_bytes())
    except (SyntaxError, ValueError):  # a compiled module
        return file.read_text("utf-8", "surrogateescape")


def _from_imports(text: str) -> Iterator[str]:
    """What a module takes names from when it is loaded, not inside its functions; with the dots of a relative one."""
    waiting: list[ast.AST] = []
    with contextlib.suppress(SyntaxError, ValueError):  # the file was changed since
        waiting.append(ast.parse(text))
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)


def source_of(thing: Any) -> str:
    """Source of a function or class, or its byte code where there is no source, as of one that `exec` made."""
    linecache.checkcache()
    # Of a function its own code, not what it wraps.
    code: Any = getattr(thing, "__code__", None)
    try:
        source = inspect.getsource(code if isinstance(thing, FunctionType) else thing)
        if isinstance(code, CodeType) and code.co_name == "<lambda>":
            source = max(source, _lambda_lines(code), key=len)
        return textwrap.dedent(source)
    except (OSError, TypeError):
        if not isinstance(code, CodeType):
            return str(thing.__qualname__)
        return f"bytecode:{_byte_code(code)}"


def _was_changed(code: CodeType) -> bool:
    """Whether the file of some code, which `source_of` has looked at, has other code by now; a notebook's has none."""
    return Path(code.co_filename).is_file() and code not in _codes(tuple(linecache.getlines(code.co_filename)))


@functools.lru_cache(maxsize=32)  # by the lines, whose hashes Python keeps: a file may hold a thousand functions
def _codes(lines: tuple[str, ...]) -> set[CodeType]:
    waiting: list[Any] = []
    found: set[CodeType] = set()
    with contextlib.suppress(SyntaxError, ValueError):
        waiting.append(compile("".join(lines), "", "exec", dont_inherit=True))
    while waiting:
        code = waiting.pop()
        found.add(code)
        waiting += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return found


def _lambda_lines(code: CodeType) -> str:
    """The lines of a lambda; `inspect` stops behind the first one where no bracket is open in it."""
    lines, start = inspect.findsource(code)
    return "".join(lines[start : _lambda_ends(tuple(lines)).get(code.co_firstlineno, 0)])


@functools.lru_cache(maxsize=32)
def _lambda_ends(lines: tuple[str, ...]) -> dict[int, int]:
    """The last line of the lambdas that begin in a line, by its number."""
    ends: dict[int, int] = {}
    with contextlib.suppress(SyntaxError, ValueError):  # the file was changed since
        for node in ast.walk(ast.parse("".join(lines))):
            if isinstance(node, ast.Lambda):
                ends[node.lineno] = max(ends.get(node.lineno, 0), node.end_lineno or 0)
    return ends


def _byte_code(code: CodeType) -> list[Any]:
    """What the code is made of, with that of comprehensions and functions inside it."""
    constants: list[Any] = []
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            constants.append(_byte_code(constant))
        else:  # members of a set have another order in each process
            constants.append(sorted(map(repr, constant)) if isinstance(constant, frozenset) else repr(constant))
    return [code.co_code.hex(), code.co_names, code.co_varnames, code.co_freevars, constants]


def _names(code: CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _names(constant)
    return names
