"""The vote stage: every function on every item once, again only for what changed, and nothing of what is gone."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from sklearn.linear_model import LogisticRegression

from engine.errors import UnavailableError
from tests.lakes import copy_of
from tests.weak_labels.lf_helpers import (
    CLASSES,
    add_items,
    add_vectors,
    config,
    encode,
    faults,
    run_vote,
    votes,
    write_functions,
)
from warehouse import DataError, Lake, SettingsError, Upsert
from weak_labels import ItemBatch, LabelingFunction, keywords, load_functions, model, nearest, regex, vectorized
from weak_labels.analysis.preview import preview
from weak_labels.applying.prefilter import Screens
from weak_labels.applying.stage import vote

SPORT = keywords("sports", ["goal", "match"], name="sport")
ATOM = keywords("science", ["atom"], name="atom")
NEAR = nearest({"science": ["atom"]}, radius=0.3, name="near")
TEXTS = {"a": "a goal", "b": "an atom", "c": "nothing"}
TABLES = ("lf_votes", "lf_faults", "lf_inputs", "lf_reach")


def counted(calls: list[str], name: str = "seen", label: str = "sports") -> LabelingFunction:
    @vectorized(label, name=name)
    def code(batch: ItemBatch) -> list[bool]:
        calls.extend(batch.item_ids)
        return [True] * len(batch)

    # What the code refers to decides its version; here that is a list which grows with each call.
    return dataclasses.replace(code, version="1", made_of=())


def test_every_item_gets_a_vote_of_every_function(lake: Lake) -> None:
    add_items(lake, TEXTS)
    result = run_vote(lake, [SPORT, ATOM])
    assert votes(lake) == {
        ("a", "sport"): 0,
        ("b", "sport"): -1,
        ("c", "sport"): -1,
        ("a", "atom"): -1,
        ("b", "atom"): 2,
        ("c", "atom"): -1,
    }
    assert result.committed
    assert result.rows_written == {"lf_votes": 2, "lf_inputs": 3, "lf_reach": 2}
    assert (result.detail["votes"], result.detail["faults"], result.detail["switched_off"]) == (2, 0, [])


def test_second_run_does_nothing(lake: Lake) -> None:
    add_items(lake, TEXTS)
    run_vote(lake, [SPORT, ATOM])
    before = lake.content_hash()
    assert not run_vote(lake, [SPORT, ATOM]).committed
    assert lake.content_hash() == before


def test_only_new_items_are_voted_on(lake: Lake) -> None:
    calls: list[str] = []
    add_items(lake, TEXTS)
    run_vote(lake, [counted(calls)])
    add_items(lake, {"d": "new"})
    assert run_vote(lake, [counted(calls)]).rows_read == 1
    assert calls == ["a", "b", "c", "d"]


def test_edited_item_is_voted_on_again(lake: Lake) -> None:
    add_items(lake, TEXTS)
    run_vote(lake, [SPORT])
    add_items(lake, {"a": "no more", "b": "a match"})
    assert run_vote(lake, [SPORT]).rows_read == 2
    assert votes(lake) == {("a", "sport"): -1, ("b", "sport"): 0, ("c", "sport"): -1}


def test_edited_metadata_counts_as_an_edit(lake: Lake) -> None:
    calls: list[str] = []
    add_items(lake, TEXTS)
    run_vote(lake, [counted(calls)])
    add_items(lake, {"a": TEXTS["a"]}, metadata='{"desk": "x"}')
    run_vote(lake, [counted(calls)])
    assert calls == ["a", "b", "c", "a"]


def test_what_older_versions_noted_is_not_voted_on_again(lake: Lake) -> None:
    calls: list[str] = []
    add_items(lake, TEXTS)
    run_vote(lake, [counted(calls)])
    with lake.stage("older", version=1, inputs=()) as stage:
        hash_of_both = "left(md5(concat_ws('|', i.content_hash, i.metadata)), 16)"
        noted = stage.arrow(
            f"SELECT item_id, n.input, {hash_of_both} AS input_hash, n.batch "
            "FROM lf_inputs n JOIN items i USING (item_id)"
        )
        stage.commit([Upsert("lf_inputs", noted)])
    calls.clear()
    add_items(lake, {"a": "edited", "d": "new"})
    run_vote(lake, [counted(calls)])
    assert sorted(calls) == ["a", "d"]
    with lake.read() as reader:
        batches = dict(reader.rows("SELECT item_id, batch FROM lf_inputs"))
    assert batches == {"a": 2, "b": 1, "c": 1, "d": 2}


def test_only_a_changed_function_votes_again(lake: Lake) -> None:
    calls: list[str] = []
    add_items(lake, TEXTS)
    run_vote(lake, [counted(calls), SPORT])
    calls.clear()
    result = run_vote(lake, [counted(calls), keywords("sports", ["nothing"], name="sport")])
    assert calls == []
    assert result.rows_written == {"lf_votes": 1, "lf_reach": 1}
    assert [votes(lake)[item, "sport"] for item in "abc"] == [-1, -1, 0]


def test_a_function_of_a_running_program_votes_again_where_what_it_refers_to_changed(lake: Lake) -> None:
    """A notebook's helper in a cell of its own: nothing was voted on again, so the old votes stayed."""
    words = ["goal"]
    classifier = LogisticRegression().fit([[0.0], [1.0]], ["sports", "science"])

    class OfTexts:
        classes_ = classifier.classes_

        def __init__(self) -> None:
            self.learned = classifier

        def predict_proba(self, texts: list[str]) -> npt.NDArray[np.float64]:
            return self.learned.predict_proba([[100.0 * ("goal" in text)] for text in texts])

    @vectorized("sports")
    def worded(batch: ItemBatch) -> list[bool]:
        return [any(word in text for word in words) for text in batch.texts]

    learned = model(OfTexts(), on="texts", threshold=0.9, name="learned")
    add_items(lake, TEXTS)
    run_vote(lake, [worded, learned])
    before = votes(lake)
    assert not run_vote(lake, [worded, learned]).committed
    words.append("atom")
    classifier.fit([[0.0], [1.0]], ["science", "sports"])
    assert run_vote(lake, [worded, learned]).committed
    assert (before["b", "worded"], votes(lake)["b", "worded"]) == (-1, 0)
    assert (before["a", "learned"], votes(lake)["a", "learned"]) == (2, 0)


def test_a_classifier_that_was_fitted_on_other_classes_since_is_a_fault(lake: Lake) -> None:
    classifier = LogisticRegression().fit([[0.0], [1.0]], ["sports", "science"])
    learned = model(classifier, on="vectors", name="learned")
    add_items(lake, TEXTS)
    add_vectors(lake)
    classifier.fit(encode(["goal", "atom"]), ["sports", "politics"])
    run_vote(lake, [learned])
    assert set(faults(lake)) == {("", "learned")}
    with lake.read() as reader:
        told = reader.scalar("SELECT detail FROM lf_faults")
    assert "fitted again, on other classes; make the function anew" in told


def test_votes_of_several_versions_go_where_no_run_tells_of_them(lake: Lake) -> None:
    rows = [
        {"item_id": item, "lf_name": "sport", "lf_version": f"of {item}", "input_hash": "", "vote": 1} for item in "bc"
    ]
    add_items(lake, TEXTS)
    with lake.stage("before", version=1, inputs=()) as stage:
        stage.commit([Upsert("lf_votes", pa.Table.from_pylist(rows))])
    run_vote(lake, [SPORT])
    assert {item: vote for (item, _), vote in votes(lake).items()} == {"a": 0, "b": -1, "c": -1}


def test_votes_of_removed_functions_go(lake: Lake) -> None:
    add_items(lake, TEXTS)
    run_vote(lake, [SPORT, ATOM])
    assert run_vote(lake, [ATOM]).committed
    assert {name for _, name in votes(lake)} == {"atom"}


def test_new_order_of_classes_makes_new_votes(lake: Lake) -> None:
    add_items(lake, TEXTS)
    run_vote(lake, [ATOM])
    run_vote(lake, [ATOM], classes=("science", *CLASSES[:2]))
    assert votes(lake)["b", "atom"] == 0


def test_functions_on_vectors_wait_for_them(lake: Lake) -> None:
    add_items(lake, TEXTS)
    result = run_vote(lake, [SPORT, NEAR])
    assert result.detail["without_vector"] == 3
    assert {name for _, name in votes(lake)} == {"sport"}
    add_vectors(lake)
    run_vote(lake, [SPORT, NEAR])
    assert {item for item, name in votes(lake) if name == "near"} == {"a", "b", "c"}
    assert votes(lake)["b", "near"] == 2


def test_edited_item_loses_the_vote_on_its_old_vector(lake: Lake) -> None:
    add_items(lake, TEXTS)
    add_vectors(lake)
    run_vote(lake, [NEAR])
    add_items(lake, {"b": "zzz"})
    run_vote(lake, [NEAR])
    assert ("b", "near") not in votes(lake)
    add_vectors(lake)
    run_vote(lake, [NEAR])
    assert votes(lake)["b", "near"] == -1


def test_another_encoder_makes_new_votes_of_functions_on_vectors_only(lake: Lake) -> None:
    add_items(lake, TEXTS)
    add_vectors(lake)
    add_vectors(lake, "other")
    run_vote(lake, [SPORT, NEAR])
    result = run_vote(lake, [SPORT, NEAR], encoder_id="other")
    assert result.rows_written == {"lf_votes": 1, "lf_inputs": 3, "lf_reach": 2}


def test_votes_do_not_depend_on_the_batch_size(tmp_path: Path) -> None:
    hashes: list[dict[str, str]] = []
    for size, least_bytes in ((2, 0), (100, 0), (2, 300)):
        with copy_of(Lake, tmp_path / f"{size}-{least_bytes}") as lake:
            add_items(lake, {f"i{n}": ("a goal", "an atom", "x")[n % 3] for n in range(7)})
            add_vectors(lake)
            run_vote(lake, [SPORT, ATOM, NEAR], batch_items=size, pattern_bytes=least_bytes)
            hashes.append(lake.content_hash(TABLES))
    assert hashes[0] == hashes[1] == hashes[2]


def test_step_by_step_ends_where_one_run_ends(tmp_path: Path) -> None:
    with copy_of(Lake, tmp_path / "once") as once, copy_of(Lake, tmp_path / "steps") as steps:
        add_items(once, TEXTS)
        run_vote(once, [SPORT, ATOM])
        add_items(steps, {"a": "was different"})
        run_vote(steps, [keywords("sports", ["different"], name="sport"), keywords("sports", ["a"], name="gone")])
        add_items(steps, {k: TEXTS[k] for k in "ab"})
        run_vote(steps, [SPORT])
        add_items(steps, TEXTS)
        run_vote(steps, [SPORT, ATOM])
        assert once.content_hash(TABLES) == steps.content_hash(TABLES)


def test_python_functions_of_a_file_vote_in_their_own_process(
    lake: Lake, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_functions(
        tmp_path,
        """
        import os
        from snorkel.labeling import labeling_function
        from weak_labels import vectorized

        @labeling_function()
        def row(x):
            return "science" if "atom" in x.text else -1

        @vectorized("politics", vectors=True)
        def column(batch):
            return batch.vectors[:, 0] > 0.8

        @vectorized("sports")
        def same_process(batch):
            print("this must not reach standard output")
            return [str(os.getpid()) in text for text in batch.texts]
        """,
    )
    add_items(lake, {"a": "aaaa", "b": "an atom", "c": str(os.getpid())})
    add_vectors(lake)
    run_vote(lake, load_functions(path, CLASSES), batch_items=2)
    stored = votes(lake)
    assert [stored[i, "row"] for i in "abc"] == [-1, 2, -1]
    assert [stored[i, "column"] for i in "abc"] == [1, -1, -1]
    assert stored["c", "same_process"] == -1
    assert capfd.readouterr().out == ""


def test_file_changed_after_loading_is_refused(lake: Lake, tmp_path: Path) -> None:
    source = (
        "from weak_labels import vectorized\n@vectorized('sports')\ndef f(batch):\n    return [True] * len(batch)\n"
    )
    functions = load_functions(write_functions(tmp_path, source), CLASSES)
    write_functions(tmp_path, source.replace("True", "False"))
    add_items(lake, TEXTS)
    with pytest.raises(SettingsError, match="'f' has another version"):
        run_vote(lake, functions)
    assert votes(lake) == {}


def test_progress_counts_items(lake: Lake) -> None:
    seen: list[tuple[int, int]] = []
    add_items(lake, TEXTS)
    vote(lake, [SPORT], config(batch_items=2), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 3), (3, 3)]


def test_a_changed_pattern_gets_only_the_texts_that_it_matches(lake: Lake, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    add_items(lake, texts := {"a": "a GOAL\nby éva", "b": "atoms", "c": "goal", "d": "", "e": "élan vital"})
    run_vote(lake, [SPORT, ATOM])
    changed = [keywords("sports", ["goal", "vital"], name=SPORT.name), ATOM]
    result = vote(lake, changed, config(batch_items=1), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 5), (2, 5), (3, 5), (5, 5)]
    assert result.rows_read == result.detail["items"] == 5
    with copy_of(Lake, tmp_path / "fresh") as fresh:
        add_items(fresh, texts)
        run_vote(fresh, changed)
        assert lake.content_hash(["lf_votes", "lf_reach"]) == fresh.content_hash(["lf_votes", "lf_reach"])


@pytest.mark.parametrize("pattern", [r"\p{L}oal", "gœl", "(", ""])
def test_patterns_that_duckdb_may_read_otherwise_or_not_at_all_are_left_to_pyarrow(pattern: str) -> None:
    screens = Screens([dataclasses.replace(SPORT, screen=pattern), SPORT])
    assert screens.in_sql([0]) == screens.in_sql([0, 1]) == screens.in_sql([]) == ""
    assert screens.in_sql([1]) == f"(?:{SPORT.screen})"


def test_small_batches_are_put_together_where_no_function_can_fail(lake: Lake, tmp_path: Path) -> None:
    source = (
        "from weak_labels import vectorized\n@vectorized('sports')\ndef f(batch):\n    return [True] * len(batch)\n"
    )
    add_items(lake, TEXTS)
    seen: list[int] = []
    for functions in ([SPORT], load_functions(write_functions(tmp_path, source), CLASSES)):
        vote(lake, functions, config(batch_items=2, pattern_bytes=10**6), progress=lambda done, _: seen.append(done))
    assert seen == [3, 2, 3]


def test_batches_of_long_texts_have_fewer_items(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weak_labels.applying.progress.MOST_BYTES", 64 * 1024)
    monkeypatch.setattr("weak_labels.applying.progress.FETCHED_BYTES", 24 * 1024)
    add_items(lake, {f"i{n:03}": f"{n} goal" + " x" * 512 for n in range(100)})
    seen: list[int] = []
    vote(lake, [SPORT], config(batch_items=90), progress=lambda done, _: seen.append(done))
    assert seen == [69, 100], "in parts of 23, 64 KiB or more"
    assert [(p.items, p.hits) for p in preview(lake, [SPORT], config(batch_items=90), items=None)] == [(100, 100)]


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        ([keywords("sports", ["a"])], "has no name"),
        ([SPORT, SPORT], "two labeling functions are named 'sport'"),
        ([keywords("cooking", ["a"], name="cook")], "'cook' votes for 'cooking'"),
        ([NEAR], "'near' needs its exemplars embedded"),
    ],
)
def test_functions_that_cannot_vote_are_refused(lake: Lake, functions: list[LabelingFunction], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        vote(lake, functions, config())


@pytest.mark.parametrize(
    "wrong",
    [
        {"classes": ("a",)},
        {"classes": ("a", "a")},
        {"batch_items": 0},
        {"pattern_bytes": -1},
        {"timeout_s": 0},
        {"max_fault_frac": 1.5},
        {"min_faults": -1},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        config(**wrong)


def test_exemplars_are_embedded_once(lake: Lake) -> None:
    calls: list[int] = []

    def counting(texts: object) -> object:
        calls.append(1)
        return encode(texts)  # type: ignore[arg-type]

    add_items(lake, TEXTS)
    add_vectors(lake)
    vote(lake, [NEAR], config(batch_items=1), encode=counting)  # type: ignore[arg-type]
    assert len(calls) == 1


def test_encoder_that_is_away_ends_the_run_and_no_vote_goes(lake: Lake) -> None:
    add_items(lake, TEXTS)
    add_vectors(lake)
    run_vote(lake, [NEAR])
    before, snapshot = votes(lake), lake.snapshot()
    calls: list[int] = []

    def away(texts: object) -> Any:
        calls.append(1)
        raise UnavailableError("The engine cannot be reached.")

    changed = nearest({"science": ["atom", "quark"]}, radius=0.3, name="near")
    with pytest.raises(UnavailableError, match="cannot be reached"):
        vote(lake, [changed], config(batch_items=1, min_faults=0), encode=away)
    assert len(calls) == 1  # each try may wait for the server
    assert (votes(lake), faults(lake), lake.snapshot()) == (before, {}, snapshot)
    assert run_vote(lake, [changed]).committed


def test_exemplars_that_the_encoder_refuses_are_a_fault_of_their_function(lake: Lake) -> None:
    def refusing(texts: Sequence[str]) -> Any:
        if "quark" in texts:
            raise DataError("The encoder refuses 1 texts: 'quark'.")
        return encode(texts)

    add_items(lake, TEXTS)
    add_vectors(lake)
    odd = nearest({"science": ["quark"]}, radius=0.3, name="odd")
    vote(lake, [NEAR, odd], config(batch_items=1), encode=refusing)
    with lake.read() as reader:
        stored = reader.rows("SELECT item_id, lf_name, fault, detail FROM lf_faults")
    assert stored == [("", "odd", "switched_off", "raised: The encoder refuses 1 texts: 'quark'.")]
    [shown] = preview(lake, [odd], config(), encode=refusing)
    assert (shown.hits, shown.faults, shown.first_fault) == (0, 1, "raised: The encoder refuses 1 texts: 'quark'.")
    assert {name for (_, name), vote in votes(lake).items() if vote >= 0} == {"near"}


def test_functions_asked_in_one_pass_vote_as_each_alone(lake: Lake, tmp_path: Path) -> None:
    words = ["goal", "atom", "vote", "law", "match", "cell", "crown", "ball", "star", "poll", "ring", "x y"]
    texts = {
        f"i{n:03}": " ".join(words[k] for k in range(12) if (n >> (k % 7)) & 1 and k % 3 != n % 3) for n in range(150)
    }
    functions = [keywords(CLASSES[n % 3], [word], name=f"k{n}") for n, word in enumerate(words)]
    functions.append(keywords("science", ["cell", "star", "ring"], min_hits=2, name="two"))
    patterns = ("^goal", r"\Qx y", "(?i)RING$", "l.w|cr", r"\Qatom\E.*cell")
    functions += [regex("sports", pattern, name=f"r{n}") for n, pattern in enumerate(patterns)]
    add_items(lake, texts)
    run_vote(lake, functions, batch_items=40)
    with copy_of(Lake, tmp_path / "alone") as alone:
        add_items(alone, texts)
        for number in range(1, len(functions) + 1):
            # One new function at a time: too few for a common pass.
            run_vote(alone, functions[:number], batch_items=40)
        assert votes(alone) == votes(lake)
        assert alone.content_hash(["lf_votes"]) == lake.content_hash(["lf_votes"])
    assert len({name for (_, name), vote in votes(lake).items() if vote >= 0}) > 10


def test_a_new_function_needs_no_look_at_what_was_seen(lake: Lake) -> None:
    add_items(lake, TEXTS)
    run_vote(lake, [SPORT])
    assert run_vote(lake, [SPORT, ATOM]).rows_read == 3
    add_items(lake, {"a": "an atom", "d": "a goal"})
    assert run_vote(lake, [SPORT, ATOM]).rows_read == 2
    run_vote(lake, [SPORT, keywords("science", ["an"], name="atom")])
    assert [votes(lake)[item, "atom"] for item in "abcd"] == [2, 2, -1, -1]
    assert [votes(lake)[item, "sport"] for item in "abcd"] == [-1, -1, -1, 0]
