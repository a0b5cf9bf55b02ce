"""Suggestions find words and cells that go with a class, measure them on labels that did not choose them, and load."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from flows.cli.main import run_command
from tests.lakes import copy_of
from tests.weak_labels.lf_helpers import CLASSES, ENCODER, add_items, add_vectors, run_vote, votes
from tests.weak_labels.test_report_of_functions import add_classes_and_gold
from warehouse import Lake, SettingsError
from weak_labels import load_functions
from weak_labels.analysis.suggest import SuggestConfig, Suggestions, as_file, suggest, write

CONFIG = SuggestConfig(encoder_id=ENCODER, cells=4)
WORDS = ("quasar zzz", "senate www", "\u202ematch\x1b[31m qqq")
LABEL_OF = (2, 1, 0)


def fill(lake: Lake, items: int = 120, gold: int = 60, classes: Sequence[str] = CLASSES) -> None:
    texts = {f"i{n:03}": f"{WORDS[n % 3]} the day {n}" for n in range(items)}
    add_items(lake, texts)
    add_vectors(lake)
    add_classes_and_gold(lake, {item: LABEL_OF[n % 3] for n, item in enumerate(list(texts)[:gold])}, classes)


def found(lake: Lake, config: SuggestConfig = CONFIG) -> Suggestions:
    with lake.read() as reader:
        return suggest(reader, config)


def test_words_and_cells_that_go_with_a_class_are_found_and_measured(lake: Lake) -> None:
    fill(lake)
    suggestions = found(lake)
    assert suggestions.gold == 60
    words = {s.label: s for s in suggestions.found if s.code.startswith("keywords")}
    assert set(words) == set(CLASSES)
    for label, text in zip(("science", "politics", "sports"), WORDS, strict=True):
        assert any(repr(word) in words[label].code for word in re.findall(r"\w+", text))
        assert (words[label].precision, words[label].coverage) == (1, pytest.approx(1 / 3))
        assert words[label].hits >= 5
    assert any(s.code.startswith("cluster") and s.precision == 1 for s in suggestions.found)
    assert "'the'" not in "".join(s.code for s in suggestions.found)


def test_where_an_item_has_several_classes_each_is_looked_for_by_itself(lake: Lake) -> None:
    chosen = [[], [0], [1], [0, 1]]
    texts = {f"i{n:03}": " ".join(["the day", *(WORDS[c] for c in chosen[n % 4]), str(n)]) for n in range(120)}
    add_items(lake, texts)
    add_classes_and_gold(lake, {item: chosen[n % 4] for n, item in enumerate(list(texts)[:60])})
    suggestions = found(lake, SuggestConfig(encoder_id="none"))
    assert suggestions.gold == 60
    assert {s.label for s in suggestions.found} == set(CLASSES[:2])
    for label, text in zip(CLASSES, WORDS[:2], strict=False):
        words = next(s for s in suggestions.found if s.label == label)
        assert any(repr(word) in words.code for word in text.split())
        assert (words.precision, words.coverage) == (1, pytest.approx(1 / 2))


def test_precision_is_measured_on_labels_that_did_not_choose(lake: Lake) -> None:
    # Every text has a word of its own and a random class: words fit the labels that choose them, and no others.
    generator = np.random.default_rng(0)
    texts = {f"i{n:03}": " ".join(f"w{k}" for k in generator.integers(0, 250, 6)) for n in range(300)}
    add_items(lake, texts)
    add_classes_and_gold(lake, {item: int(generator.integers(3)) for item in texts})
    judged = [s for s in found(lake, SuggestConfig(encoder_id="none")).found if s.hits]
    assert judged
    assert sum(s.right for s in judged) / sum(s.hits for s in judged) < 0.6


def test_a_text_that_is_there_several_times_does_not_measure_what_it_chose(lake: Lake) -> None:
    # As above, and each text is that of six items, which have its label: with the halves drawn by id it is in both.
    generator = np.random.default_rng(0)
    texts = {f"i{n:03}": " ".join(f"w{k}" for k in generator.integers(0, 250, 6)) for n in range(50)}
    label_of = {item: int(generator.integers(3)) for item in texts}
    add_items(lake, {f"{item} {n}": text for item, text in texts.items() for n in range(6)})
    add_classes_and_gold(lake, {f"{item} {n}": label for item, label in label_of.items() for n in range(6)})
    judged = [s for s in found(lake, SuggestConfig(encoder_id="none")).found if s.hits]
    assert judged
    assert sum(s.right for s in judged) / sum(s.hits for s in judged) < 0.6


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("यह हिन्दी किताब अच्छी लगी", "सेवा बहुत खराब मिली"),
        ("كِتَابٌ جَمِيلٌ", "خِدْمَةٌ سَيِّئَةٌ"),
        ("le cafe\u0301 est cher", "la the\u0301orie est fausse"),
        ("我要退款", "谢谢你们"),
    ],
)
def test_the_words_of_any_script_hit_what_is_said_of_them(lake: Lake, tmp_path: Path, good: str, bad: str) -> None:
    texts = {f"i{n:03}": f"{good if n % 2 else bad} {n}" for n in range(80)}
    add_items(lake, texts)
    add_classes_and_gold(lake, {item: n % 2 for n, item in enumerate(texts)})
    suggestions = found(lake, SuggestConfig(encoder_id="none"))
    path = tmp_path / "suggested.py"
    write(suggestions, path, replace=False)
    run_vote(lake, load_functions(path, CLASSES))
    hits = [name for (_, name), vote in votes(lake).items() if vote >= 0]
    assert {s.name: round(s.coverage * len(texts)) for s in suggestions.found} == {n: hits.count(n) for n in set(hits)}
    assert sorted(hits.count(s.name) for s in suggestions.found)[0] == 40


@pytest.mark.parametrize(("good", "bad"), [("so. good, day", "good. so, day"), ("win_big now", "lose_big now")])
def test_words_that_keywords_would_not_find_are_no_candidates(lake: Lake, good: str, bad: str) -> None:
    texts = {f"i{n:03}": f"{good if n % 2 else bad} {n}" for n in range(80)}
    add_items(lake, texts)
    add_classes_and_gold(lake, {item: n % 2 for n, item in enumerate(texts)})
    suggestions = found(lake, SuggestConfig(encoder_id="none"))
    assert [s.coverage for s in suggestions.found if s.coverage != 0.5] == []


def test_the_file_loads_votes_and_shows_its_figures(lake: Lake, tmp_path: Path) -> None:
    fill(lake)
    path = tmp_path / "suggested.py"
    write(found(lake), path, replace=False)
    source = path.read_text("utf-8")
    assert "labelled items not used to choose it" in source
    assert "\x1b" not in source
    assert "\u202e" not in source
    functions = load_functions(path, CLASSES)
    run_vote(lake, functions)
    cast = votes(lake)
    for function in functions:
        assert any(vote >= 0 for (_, name), vote in cast.items() if name == function.name)


def test_a_file_with_a_persons_changes_is_not_overwritten(lake: Lake, tmp_path: Path) -> None:
    fill(lake)
    path = tmp_path / "suggested.py"
    path.write_text("mine")
    with pytest.raises(SettingsError, match="is there already"):
        write(found(lake), path, replace=False)
    assert path.read_text() == "mine"
    write(found(lake), path, replace=True)
    assert path.read_text() != "mine"


def test_kept_functions_keep_the_cells_of_their_suggestions(lake: Lake, tmp_path: Path) -> None:
    fill(lake)
    first, second = tmp_path / "kept.py", tmp_path / "more.py"
    write(found(lake), first, replace=False)
    before = {f.name: f.version for f in load_functions(first, CLASSES) if f.kind == "cluster"}
    assert before
    write(found(lake, dataclasses.replace(CONFIG, cells=3)), second, replace=False)
    assert {f.name: f.version for f in load_functions(first, CLASSES) if f.kind == "cluster"} == before
    assert any(f.kind == "cluster" for f in load_functions(second, CLASSES))
    assert len(list(tmp_path.glob("clusters*.npy"))) == 2


def test_classes_of_nearly_one_name_get_functions_of_their_own(lake: Lake, tmp_path: Path) -> None:
    classes = ("c++", "c", "c²")
    fill(lake, classes=classes)
    path = tmp_path / "suggested.py"
    suggestions = found(lake)
    write(suggestions, path, replace=False)
    functions = load_functions(path, classes)
    assert {label for f in functions if f.kind == "keywords" for label in f.labels} == set(classes)
    assert [f.name for f in functions] == [s.name for s in suggestions.found]


def test_equal_data_give_equal_suggestions(lake: Lake) -> None:
    fill(lake)
    assert as_file(found(lake), "c.npy") == as_file(found(lake), "c.npy")


@pytest.mark.parametrize("hits", [6, 80])
def test_a_word_that_is_no_better_than_its_class_is_anyhow_is_no_candidate(lake: Lake, hits: int) -> None:
    texts = {f"i{n:03}": f"{'quasar ' * (n < 12)}{'now' if n >= 300 - hits else 'then'} {n}" for n in range(300)}
    add_items(lake, texts)
    add_classes_and_gold(lake, {item: int(n < 12) for n, item in enumerate(texts)})
    code = {s.label: s.code for s in found(lake, SuggestConfig(encoder_id="none")).found}
    assert "quasar" in code[CLASSES[1]]
    assert "'then'" not in code.get(CLASSES[0], ""), "right on 95% of its texts, as the class is of all"
    assert ("'now'" in code.get(CLASSES[0], "")) == (hits == 80), "three of three are no sign where 96 of 100 are right"


def test_a_cell_in_which_its_class_is_rarer_than_anywhere_is_no_candidate(lake: Lake) -> None:
    texts = {f"i{n:03}": f"{WORDS[n % 3]} the day {n}" for n in range(360)}
    add_items(lake, texts)
    add_vectors(lake)
    # One topic is of one class alone; of the other two 87% are.
    add_classes_and_gold(lake, {item: int(n % 3 > 0 and n % 24 < 3) for n, item in enumerate(texts)})
    cells = [s for s in found(lake, dataclasses.replace(CONFIG, cells=3)).found if s.code.startswith("cluster")]
    assert cells
    assert all(s.precision == 1 for s in cells)


def test_nothing_good_enough_is_said(lake: Lake) -> None:
    add_items(lake, {f"i{n}": f"word{n}" for n in range(30)})
    add_classes_and_gold(lake, {f"i{n}": n % 3 for n in range(30)})
    suggestions = found(lake)
    assert suggestions.found == []
    assert "hits 3 or more of the half of the 30 labels that chooses, 80% of them" in as_file(suggestions, "c.npy")


def test_few_labels_are_refused_with_the_way_out(lake: Lake) -> None:
    fill(lake, gold=5)
    with pytest.raises(SettingsError, match=r"there are 5 on the train split, 20 are needed. Answer a batch first"):
        found(lake)


@pytest.mark.parametrize("wrong", [{"min_precision": 0}, {"min_hits": 0}, {"words": 0}, {"cells": 0}])
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        SuggestConfig(encoder_id="x", **wrong)


def test_the_command_says_what_was_missing_or_how_to_try_what_it_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classes = ", ".join(f'"{name}"' for name in CLASSES)
    (tmp_path / "siftline.toml").write_text(
        f'[project]\nname = "p"\nclasses = [{classes}]\n[[sources]]\nname = "s"\npath = "s.csv"\n', "utf-8"
    )
    command = ["lf", "suggest", "--force", "--output", str(tmp_path / "mine.py"), "--project", str(tmp_path)]
    with copy_of(Lake, tmp_path / "lake") as lake:
        add_items(lake, {f"i{n:03}": f"word{n}" for n in range(30)})
        add_classes_and_gold(lake, {f"i{n:03}": n % 3 for n in range(30)})
    assert run_command(command) == 0
    said = capsys.readouterr()
    assert said.out == "", "a table without a row says nothing"
    assert "mine.py holds no function. No word and no cell hits 3 or more of the half of the 30 labels" in said.err
    assert said.err.endswith(f"siftline run --project {tmp_path}\n"), "no word behind the command looks like its own"
    with Lake(tmp_path / "lake") as lake:
        fill(lake)
    assert run_command(command) == 0
    preview = f"siftline lf preview {tmp_path / 'mine.py'} --project {tmp_path}"
    assert capsys.readouterr().err.endswith(f"then: {preview}\n")
