"""Labeling functions that raise, vote nonsense, hang, crash or change their input become faults; the others go on."""

import dataclasses
import signal
from collections.abc import Sized
from pathlib import Path

import numpy as np
import pytest

from flows.cli.main import run_command
from flows.cli.run import Announcer
from flows.pipelines.flows import failed_in_words, words_of
from tests.lakes import copy_of
from tests.weak_labels.lf_helpers import CLASSES, add_items, batch, faults, run_vote, votes, write_functions
from warehouse import Lake, SettingsError
from weak_labels import ItemBatch, LabelingFunction, keywords, load_functions, vectorized
from weak_labels.functions.call import Limits, call_function, check_vote

GOOD = keywords("sports", ["goal"], name="good")
TEXTS = {f"i{n:02}": "goal" if n % 2 else "bad goal" for n in range(4)}


def from_file(folder: Path, body: str, *, own_process: bool = False) -> list[LabelingFunction]:
    """Functions of a file that begins with `good`; called in this process unless said otherwise, which is quicker."""
    imports = ["from weak_labels import keywords, vectorized"]
    if "labeling_function" in body:
        imports.append("from snorkel.labeling import labeling_function")
    source = "\n".join([*imports, "good = keywords('sports', ['goal'])", body])
    functions = load_functions(write_functions(folder, source), CLASSES)
    return functions if own_process else [dataclasses.replace(f, source=None) for f in functions]


ROW_FAULTS = {
    "raises": ("raise ValueError(x.text)", "raised"),
    "exits": ("import sys; sys.exit(1)", "raised"),
    "returns nothing": ("return None", "not_a_vote"),
    "returns a truth value": ("return True", "not_a_vote"),
    "returns a float": ("return 1.0", "not_a_vote"),
    "returns a numpy float": ("import numpy as np; return np.float64(1)", "not_a_vote"),
    "returns a list": ("return [0]", "not_a_vote"),
    "returns a number too high": ("return 3", "out_of_range"),
    "returns a number too low": ("return -2", "out_of_range"),
    "returns a huge number": ("return 2**70", "out_of_range"),
    "returns an unknown class": ("return 'cooking'", "out_of_range"),
    "changes the row": ("x.text = 'other'; return 0", "mutated"),
    "changes nested metadata": ("x.metadata['tags'].append('new'); return 0", "mutated"),
    "adds to the row": ("x.extra = 1; return 0", "mutated"),
}


@pytest.mark.parametrize("case", ROW_FAULTS)
def test_row_function_that_fails_on_some_items(lake: Lake, tmp_path: Path, case: str) -> None:
    body, fault = ROW_FAULTS[case]
    functions = from_file(
        tmp_path, f"@labeling_function()\ndef f(x):\n    if x.text.startswith('bad'):\n        {body}\n    return 0\n"
    )
    add_items(lake, TEXTS, metadata='{"tags": ["a"]}')
    run_vote(lake, functions)
    assert faults(lake) == {("i00", "f"): fault, ("i02", "f"): fault}
    assert {key: vote for key, vote in votes(lake).items() if key[1] == "f"} == {("i01", "f"): 0, ("i03", "f"): 0}
    assert sum(vote == 0 for (_, name), vote in votes(lake).items() if name == "good") == 4


@pytest.mark.parametrize(
    ("returned", "fault", "rows"),
    [
        ([None, 0], "not_a_vote", [0]),
        ([0, True], "not_a_vote", [1]),
        ([0.0, 0], "not_a_vote", [0]),
        (np.array([0.0, 1.0]), "not_a_vote", [0, 1]),
        (np.array([0, 7]), "out_of_range", [1]),
        (np.array([2**40, -1]), "out_of_range", [0]),
        (["sports", "cooking"], "out_of_range", [1]),
        ([0], "not_a_vote", [-1]),
        (np.zeros((2, 2), int), "not_a_vote", [-1]),
        (None, "not_a_vote", [-1]),
        ("ab", "not_a_vote", [-1]),
    ],
)
def test_column_function_that_returns_nonsense(returned: object, fault: str, rows: list[int]) -> None:
    outcome = call_function(vectorized(name="f")(lambda items: returned), batch(["a", "b"]))
    assert [(f.fault, f.row) for f in outcome.faults] == [(fault, row) for row in rows]
    assert all(outcome.votes[row] == -2 for row in rows if row >= 0)


@pytest.mark.parametrize("mask", [[0, 1], [None, True], ["yes", "no"], [0.5, 0.5]])
def test_column_function_with_a_label_must_return_truth_values(mask: list[object]) -> None:
    outcome = call_function(vectorized("sports", name="f")(lambda items: mask), batch(["a", "b"]))
    assert [(f.row, f.fault) for f in outcome.faults] == [(-1, "not_a_vote")]


def test_one_bad_item_does_not_cost_its_neighbours_their_votes() -> None:
    @vectorized("sports")
    def f(items: ItemBatch) -> list[bool]:
        return [1 / len(text) > 0 for text in items.texts]

    texts = ["a"] * 64
    texts[17] = ""
    outcome = call_function(f, batch(texts))
    assert [(x.row, x.fault) for x in outcome.faults] == [(17, "raised")]
    assert outcome.votes.tolist() == [0] * 17 + [-2] + [0] * 46


def test_column_function_that_always_raises_is_not_called_for_every_item() -> None:
    @vectorized("sports")
    def f(items: ItemBatch) -> object:
        raise ValueError

    outcome = call_function(f, batch(["a"] * 64), Limits(max_faults=3))
    assert [fault.row for fault in outcome.faults] == [0, 1, 2, 3]


@pytest.mark.parametrize("column", ["texts", "item_ids", "metadata"])
def test_column_function_that_changes_its_batch(column: str) -> None:
    @vectorized("sports")
    def f(items: ItemBatch) -> list[bool]:
        getattr(items, column)[0] = "changed"
        return [True] * len(items)

    items = batch(["a", "b"])
    assert [x.fault for x in call_function(f, items).faults] == ["mutated"]
    assert items.texts == ["a", "b"]


def test_vectors_cannot_be_changed() -> None:
    @vectorized("sports", vectors=True)
    def f(items: ItemBatch) -> object:
        items.vectors[0, 0] = 9
        return [True] * len(items)

    outcome = call_function(f, batch(["a"], vectors=np.ones((1, 2), np.float32)))
    assert "read-only" in outcome.faults[0].detail


@pytest.mark.parametrize(("value", "vote"), [(np.int8(1), 1), (np.int64(-1), -1), (2, 2), ("science", 2)])
def test_numbers_of_any_kind_and_names_are_votes(value: object, vote: int) -> None:
    assert check_vote(value, CLASSES) == vote


@pytest.mark.parametrize("votes", [[1, 0, -1, "1"], np.array([1, 0, -1])])
def test_a_number_that_is_another_classs_name_is_no_vote(votes: Sized) -> None:
    @vectorized()
    def f(items: ItemBatch) -> object:
        return votes

    names = ("-1", "0", "1")
    items = batch(["a"] * len(votes))
    items.classes = names
    outcome = call_function(f, items)
    assert [fault.row for fault in outcome.faults] == [0, 1]
    assert "voted 1, the number of '0' and the name of another class" in outcome.faults[0].detail
    assert outcome.votes[2:].tolist() == [-1, 2][: len(votes) - 2]
    items.classes = ("0", "1", "2")
    assert call_function(f, items).faults == []


class TestSwitchingOff:
    BODY = "@labeling_function()\ndef f(x):\n    if x.text.startswith('bad'):\n        raise ValueError\n    return 0\n"

    def items(self, bad: int, total: int = 100) -> dict[str, str]:
        return {f"i{n:03}": "bad" if n < bad else "goal" for n in range(total)}

    @pytest.mark.parametrize(("bad", "off"), [(20, False), (21, True)])
    def test_above_the_share_all_its_votes_go(self, lake: Lake, tmp_path: Path, bad: int, off: bool) -> None:
        add_items(lake, self.items(bad))
        result = run_vote(lake, from_file(tmp_path, self.BODY), max_fault_frac=0.2, batch_items=30)
        assert result.detail["switched_off"] == (["f"] if off else [])
        assert sum(name == "f" for _, name in votes(lake)) == (0 if off else 80)
        assert sum(name == "good" for _, name in votes(lake)) == 100
        assert (("", "f") in faults(lake)) == off

    def test_who_runs_it_and_who_asks_for_the_report_is_told_why(
        self, lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        add_items(lake, self.items(50))
        result = run_vote(lake, from_file(tmp_path, self.BODY), max_fault_frac=0.2)
        why = "more than 20 of 100 items failed; the first: raised, "
        Announcer()(result)
        assert f"Switched off, their votes do not count: f ({why}" in capsys.readouterr().err
        assert f"f ({why}" in words_of(result)
        again = words_of(run_vote(lake, from_file(tmp_path, self.BODY), max_fault_frac=0.2))
        assert again.startswith("nothing new in ")  # and not what was read and written the last time
        quoting = "cannot read\n09:00:00.000 | ERROR | all is lost\x1b[2J"
        advised = dataclasses.replace(result, detail={**result.detail, "advice": quoting})
        Announcer()(advised)
        assert capsys.readouterr().err.endswith("  cannot read 09:00:00.000 | ERROR | all is lost\\x1b[2J\n")
        assert words_of(advised).endswith(". cannot read 09:00:00.000 | ERROR | all is lost⟨U+001B⟩[2J")
        (tmp_path / "siftline.toml").write_text(
            '[project]\nname = "p"\nclasses = ["a", "b", "c"]\n[[sources]]\nname = "s"\npath = "s.csv"\n', "utf-8"
        )
        assert run_command(["lf", "report", "--project", str(tmp_path)]) == 0
        assert f"f is switched off, its votes do not count: {why}" in capsys.readouterr().out

    def test_few_faults_never_switch_off(self, lake: Lake, tmp_path: Path) -> None:
        add_items(lake, self.items(bad=10, total=12))
        assert run_vote(lake, from_file(tmp_path, self.BODY)).detail["switched_off"] == []

    def test_new_bad_items_switch_off_what_had_voted(self, lake: Lake, tmp_path: Path) -> None:
        functions = from_file(tmp_path, self.BODY)
        add_items(lake, {k: v for k, v in self.items(50).items() if v == "goal"})
        run_vote(lake, functions)
        assert sum(name == "f" for _, name in votes(lake)) == 50
        add_items(lake, self.items(50))
        run_vote(lake, functions)
        assert sum(name == "f" for _, name in votes(lake)) == 0
        assert faults(lake)["", "f"] == "switched_off"

    def test_once_mended_it_votes_again_and_the_faults_go(self, lake: Lake, tmp_path: Path) -> None:
        add_items(lake, self.items(50))
        run_vote(lake, from_file(tmp_path, self.BODY))
        run_vote(lake, from_file(tmp_path, self.BODY.replace("raise ValueError", "return -1")))
        assert faults(lake) == {}
        assert sum(name == "f" for _, name in votes(lake)) == 100

    def test_faults_are_tried_again_when_items_come(self, lake: Lake, tmp_path: Path) -> None:
        flag = tmp_path / "service_is_up"
        functions = from_file(
            tmp_path,
            f"import os\nFLAG = {str(flag)!r}\n@labeling_function()\ndef f(x):\n"
            "    if not os.path.exists(FLAG):\n        raise ConnectionError('away')\n    return 0\n",
        )
        add_items(lake, {"a": "goal"})
        run_vote(lake, functions)
        assert faults(lake) == {("a", "f"): "raised"}
        flag.touch()
        add_items(lake, {"b": "goal"})
        run_vote(lake, functions)
        assert faults(lake) == {}
        assert (votes(lake)["a", "f"], votes(lake)["b", "f"]) == (0, 0)

    def test_a_fault_replaces_the_vote_on_the_old_content(self, lake: Lake, tmp_path: Path) -> None:
        functions = from_file(tmp_path, self.BODY)
        add_items(lake, {"a": "goal", "b": "goal"})
        run_vote(lake, functions)
        add_items(lake, {"a": "bad"})
        run_vote(lake, functions)
        assert ("a", "f") not in votes(lake)
        assert faults(lake) == {("a", "f"): "raised"}

    def test_equal_runs_store_equal_faults(self, tmp_path: Path) -> None:
        hashes: list[dict[str, str]] = []
        for size in (7, 100):
            with copy_of(Lake, tmp_path / str(size)) as lake:
                add_items(lake, self.items(50))
                body = self.BODY.replace("raise ValueError", "raise ValueError(object())")
                run_vote(lake, from_file(tmp_path, body), batch_items=size)
                assert ("", "f") in faults(lake)
                hashes.append(lake.content_hash(["lf_votes", "lf_faults"]))
        assert hashes[0] == hashes[1]


HANGS = {
    "row function": "@labeling_function()\ndef f(x):\n    while True: pass\n",
    "column function": "@vectorized('sports')\ndef f(batch):\n    while True: pass\n",
    "pattern that explodes": (
        "import re\n@vectorized('sports')\ndef f(batch):\n    return [bool(re.match('(a+)+$', 'a' * 60 + 'b'))]\n"
    ),
    "swallows the time limit": (
        "@vectorized('sports')\ndef f(batch):\n    while True:\n        try:\n            while True: pass\n"
        "        except BaseException: pass\n"
    ),
}


@pytest.mark.parametrize("case", HANGS)
def test_function_that_hangs_is_broken_off(lake: Lake, tmp_path: Path, case: str) -> None:
    after = "\n@vectorized('politics')\ndef after(batch):\n    return [True] * len(batch)\n"
    functions = from_file(tmp_path, HANGS[case] + after, own_process=True)
    add_items(lake, {f"i{n}": "goal" for n in range(30)})
    result = run_vote(lake, functions, timeout_s=0.3, batch_items=20)
    assert result.detail["switched_off"] == ["f"]
    assert faults(lake)["", "f"] == "switched_off"
    assert {name: sum(n == name for _, n in votes(lake)) for name in ("good", "after", "f")} == {
        "good": 30,
        "after": 30,
        "f": 0,
    }


def test_one_item_that_hangs_is_one_fault(lake: Lake, tmp_path: Path) -> None:
    functions = from_file(tmp_path, "@labeling_function()\ndef f(x):\n    while x.text == 'slow': pass\n    return 0\n")
    add_items(lake, {"a": "goal", "b": "slow", "c": "goal"})
    run_vote(lake, functions, timeout_s=0.3)
    assert faults(lake) == {("b", "f"): "timeout"}
    assert (votes(lake)["a", "f"], votes(lake)["c", "f"]) == (0, 0)


def test_slow_function_that_stays_within_the_limit_per_item_is_left_alone(lake: Lake, tmp_path: Path) -> None:
    # All items together take longer than the parent waits for a sign of life; each one alone is quick.
    body = "import time\n@labeling_function()\ndef f(x):\n    time.sleep(0.1)\n    return 0\n"
    functions = from_file(tmp_path, body, own_process=True)
    add_items(lake, {f"i{n:03}": "goal" for n in range(40)})
    assert run_vote(lake, functions, timeout_s=1.0).detail["switched_off"] == []
    assert sum(name == "f" for _, name in votes(lake)) == 40


@pytest.mark.parametrize("end", ["os._exit(7)", "os.kill(os.getpid(), 9)"])
def test_function_that_ends_its_process_is_switched_off_alone(lake: Lake, tmp_path: Path, end: str) -> None:
    body = f"import os\n@vectorized('sports')\ndef f(batch):\n    {end}\n"
    body += "@vectorized('politics')\ndef after(batch):\n    return [True] * len(batch)\n"
    add_items(lake, TEXTS)
    run_vote(lake, from_file(tmp_path, body, own_process=True), batch_items=2)
    assert faults(lake) == {("", "f"): "switched_off"}
    assert sum(name == "after" for _, name in votes(lake)) == 4


def test_faults_of_another_process_arrive_as_they_are(lake: Lake, tmp_path: Path) -> None:
    body = "@labeling_function()\ndef f(x):\n    return {'a': 7, 'b': None, 'c': 0}[x.item_id]\n"
    add_items(lake, {"a": "x", "b": "x", "c": "x"})
    run_vote(lake, from_file(tmp_path, body, own_process=True))
    assert faults(lake) == {("a", "f"): "out_of_range", ("b", "f"): "not_a_vote"}
    assert votes(lake)["c", "f"] == 0


def test_time_limit_in_this_process_leaves_the_timer_that_was_there() -> None:
    @vectorized("sports")
    def f(items: ItemBatch) -> object:
        while True:
            pass

    before, (left_s, every_s) = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)
    outcome = call_function(f, batch(["a"]), Limits(timeout_s=0.05))
    assert [x.fault for x in outcome.faults] == ["timeout"]
    after_s, every_after_s = signal.getitimer(signal.ITIMER_REAL)
    assert (after_s > 0, every_after_s) == (left_s > 0, every_s), "that of pytest-timeout, where it is there"
    assert after_s <= left_s
    assert signal.getsignal(signal.SIGALRM) == before


def test_details_are_short_and_without_addresses() -> None:
    @vectorized("sports")
    def f(items: ItemBatch) -> object:
        raise ValueError(f"{object()!r}" + "x" * 10_000)

    detail = call_function(f, batch(["a"])).faults[0].detail
    assert len(detail) == 500
    assert "0x..." in detail


def test_what_a_run_ends_with_has_its_sentences_apart(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"was never closed$") as broken:
        load_functions(
            write_functions(tmp_path, "from weak_labels import keywords\nk = keywords('sports', ['goal'"), CLASSES
        )
    words = failed_in_words("cycle", broken.value, "the beginning")
    assert "was never closed. Someone must mend this" in words
    assert ". Someone" in (whole := failed_in_words("cycle", SettingsError("Set it.")))
    assert ".." not in whole
