"""What a builder or a configuration is given is checked: a refusal says which argument it is and what to write."""

import functools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier

from warehouse import SettingsError
from weak_labels import ItemBatch, cluster, keywords, load_functions, model, nearest, prompt, regex, sql, vectorized
from weak_labels.analysis.suggest import SuggestConfig
from weak_labels.applying.stage import VoteConfig
from weak_labels.classifiers.linear import EndModelConfig
from weak_labels.label_models import LabelModelConfig, VoteMatrix


@pytest.mark.parametrize(
    ("builder", "args", "named", "words"),
    [
        (keywords, ("bug", [1]), {}, "keywords('bug', ...): one of the words is 1; give it as text, in quotes"),
        (keywords, ("bug", [None]), {}, "one of the words is None"),
        (keywords, ("bug", [b"x"]), {}, "one of the words is b'x'"),
        (keywords, ("bug", None), {}, "words must be a list of texts, not None"),
        (keywords, (["x"], "bug"), {}, "A class that a keywords function votes for is ['x']; give it as text"),
        (keywords, (1, ["x"]), {}, "A class that a keywords function votes for is 1; give it as text"),
        (keywords, ("bug", ["x", "y"]), {"min_hits": 2.0}, "min_hits is 2.0; give a whole number"),
        (keywords, ("bug", ["x"]), {"min_hits": "1"}, "min_hits is '1'"),
        (regex, ("bug", None), {}, "regex('bug', ...): the pattern is None; give it as text"),
        (regex, ("bug", re.compile("x")), {}, "the pattern is re.compile('x')"),
        (regex, (None, "x"), {}, "A class that a regex function votes for is None"),
        (sql, ("bug", 3), {}, "the expression is 3; give it as text"),
        (sql, ("bug", "true"), {"timeout_s": "3"}, "timeout_s of a sql function is '3'; give a number"),
        (nearest, ({"bug": "it crashes"},), {"radius": 1}, "exemplars of 'bug' must be a list, such as ['it crashes']"),
        (nearest, ({"bug": [1]},), {"radius": 1}, "one of the exemplars of 'bug' is 1"),
        (nearest, ({"bug": None},), {"radius": 1}, "exemplars of 'bug' must be a list of texts, not None"),
        (nearest, (["it crashes"],), {"radius": 1}, "exemplars must be a dict, such as"),
        (nearest, ({"bug": ["x"]},), {"radius": "1"}, "radius is '1'; give a number"),
        (nearest, ({1: ["x"]},), {"radius": 1}, "A class that a nearest function votes for is 1"),
        (prompt, ("Bug?", ["yes", "no"]), {"model": "m"}, "answers must be a dict, such as {'yes': 'billing'"),
        (prompt, ("Bug?", {True: "bug", False: None}), {"model": "m"}, "an answer is True; give it as text"),
        (prompt, (None, {"yes": "bug", "no": None}), {"model": "m"}, "the question is None"),
        (prompt, ("Bug?", {"yes": "bug", "no": None}), {"model": None}, "the model is None"),
        (prompt, ("Bug?", {"yes": 1, "no": None}), {"model": "m"}, "A class that a prompt function votes for is 1"),
        (model, (DummyClassifier().fit([[0]], ["bug"]),), {"on": "texts", "threshold": "0.8"}, "threshold is '0.8'"),
    ],
)
def test_what_a_builder_cannot_use_is_refused_in_words(
    builder: Any, args: tuple[Any, ...], named: dict[str, Any], words: str
) -> None:
    with pytest.raises(SettingsError, match=re.escape(words)):
        builder(*args, **named)


@pytest.mark.parametrize(
    ("cells", "radius", "words"),
    [
        (0, 1.0, "cells must be a list of numbers, such as [0]"),
        ("0", 1.0, "cells must be a list of numbers, such as [0]"),
        (["0"], 1.0, "a cell is '0'; give a whole number"),
        ([0.5], 1.0, "a cell is 0.5"),
        ([True], 1.0, "a cell is True"),
        ([0], "1", "radius is '1'; give a number"),
    ],
)
def test_cells_are_numbers_in_a_list(tmp_path: Path, cells: Any, radius: Any, words: str) -> None:
    centres = tmp_path / "clusters.npy"
    np.save(centres, np.eye(3, dtype=np.float32))
    with pytest.raises(SettingsError, match=re.escape(words)):
        cluster("bug", cells, centres=centres, radius=radius)
    assert cluster("bug", np.array([0, 2]), centres=centres).version == cluster("bug", [0, 2], centres=centres).version


def test_a_class_and_cells_that_are_swapped_are_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=re.escape("A class that a cluster function votes for is [0]; give it as")):
        cluster([0], "bug", centres=tmp_path / "clusters.npy")  # pyright: ignore[reportArgumentType]


def test_centres_that_are_no_path_are_refused_in_words() -> None:
    wrong: Any = None
    with pytest.raises(SettingsError, match="None cannot be read as a matrix"):
        cluster("bug", [0], centres=wrong)


@pytest.mark.parametrize("label", [3, ["bug"]])
def test_a_class_of_ones_own_code_is_a_text(label: Any) -> None:
    def code(batch: ItemBatch) -> list[bool]:
        return [True] * len(batch)

    with pytest.raises(SettingsError, match="A class that a vectorized function votes for is"):
        vectorized(label)(code)


def test_code_without_a_name_takes_that_of_its_variable() -> None:
    def longer(batch: ItemBatch, than: int) -> list[bool]:
        return [len(text) > than for text in batch.texts]

    assert vectorized("bug")(functools.partial(longer, than=3)).name == ""


def test_the_file_of_functions_may_be_named_by_a_text(tmp_path: Path) -> None:
    file = tmp_path / "functions.py"
    file.write_text("from weak_labels import keywords\ncrash = keywords('bug', ['crash'])\n")
    assert [function.name for function in load_functions(str(file), ("bug", "praise"))] == ["crash"]
    with pytest.raises(SettingsError, match=r"classes must be a list of names, .* not 'debug'"):
        load_functions(file, "debug")


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ("ab", "classes must be a list of names, in the order of their numbers, not 'ab'"),
        (None, "classes must be a list of names"),
        ({"ham", "spam"}, "classes must be a list of names, in the order of their numbers"),
        ((1, 2), "one of the classes is 1; give it as text"),
        (("ham",), "classes is ['ham']; name at least two, each once"),
        (("ham", "ham"), "classes is ['ham', 'ham']; name at least two"),
    ],
)
def test_classes_are_names_in_their_order(classes: Any, words: str) -> None:
    configs: list[Any] = [
        LabelModelConfig,
        functools.partial(VoteConfig, encoder_id="e"),
        functools.partial(EndModelConfig, encoder_id="e"),
    ]
    for config in configs:
        with pytest.raises(SettingsError, match=re.escape(words)):
            config(classes=classes)
        config(classes=["ham", "spam"])


@pytest.mark.parametrize(
    ("config", "name", "value"),
    [
        *((VoteConfig, name, 0) for name in ("batch_items", "timeout_s", "processes")),
        *((VoteConfig, name, -1) for name in ("pattern_bytes", "max_fault_frac", "min_faults")),
        (EndModelConfig, "seed", -1),
        *((SuggestConfig, name, 0) for name in ("min_precision", "min_hits", "words", "per_class", "cells")),
    ],
)
def test_numbers_out_of_range_are_refused(config: Any, name: str, value: int) -> None:
    with pytest.raises(SettingsError, match=rf"{name}\b.* is {value}; "):
        config(encoder_id="e", **({} if config is SuggestConfig else {"classes": ("a", "b")}), **{name: value})


@pytest.mark.parametrize(("name", "value"), [("epochs", 1.5), ("epochs", "1"), ("seed", None), ("seed", 0.5)])
def test_counts_of_a_label_model_are_whole(name: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=f"{name} of the label model is {re.escape(repr(value))}; give a whole"):
        LabelModelConfig(classes=("ham", "spam"), **{name: value})


def test_votes_are_for_a_number_of_classes_and_not_for_their_names() -> None:
    names: Any = ("ham", "spam")
    with pytest.raises(SettingsError, match=r"The number of classes of the votes is \('ham', 'spam'\)"):
        VoteMatrix.from_dense(np.array([[0, 1]]), classes=names)
    with pytest.raises(SettingsError, match=r"The number of items of the votes is 2\.0; give a whole number"):
        VoteMatrix.from_triples([0], [0], [1], items=2.0, functions=1, classes=2)  # pyright: ignore[reportArgumentType]
