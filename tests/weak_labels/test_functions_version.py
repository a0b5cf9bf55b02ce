"""A function's version changes with what it does, and with nothing else."""

import importlib
import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.weak_labels.lf_helpers import CLASSES, write_functions
from weak_labels import keywords, nearest, regex, vectorized
from weak_labels.functions.loader import load_functions
from weak_labels.functions.types import check_functions

BASE = """
import functools
import logging
import re
from snorkel.labeling import labeling_function
from snorkel.preprocess import preprocessor
from weak_labels import vectorized

WORDS = ["goal", "match"]
PATTERN = re.compile("a")
LIMITS = {"low": 1}
FIND = re.compile("bound").search
HAS = "quux".__contains__
LEAST = 5
LOG = logging.getLogger("functions")

class Base:
    def far(self, text):
        return 100 < len(text)

class Check(Base):
    marks = tuple(WORDS)
    def near(self, text):
        return len(text) < LEAST
    @property
    def most(self):
        return 70

CHECK = Check()

def longer(code):
    @functools.wraps(code)
    def inner(batch):
        return [a and len(b) > 30 for a, b in zip(code(batch), batch.texts)]
    return inner

@functools.lru_cache
def cached(text):
    return text

def helper(text, most=3):
    return any(word in text for word in WORDS[:most])

@preprocessor()
def prepare(x):
    x.low = x.text.lower()
    return x

@labeling_function(resources={"times": 2}, pre=[prepare])
def row(x, times):
    if PATTERN.search(x.low) and helper(x.low):
        return 0
    return -1

@vectorized("sports")
def column(batch):
    return [len(text) > LIMITS["low"] for text in batch.texts]

@vectorized("sports")
def alone(batch):
    return [True for _ in batch.texts]

@vectorized("sports")
@longer
def wrapped(batch):
    LOG.info("asked")
    return [FIND(cached(text)) is not None or HAS(text) for text in batch.texts]

@vectorized("sports")
def checked(batch):
    return [CHECK.near(text) or CHECK.far(text) or len(text) == CHECK.most for text in batch.texts]
"""
SLOTS = """
from collections import deque
from dataclasses import dataclass

@dataclass(slots=True)
class Low:
    low: int

@dataclass
class Base:
    low: int

@dataclass(slots=True)
class Lowest(Base):
    lowest: int

@dataclass(slots=True, frozen=True)
class Frozen:
    low: int

class Words(deque):
    def __init__(self, words):
        super().__init__(words)
        self.language = "en"
"""
_numbers = itertools.count()


def versions(folder: Path, source: str) -> dict[str, str]:
    folder = folder / str(next(_numbers))
    folder.mkdir()
    return {f.name: f.version for f in load_functions(write_functions(folder, source), CLASSES)}


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ('"match"]', '"team"]', {"row", "checked"}),
        ('re.compile("bound")', 're.compile("other")', {"wrapped"}),
        ('"quux"', '"quuz"', {"wrapped"}),
        ("len(b) > 30", "len(b) > 31", {"wrapped"}),
        ("return text\n", "return text[1:]\n", {"wrapped"}),
        ("LEAST = 5", "LEAST = 6", {"checked"}),
        ("100 <", "101 <", {"checked"}),
        ("return 70", "return 71", {"checked"}),
        ("most=3", "most=2", {"row"}),
        ('re.compile("a")', 're.compile("b")', {"row"}),
        ('"times": 2', '"times": 3', {"row"}),
        ("x.text.lower()", "x.text.upper()", {"row"}),
        ("return 0", "return 1", {"row"}),
        ('{"low": 1}', '{"low": 2}', {"column"}),
        ("len(text) >", "len(text) <", {"column"}),
        ("[True for", "[False for", {"alone"}),
        ('WORDS = ["goal"', '\n\n# a comment\nUNUSED = 1\nWORDS = ["goal"', set()),
    ],
)
def test_version_follows_what_the_function_refers_to(tmp_path: Path, old: str, new: str, changed: set[str]) -> None:
    assert old in BASE
    before, after = versions(tmp_path, BASE), versions(tmp_path, BASE.replace(old, new))
    assert {name for name in before if before[name] != after[name]} == changed


def test_version_follows_modules_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = """
import words_beside
from weak_labels import vectorized

@vectorized("sports")
def f(batch):
    return [words_beside.WORD in text for text in batch.texts]
"""
    found: set[str] = set()
    for word in ("goal", "match"):
        folder = tmp_path / word
        folder.mkdir()
        write_functions(folder, f"WORD = '{word}'", name="words_beside.py")
        found |= {f.version for f in load_functions(write_functions(folder, source), CLASSES)}
        monkeypatch.delitem(sys.modules, "words_beside")
    assert len(found) == 2


@pytest.mark.parametrize("marked", [True, False])
def test_version_follows_modules_in_a_folder_beside_the_file(tmp_path: Path, marked: bool) -> None:
    source = """
import folder_beside.words
from weak_labels import vectorized

@vectorized("sports")
def f(batch):
    return [folder_beside.words.WORD in text for text in batch.texts]
"""
    found: set[str] = set()
    for word in ("goal", "match"):
        folder = tmp_path / word / "folder_beside"
        folder.mkdir(parents=True)
        write_functions(folder, f"WORD = '{word}'", name="words.py")
        if marked:
            write_functions(folder, "", name="__init__.py")
        found |= {f.version for f in load_functions(write_functions(folder.parent, source), CLASSES)}
        del sys.modules["folder_beside"], sys.modules["folder_beside.words"]
    assert len(found) == 2


def test_version_follows_what_modules_beside_the_file_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = """
import first_beside
from weak_labels import vectorized

@vectorized("sports")
def f(batch):
    return [first_beside.says(text) for text in batch.texts]
"""
    found: set[str] = set()
    for number, words in enumerate((("goal", "a"), ("match", "a"), ("match", "b"))):
        folder = tmp_path / str(number)
        folder.mkdir()
        first = """
import json
import third_beside
from second_beside import WORD

def says(text):
    return WORD in text or third_beside.WORD in text
"""
        write_functions(folder, first, name="first_beside.py")
        for name, word in zip(("second_beside", "third_beside"), words, strict=True):
            write_functions(folder, f"WORD = '{word}'", name=f"{name}.py")
        found |= {f.version for f in load_functions(write_functions(folder, source), CLASSES)}
        for name in ("first_beside", "second_beside", "third_beside"):
            monkeypatch.delitem(sys.modules, name)
    assert len(found) == 3


@pytest.mark.parametrize(
    ("line", "follows"),
    [
        ("try:\n    from fourth_beside import WORD\nexcept ImportError:\n    WORD = ''", True),
        ("import json; from fourth_beside import WORD", True),
        ("class Words:\n    from fourth_beside import WORD\nWORD = Words.WORD", True),
        ("from typing import TYPE_CHECKING\nWORD = ''\nif TYPE_CHECKING:\n    from fourth_beside import WORD", False),
        ("WORD = ''\ndef later():\n    from fourth_beside import WORD", False),
    ],
)
def test_version_follows_imports_wherever_a_module_has_them_when_it_is_loaded(
    tmp_path: Path, line: str, follows: bool
) -> None:
    source = """
import fourth_beside
import fifth_beside
from weak_labels import vectorized

@vectorized("sports")
def f(batch):
    return [fifth_beside.says(text) for text in batch.texts]
"""
    found: set[str] = set()
    for word in ("goal", "match"):
        folder = tmp_path / word
        folder.mkdir()
        write_functions(folder, f"WORD = '{word}'", name="fourth_beside.py")
        write_functions(folder, f"{line}\ndef says(text):\n    return WORD in text\n", name="fifth_beside.py")
        found |= {f.version for f in load_functions(write_functions(folder, source), CLASSES)}
        del sys.modules["fourth_beside"], sys.modules["fifth_beside"]
    assert len(found) == 1 + follows


@pytest.mark.parametrize("encoding", ["utf-8-sig", "latin-1"])
def test_version_follows_what_a_module_of_another_encoding_imports(tmp_path: Path, encoding: str) -> None:
    source = """
import fifth_beside
from weak_labels import vectorized

@vectorized("sports")
def f(batch):
    return [fifth_beside.WORD in text for text in batch.texts]
"""
    found: set[str] = set()
    for word in ("goal", "match"):
        folder = tmp_path / word
        folder.mkdir()
        write_functions(folder, f"WORD = '{word}'", name="fourth_beside.py")
        text = f"# coding: {encoding.removesuffix('-sig')}\n# für\nfrom fourth_beside import WORD\n"
        (folder / "fifth_beside.py").write_text(text, encoding)
        found |= {f.version for f in load_functions(write_functions(folder, source), CLASSES)}
        del sys.modules["fourth_beside"], sys.modules["fifth_beside"]
    assert len(found) == 2


def test_other_line_ends_and_an_editors_mark_change_no_version(tmp_path: Path) -> None:
    beside = 'WORDS = """goal\nmatch"""\n\n\ndef says(text):\n    return text in WORDS\n'
    source = """
import sixth_beside
from weak_labels import keywords, sql, vectorized

words = keywords("sports", sixth_beside.WORDS.splitlines())
query = sql("sports", '''text like '%goal%'
    or text like '%match%' ''')


@vectorized("sports")
def f(batch):
    return [sixth_beside.says(text) for text in batch.texts]
"""
    found: set[tuple[str, ...]] = set()
    for name, mark, ends in (("a", "", "\n"), ("b", "", "\r\n"), ("c", "\ufeff", "\r\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sixth_beside.py").write_text(mark + beside, "utf-8", newline=ends)
        (tmp_path / name / "functions.py").write_text(mark + source, "utf-8", newline=ends)
        loaded = load_functions(tmp_path / name / "functions.py", CLASSES)
        found.add(tuple(function.version for function in loaded))
        del sys.modules["sixth_beside"]
    assert len(found) == 1


def test_version_is_the_same_in_another_process_and_folder(tmp_path: Path) -> None:
    here = versions(tmp_path, BASE)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    path = write_functions(elsewhere, BASE)
    code = (
        "import logging; logging.getLogger('another'); "
        "from pathlib import Path; from weak_labels.functions.loader import load_functions; "
        f"print({{f.name: f.version for f in load_functions(Path({str(path)!r}), {CLASSES!r})}})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(here)


@pytest.mark.parametrize(
    ("imports", "constant"),
    [
        ("import datetime", "datetime.date(202{}, 1, 1)"),
        ("import datetime", "datetime.timedelta(days={})"),
        ("from decimal import Decimal", "Decimal('{}')"),
        ("from fractions import Fraction", "Fraction({}, 7)"),
        ("from pathlib import Path", "Path('words-{}.txt')"),
        ("from pathlib import Path", "Path(__file__).parent / 'words-{}.txt'"),
        ("from collections import deque", "deque([{}])"),
        ("", "bytearray([{}])"),
        ("", "{{'word': {}}}.values()"),
        ("import operator", "operator.itemgetter({})"),
        ("import re", "{{re.compile('x' * 250 + '{}')}}"),
        ("", "{{frozenset(['a', 'b', {}])}}"),
        ("import regex", "regex.compile('w{}')"),
        ("import numpy as np", "np.dtype('i{}')"),
        ("import pyarrow as pa", "pa.array(['word {}'])"),
        ("import pyarrow as pa", "pa.scalar({})"),
        ("import pyarrow as pa", "pa.table({{'word': ['a', '{}']}})"),
        ("import pandas as pd", "pd.Series(['word {}'])"),
        ("import pandas as pd", "pd.DataFrame({{'a': ['x', '{}'], 'b': [1, 2]}})"),
        ("import pandas as pd", "pd.DataFrame({{'a{}': [1]}})"),
        ("import pandas as pd", "pd.Timestamp(2026, 1, {})"),
        ("import torch", "torch.tensor([{}.0])"),
        ("import torch", "torch.tensor({}, dtype=torch.bfloat16)"),
        ("import torch", "torch.nn.Parameter(torch.eye({}))"),
        (SLOTS, "Low({})"),
        (SLOTS, "Lowest(1, {})"),
        (SLOTS, "Frozen({})"),
        (SLOTS, "Words([{}])"),
    ],
)
def test_version_follows_constants_of_any_kind(tmp_path: Path, imports: str, constant: str) -> None:
    source = """
{imports}
from weak_labels import vectorized

LIMIT = {constant}

@vectorized("sports")
def f(batch):
    return [bool(LIMIT) for _ in batch.texts]
"""
    one, again, other = (
        versions(tmp_path, source.format(imports=imports, constant=constant.format(number)))["f"]
        for number in (1, 1, 2)
    )
    assert one == again
    assert one != other


LAMBDAS = """
from weak_labels import vectorized

RULES = {
    "goal": lambda text: "goal" in text
        or len(text) > 3,
}
long = vectorized("sports", name="long")(
    lambda batch:
        [len(text) > 3 for text in batch.texts]
)

@vectorized("sports")
def ruled(batch):
    return [RULES["goal"](text) for text in batch.texts]
"""
BELOW = """
from weak_labels import vectorized

@vectorized("sports")
def f(batch):
    return [longer(text) for text in batch.texts]

def longer(text):
    return len(text) > LEAST

LEAST = 3
"""


@pytest.mark.parametrize(
    ("source", "changed"), [(LAMBDAS, {"long", "ruled"}), (BELOW, {"f"})], ids=["lambdas", "below"]
)
def test_version_follows_all_lines_of_a_lambda_and_what_stands_below_the_function(
    tmp_path: Path, source: str, changed: set[str]
) -> None:
    before = versions(tmp_path, source)
    after = versions(tmp_path, source.replace("> 3", "> 4").replace("LEAST = 3", "LEAST = 4"))
    assert {name for name in before if before[name] != after[name]} == changed
    assert versions(tmp_path, source) == before


def test_version_is_of_the_code_that_a_running_program_has_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Votes by the code of before were stored under the version of the file of now, and stayed when that was loaded."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # which goes by the second in which a file was written
    names = ("whole_beside", "one_beside")
    source = "def helper(text):\n    return '{0}' in text\n"  # nothing that is loaded tells it but its code

    def write(word: str) -> None:
        for name in names:
            (tmp_path / f"{name}.py").write_text(source.format(word), "utf-8")

    def found() -> list[str]:
        whole, one = (importlib.import_module(name) for name in names)
        helper = one.helper
        made = [
            vectorized("sports", name="whole")(lambda batch: [whole.helper(text) for text in batch.texts]),
            vectorized("sports", name="one")(lambda batch: [helper(text) for text in batch.texts]),
        ]
        return [function.version for function in check_functions(made, CLASSES, where="here")]

    write("goal")
    first = found()
    write("atom")
    old = found()
    for name in names:
        sys.modules.pop(name)
    importlib.invalidate_caches()
    new = found()
    write("goal")
    for name in names:
        sys.modules.pop(name)
    assert not set(new) & {*first, *old}
    assert found() == first
    for name in names:
        sys.modules.pop(name)


def test_version_follows_code_without_a_source() -> None:
    codes = ["len(t) > 3", "len(t) > 4", "len(t) < 4", "t.islower()", "t.isupper()", "t in {'a', 'b'}", "t in {'a'}"]
    found: list[str] = []
    for code in [*codes, *codes]:
        known: dict[str, Any] = {}
        exec(f"def rule(batch):\n    return [{code} for t in batch.texts]", known)
        found.append(vectorized("sports")(known["rule"]).version)
    assert len(set(found)) == len(codes)
    assert found[: len(codes)] == found[len(codes) :]


def test_members_of_a_set_count_whatever_their_order(tmp_path: Path) -> None:
    source = """
import re
from weak_labels import vectorized

SEEN = {frozenset({"a", "b", "c"}), re.compile("x" * 250), (1, "d"), "e"}

@vectorized("sports")
def f(batch):
    return [bool(SEEN) for _ in batch.texts]
"""
    path = write_functions(tmp_path, source)
    code = (
        "from pathlib import Path; from weak_labels.functions.loader import load_functions; "
        f"print(load_functions(Path({str(path)!r}), {CLASSES!r})[0].version)"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1


def test_handles_count_by_their_type(tmp_path: Path) -> None:
    source = """
import logging
import sqlite3
import threading
import numpy as np
from weak_labels import vectorized

HELD = [
    threading.Lock(), threading.Event(), threading.local(), open("/dev/null"), sqlite3.connect(":memory:"),
    logging.getLogger("f"), np.random.default_rng(), object(), (n for n in "abc"),
]

@vectorized("sports")
def f(batch):
    return [bool(HELD) for _ in batch.texts]
"""
    assert versions(tmp_path, source) == versions(tmp_path, source)


def test_a_cached_helper_has_the_same_version_by_each_python(tmp_path: Path) -> None:
    """From 3.12 on `functools.cache` notes type parameters beside the function, 3.11 does not."""
    source = """
import functools
from weak_labels import vectorized

@functools.cache
def words():
    return {"goal"}
{noted}

@vectorized("sports")
def f(batch):
    return [not words().isdisjoint(text.split()) for text in batch.texts]
"""
    by_311 = versions(tmp_path, source.replace("{noted}", "vars(words).pop('__type_params__', None)"))
    assert versions(tmp_path, source.replace("{noted}", "words.__type_params__ = ()")) == by_311


def test_version_survives_use(tmp_path: Path) -> None:
    from tests.weak_labels.lf_helpers import batch
    from weak_labels.functions.call import call_function

    source = BASE.replace("@preprocessor()", "@preprocessor(memoize=True)")
    path = write_functions(tmp_path, source)
    (function, *_) = load_functions(path, CLASSES)
    call_function(function, batch(["a goal", "b"]))
    assert load_functions(path, CLASSES)[0].version == function.version


def test_a_module_that_is_no_utf8_is_followed_too(tmp_path: Path) -> None:
    module = tmp_path / "words_of_ours.py"
    source = """
from snorkel.labeling import labeling_function
import words_of_ours

@labeling_function()
def row(x):
    return 0 if words_of_ours.WORD in x.text else -1
"""
    versions: list[str] = []
    for word in ("caf\xe9", "caf\xe8"):
        module.write_bytes(f"# coding: latin-1\nWORD = '{word}'\n".encode("latin-1"))
        sys.modules.pop(module.stem, None)
        (function,) = load_functions(write_functions(tmp_path, source), CLASSES)
        versions.append(function.version)
    sys.modules.pop(module.stem, None)
    assert versions[0] != versions[1]


def test_versions_of_builders_follow_their_parameters() -> None:
    made = [
        keywords("sports", ["a"]),
        keywords("science", ["a"]),
        keywords("sports", ["b"]),
        keywords("sports", ["a", "b"]),
        keywords("sports", ["a", "b"], min_hits=2),
        regex("sports", "a"),
        regex("sports", "b"),
        nearest({"sports": ["a"]}, radius=0.5),
        nearest({"sports": ["b"]}, radius=0.5),
        nearest({"sports": ["a"]}, radius=0.6),
    ]
    assert len({function.version for function in made}) == len(made)
    assert keywords("sports", ["a"]).version == keywords("sports", ["A "], name="n", description="d").version
