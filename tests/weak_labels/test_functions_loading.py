"""A user's file becomes a list of functions, or an error that names file, line and the way out."""

import importlib
import os
import py_compile
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.weak_labels.lf_helpers import CLASSES, batch, write_functions
from warehouse import SettingsError
from weak_labels.functions.call import call_function
from weak_labels.functions.data_files import importable
from weak_labels.functions.loader import load_functions
from weak_labels.functions.types import LabelingFunction


def names(path: Path) -> list[str]:
    return [function.name for function in load_functions(path, CLASSES)]


def test_order_of_definition_and_names_of_variables(tmp_path: Path) -> None:
    path = write_functions(
        tmp_path,
        """
        from weak_labels import keywords, regex, vectorized
        zebra = keywords("sports", ["goal"])
        apple = regex("politics", "vote", name="voting")
        seven = keywords("politics", ["senate"], name=7)
        @vectorized("science")
        def middle(batch):
            return [False] * len(batch)
        same = zebra
        functions = [zebra, keywords("science", ["atom"], name="atoms")]
        """,
    )
    assert names(path) == ["zebra", "voting", "7", "middle", "atoms"]


def test_a_variable_may_be_bound_again_where_its_value_is_kept(tmp_path: Path) -> None:
    path = write_functions(
        tmp_path,
        """
        import dataclasses
        from weak_labels import keywords
        functions = []
        one = keywords("sports", ["goal"], name="goals")
        functions.append(one)
        one = keywords("science", ["atom"])
        one = dataclasses.replace(one, description="atoms")
        """,
    )
    assert names(path) == ["one", "goals"]


def test_the_file_is_read_and_not_what_python_kept_of_it(tmp_path: Path) -> None:
    path = write_functions(tmp_path, 'from weak_labels import keywords\nf = keywords("sports", ["goal"])')
    kept = Path(py_compile.compile(str(path), doraise=True) or "")
    before, (first,) = path.stat(), load_functions(path, CLASSES)
    path.write_text(path.read_text("utf-8").replace("goal", "game"), "utf-8")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # saved twice in a second, or brought by rsync
    (second,) = load_functions(path, CLASSES)
    assert first.version != second.version
    os.truncate(kept, kept.stat().st_size // 2)  # Python does not wait for the disk when it writes it
    assert names(path) == ["f"]


def test_modules_beside_the_file_can_be_imported(tmp_path: Path) -> None:
    write_functions(tmp_path, "WORDS = ['goal']", name="beside_lf.py")
    path = write_functions(
        tmp_path,
        """
        from weak_labels import keywords
        from beside_lf import WORDS
        sport = keywords("sports", WORDS)
        """,
    )
    assert names(path) == ["sport"]
    assert str(tmp_path) not in sys.path


def test_two_projects_in_one_process_have_modules_of_their_own(tmp_path: Path) -> None:
    """The second one had the first one's: other votes, and a run that said the file was changed in the meantime."""
    source = """
    from weak_labels import vectorized
    import helper_lf
    from words_lf.all import WORDS
    from more_lf.all import MORE
    @vectorized("sports")
    def f(batch):
        return [helper_lf.about(text) or text in WORDS + MORE for text in batch.texts]
    """
    loaded = list[LabelingFunction]()
    for word, folder in (("goal", tmp_path / "goal"), ("game", tmp_path)):
        for name in ("words_lf", "more_lf"):
            (folder / name).mkdir(parents=True)
        (folder / "words_lf" / "__init__.py").touch()
        (folder / "words_lf" / "all.py").write_text(f"WORDS = ['{word}s']", "utf-8")
        (folder / "more_lf" / "all.py").write_text(f"MORE = ['{word}!']", "utf-8")
        write_functions(folder, f"def about(text):\n    return text == '{word}'", name="helper_lf.py")
        loaded += load_functions(write_functions(folder, source), CLASSES)
    texts = batch(["goal", "goals", "goal!", "game", "games", "game!"])
    votes = [call_function(function, texts).votes.tolist() for function in loaded]
    assert votes == [[0, 0, 0, -1, -1, -1], [-1, -1, -1, 0, 0, 0]]
    assert loaded[0].version != loaded[1].version
    assert Path(str(sys.modules["helper_lf"].__file__)).parent == tmp_path / "goal"  # of who came first


@pytest.mark.parametrize("beside", ["features.py", "features/words.py"])
def test_a_module_beside_it_that_siftlines_own_hides_is_to_be_renamed(beside: str, tmp_path: Path) -> None:
    module = beside.removesuffix(".py").replace("/", ".")
    path = write_functions(tmp_path, f"from {module} import WORDS")
    importlib.import_module("features")  # as every command has before it loads functions
    with pytest.raises(SettingsError, match=r"(No module|cannot import)"):  # there is none of this name
        load_functions(path, CLASSES)
    (tmp_path / beside).parent.mkdir(exist_ok=True)
    (tmp_path / beside).write_text("WORDS = ['goal']")
    with pytest.raises(SettingsError, match=r"functions.py:1: Siftline has a package 'features' .*\. Rename"):
        load_functions(path, CLASSES)
    with pytest.raises(SettingsError, match="NameError: name 'features' is not defined"):  # it imports nothing
        load_functions(write_functions(tmp_path, "features"), CLASSES)


@pytest.mark.parametrize("taken", ["json", "features"])
def test_a_module_of_pythons_or_siftlines_stays_where_the_folder_has_its_name(tmp_path: Path, taken: str) -> None:
    before = importlib.import_module(taken)
    write_functions(tmp_path, "raise RuntimeError", name=f"{taken}.py")
    assert names(write_functions(tmp_path, f"import {taken}\nfunctions = []")) == []
    assert sys.modules[taken] is before


def test_threads_leave_the_folder_to_each_other(tmp_path: Path) -> None:
    """The one that put it there took it away, also from who had found it there."""
    with ExitStack() as first, ExitStack() as second:
        first.enter_context(importable(tmp_path))
        second.enter_context(importable(tmp_path))
        first.close()
        assert str(tmp_path) in sys.path
    assert str(tmp_path) not in sys.path


@pytest.mark.parametrize(
    ("lines", "held"),
    [
        (
            'lfs = [keywords("sports", [word], name=word) for word in ("goal", "match")]',
            "'lfs' holds 2 labeling functions ",
        ),
        ('one = keywords("sports", ["goal"])\nlfs = (one, regex("sports", "cup"))', "'lfs' holds 1 labeling function "),
        ('lfs = {"goal": keywords("sports", ["goal"])}', "'lfs' holds 1 labeling function "),
    ],
)
def test_functions_in_a_list_that_nobody_reads_are_told(tmp_path: Path, lines: str, held: str) -> None:
    source = f"from weak_labels import keywords, regex\n{lines}\n"
    with pytest.raises(SettingsError, match=held + "that would not vote.*list named functions"):
        load_functions(write_functions(tmp_path, source), CLASSES)


def test_a_file_may_say_that_there_are_none(tmp_path: Path) -> None:
    assert names(write_functions(tmp_path, "functions = []")) == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1\n1 / 0\n", r"labeling_functions\.py:2: ZeroDivisionError"),
        ("x = 1\n\ndef f(:\n", r"labeling_functions\.py:3: SyntaxError"),
        ("import sys\nsys.exit(3)\n", r"labeling_functions\.py:2: SystemExit: 3"),
        ("from weak_labels import regex\nr = regex('sports', '(')\n", r"labeling_functions\.py:2: regex\('sports'"),
        ("x = 1\n", r"defines no labeling function.*; to go without, write: functions = \[\]"),
        (
            "from weak_labels import keywords\na = keywords('sports', ['x'])\n\na = keywords('sports', ['y'])\n",
            r"labeling_functions\.py:4: 'a' is defined in line 2 already",
        ),
        (
            "from weak_labels import vectorized\n@vectorized('sports')\ndef f(batch):\n    return batch\n\n"
            "@vectorized('science')\ndef f(batch):\n    return batch\n",
            r"labeling_functions\.py:7: 'f' is defined in line 3 already",
        ),
        (
            "from weak_labels import keywords\na = keywords('sport', ['x'])\n",
            "'a' votes for 'sport', perhaps meant as 'sports'; the classes are sports, politics, science. Mend the",
        ),
        (
            "from weak_labels import regex\na = regex('goals?', 'sports')\n",
            r"The class stands before the pattern: regex\('sports', 'goals\?'\)",
        ),
        (
            "from weak_labels import keywords\na = keywords('sports', ['x'])\n"
            "b = keywords('sports', ['y'], name='a')\n",
            "two labeling functions are named 'a'",
        ),
        ("from weak_labels import keywords\nfunctions = [keywords('sports', ['x'])]\n", "has no name"),
        (
            "from weak_labels import keywords\na = keywords('sports', ['x'])\n"
            "def f(x):\n    return 0\n\nfunctions = [a, f]\n",
            r"holds the plain function 'f', which would not vote. Make it .* or with Snorkel's @labeling_function\(\)",
        ),
        (
            "from weak_labels import keywords\na = keywords('sports', ['x'])\nfunctions = [[a]]\n",
            r"holds \[<keywords function '': .*, which would not vote",
        ),
        (
            "from weak_labels import keywords\na = keywords('sports', ['x'])\n"
            "functions = (keywords('sports', [w], name=w) for w in 'xy')\n",
            r"'functions' is a generator. Make it a list: functions = \[\.\.\.\]",
        ),
        ("from weak_labels import keywords\nfunctions = {keywords('sports', ['x'], name='a')}\n", "is a set. Make it"),
        ("from .words import WORDS\n", "imported by their name, without a dot before it"),
        ("open('words.txt')\n", r"for a file beside the functions write: Path\(__file__\)\.parent / 'words\.txt'"),
    ],
)
def test_errors_name_the_place_and_the_way_out(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load_functions(write_functions(tmp_path, source), CLASSES)


@pytest.mark.parametrize("listed", ["['sum', 'count']", "{'sum', 'count'}", "(1, 2.5)", "set()"])
def test_a_list_of_words_or_numbers_is_none_of_functions(tmp_path: Path, listed: str) -> None:
    source = f"from weak_labels import keywords\nfunctions = {listed}\na = keywords('sports', ['x'])\n"
    assert [f.name for f in load_functions(write_functions(tmp_path, source), CLASSES)] == ["a"]


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="There is no file of labeling functions at"):
        load_functions(tmp_path / "none.py", CLASSES)


def test_snorkel_functions_work_unchanged(tmp_path: Path) -> None:
    path = write_functions(
        tmp_path,
        """
        from snorkel.labeling import LabelingFunction, labeling_function
        from snorkel.preprocess import preprocessor

        @preprocessor(memoize=True)
        def add_words(x):
            x.words = x.text.split()
            return x

        @labeling_function(resources={"limit": 2}, pre=[add_words])
        def many_words(x, limit):
            "More words than the limit."
            return 0 if len(x.words) > limit else -1

        @labeling_function(name="desk")
        def by_desk(x):
            assert x.content == x.text and x.item_id.startswith("i")
            return {"pol": "politics"}.get(x.desk, -1) if "desk" in x.metadata else -1

        made = LabelingFunction("by_hand", lambda x: 2)
        """,
    )
    functions = load_functions(path, CLASSES)
    assert [(f.name, f.description) for f in functions] == [
        ("many_words", "More words than the limit."),
        ("desk", ""),
        ("by_hand", ""),
    ]
    items = batch(["a b c", "a"], metadata=["{}", '{"desk": "pol"}'])
    outcomes = [call_function(function, items) for function in functions]
    assert [o.faults for o in outcomes] == [[], [], []]
    assert [o.votes.tolist() for o in outcomes] == [[0, -1], [-1, 1], [2, 2]]


def test_builders_alone_do_not_import_snorkel_or_torch(tmp_path: Path) -> None:
    path = write_functions(tmp_path, "from weak_labels import keywords\na = keywords('sports', ['x'])\n")
    code = (
        "import sys; from pathlib import Path; from weak_labels.functions.loader import load_functions; "
        f"load_functions(Path({str(path)!r}), {CLASSES!r}); import weak_labels.applying.stage; "
        "print([m for m in ('snorkel', 'torch', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
