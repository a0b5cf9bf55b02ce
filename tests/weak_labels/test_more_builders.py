"""sql, model and cluster: what they vote, what they refuse, and what makes another version of them."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeClassifier

from tests.projects import ROOT
from tests.weak_labels.lf_helpers import (
    CLASSES,
    add_items,
    add_vectors,
    batch,
    encode,
    faults,
    run_vote,
    votes,
    write_functions,
)
from warehouse import Lake, SettingsError
from weak_labels import cluster, keywords, load_functions, model, sql
from weak_labels.functions.call import Limits, call_function

TRAIN = ["goal match", "goal", "match goal", "vote law", "vote", "law vote"]
LABELS = ["sports"] * 3 + ["politics"] * 3


def cast(function: object, texts: list[str], **further: object) -> list[int]:
    outcome = call_function(function, batch(texts, **further))  # type: ignore[arg-type]
    assert outcome.faults == []
    return outcome.votes.tolist()


class TestSql:
    def test_a_condition_votes_where_it_is_true(self) -> None:
        goals = sql("sports", "text ILIKE '%goal%' AND length(text) < 10 -- short ones")
        assert cast(goals, ["A GOAL", "a goal but long", "x"]) == [0, -1, -1]
        assert cast(sql("sports", "metadata->>'none' = 'a'"), ["a"]) == [-1]
        both = sql("sports", "(metadata->>'desk') = 'lab' AND (metadata->'more'->>'b') = text")
        assert cast(both, ["a", "b"], metadata=['{"desk": "lab", "more": {"b": "a"}}'] * 2) == [0, -1]

    def test_an_expression_gives_the_class(self) -> None:
        desk = sql(None, "CASE WHEN metadata->>'desk' = 'lab' THEN 'science' WHEN item_id = 'i1' THEN 'politics' END")
        assert cast(desk, ["a", "b", "c"], metadata=['{"desk": "lab"}', "{}", "{}"]) == [2, 1, -1]

    def test_a_class_that_is_none_is_a_fault(self) -> None:
        outcome = call_function(sql(None, "content"), batch(["sports", "cooking"]))
        assert outcome.votes.tolist() == [0, -2]
        assert [f.fault for f in outcome.faults] == ["out_of_range"]

    @pytest.mark.parametrize(
        ("expression", "words"),
        [
            ("", "syntax"),
            ("text LIKE", "syntax"),
            (
                "txt = 'a'",
                r"there is no column \"txt\"\. Further .* siftline.toml names them there: metadata->>'desk'\. W",
            ),
            ("lower(text, 3) = 'x'", r"You might need to add explicit type casts\. Write"),
            ('text LIKE "%a%"', "Texts stand in single quotes"),
            ("length(text)", "BIGINT where a truth value"),
            ("true) FROM items --", "more than one expression|syntax"),
            ("true), (false", "more than one expression"),
            ("true); DROP TABLE batch; SELECT (true", "more than one expression|only select"),
            ("(SELECT true)", "subquery"),
            ("text IN (SELECT content FROM batch)", "subquery"),
            ("EXISTS (FROM read_text('/etc/passwd'))", "subquery"),
            ("row_number() OVER () > 1", "window"),
            ("count(*) > 1", "count_star|count"),
            ("max(text) = text", "max"),
            ("random() < 0.5", "random"),
            ("now() > TIMESTAMP '2020-01-01'", "now|get_current"),
            ("current_date > DATE '2020-01-01'", "current_date"),
            ("getenv('HOME') = 'x'", "getenv"),
            ("(metadata->>'date')::TIMESTAMPTZ > ago(INTERVAL 3 DAY)", r"ago\(\) gives another answer each time"),
            ("age((metadata->>'date')::TIMESTAMP) < INTERVAL 3 DAY", "with one argument gives another"),
            ("current_localtimestamp() > (metadata->>'date')::TIMESTAMP", "current_localtimestamp"),
            ("pg_postmaster_start_time() > (metadata->>'date')::TIMESTAMPTZ", "pg_postmaster_start_time"),
            ("session_user = 'x'", "session_user"),
            ("geomean(length(text)) > 5", "geomean"),
            ("regexp_split_to_table(text, ' ') = 'x'", "regexp_split_to_table"),
            ("current_setting('memory_limit') = 'x'", "current_setting"),
            ("nextval('s') = 1", "nextval"),
            ("length(repeat(text, 2000000000)) > 5", "repeat"),
            ("len(range(3000000000)) > 5", "range"),
            ("nonsense(text)", "nonsense"),
            ("text = ?", "parameter"),
            ("length(text) < 9 AND metadata->>'desk' = 'x'", "brackets"),
            ("metadata->>'desk' = 'x' OR metadata->>'b' IS NULL", "brackets"),
            ("NOT metadata->>'desk' = 'x'", "brackets"),
            ("text = metadata->>'desk'", "brackets"),
        ],
    )
    def test_what_is_no_expression_about_one_item_is_refused(self, expression: str, words: str) -> None:
        with pytest.raises(SettingsError, match=f"(?is)({words}).*columns item_id, content, text, metadata"):
            sql("sports", expression)

    def test_a_macro_of_stable_functions_is_none_of_these(self) -> None:
        last = sql("sports", "list_last(string_split(text, ' ')) = 'end' AND split_part(text, ' ', 1) <> 'x'")
        aged = sql("sports", "age((metadata->>'b')::DATE, (metadata->>'a')::DATE) > INTERVAL 2 DAY")
        assert cast(last, ["x the end", "at the end"]) == [-1, 0]
        assert cast(aged, ["x"], metadata=['{"a": "2026-01-01", "b": "2026-01-04"}']) == [0]

    def test_one_that_takes_too_long_is_broken_off(self) -> None:
        slow = sql("sports", "levenshtein(text, reverse(text)) < 3", timeout_s=0.2)
        outcome = call_function(slow, batch(["a long text " * 20] * 100_000), Limits(timeout_s=60))
        assert [(f.row, f.fault) for f in outcome.faults] == [(-1, "timeout")]

    @pytest.mark.parametrize("timeout_s", [0, -3.0])
    def test_no_time_at_all_is_refused(self, lake: Lake, timeout_s: float) -> None:
        with pytest.raises(SettingsError, match="timeout_s of the labeling function 'long' is"):
            run_vote(lake, [sql("sports", "length(text) > 3", name="long", timeout_s=timeout_s)])

    def test_an_item_on_which_it_fails_costs_no_other_its_vote(self, lake: Lake) -> None:
        add_items(lake, {"a": "1", "b": "2", "c": "one goal", "d": "3", "e": "4"})
        for label, expression in (("sports", "text::INTEGER > 1"), (None, "if(text::INTEGER > 1, 'sports', NULL)")):
            result = run_vote(lake, [sql(label, expression, name="wrong")])
            assert (result.detail["switched_off"], result.detail["faults"]) == ([], 1)
            assert {item: vote for (item, _), vote in votes(lake).items()} == {"a": -1, "b": 0, "d": 0, "e": 0}
            with lake.read() as reader:
                [(item, fault, detail)] = reader.rows("SELECT item_id, fault, detail FROM lf_faults")
            assert (item, fault) == ("c", "raised")
            assert "'one goal'" in detail

    def test_one_that_fails_on_too_many_items_is_switched_off_alone(self, lake: Lake) -> None:
        add_items(lake, {"a": "one goal", **{f"b{k:02}": "none" for k in range(12)}})
        wrong = sql("sports", "text::INTEGER > 1", name="wrong")
        result = run_vote(lake, [wrong, keywords("sports", ["goal"], name="good")])
        assert result.detail["switched_off"] == ["wrong"]
        assert {key for key, vote in votes(lake).items() if vote >= 0} == {("a", "good")}

    def test_one_that_fails_on_most_items_of_a_batch_fails_as_a_whole(self) -> None:
        outcome = call_function(sql("sports", "text::INTEGER > 1"), batch(["none"] * 600))
        assert [(f.row, f.fault) for f in outcome.faults] == [(-1, "raised")]
        assert "'none'" in outcome.faults[0].detail

    def test_the_expression_decides_the_version(self) -> None:
        assert sql("sports", "text = 'a'").version == sql("sports", "text = 'a'", name="x").version
        assert sql("sports", "text = 'a'").version != sql("sports", "text = 'b'").version
        assert sql("sports", "text = 'a'").version != sql("science", "text = 'a'").version


class TestModel:
    def test_a_pipeline_on_texts_votes_where_it_is_sure(self) -> None:
        fitted = make_pipeline(CountVectorizer(), LogisticRegression(C=100)).fit(TRAIN, LABELS)
        assert cast(model(fitted, on="texts", threshold=0.8), ["goal match", "vote", "zebra"]) == [0, 1, -1]

    def test_class_numbers_and_vectors(self) -> None:
        fitted = LogisticRegression(C=1000).fit(encode(TRAIN), [0, 0, 0, 1, 1, 1])
        function = model(fitted, on="vectors")
        assert function.uses_vectors
        texts = ["goal match", "vote law"]
        assert cast(function, texts, vectors=encode(texts)) == [0, 1]

    def test_what_it_learned_decides_the_version(self) -> None:
        def trained(kind: object, labels: list[str]) -> str:
            return model(kind.fit(encode(TRAIN), labels), on="vectors").version  # type: ignore[attr-defined]

        other = ["sports", "politics"] * 3
        for kind in (LogisticRegression, lambda: DecisionTreeClassifier(random_state=0)):
            assert trained(kind(), LABELS) == trained(kind(), LABELS)
            assert trained(kind(), LABELS) != trained(kind(), other)

    def test_one_trained_in_the_file_votes_in_its_own_process(self, lake: Lake, tmp_path: Path) -> None:
        path = write_functions(
            tmp_path,
            f"""
            from sklearn.feature_extraction.text import CountVectorizer
            from sklearn.linear_model import LogisticRegression
            from sklearn.pipeline import make_pipeline
            from weak_labels import model

            classifier = make_pipeline(CountVectorizer(), LogisticRegression(C=100)).fit({TRAIN}, {LABELS})
            learned = model(classifier, on="texts")
            """,
        )
        add_items(lake, {"a": "goal match", "b": "zebra"})
        run_vote(lake, load_functions(path, CLASSES))
        assert votes(lake) == {("a", "learned"): 0, ("b", "learned"): -1}

    @pytest.mark.parametrize("probs", [np.full((2, 2), np.nan), np.ones((2, 3)), np.ones(2)])
    def test_probabilities_that_are_none_are_a_fault(self, probs: np.ndarray) -> None:
        class Wrong:
            classes_ = ("sports", "politics")

            def predict_proba(self, texts: object) -> np.ndarray:
                return probs

        outcome = call_function(model(Wrong(), on="texts"), batch(["a", "b"]))
        assert [(f.row, f.fault) for f in outcome.faults] == [(-1, "not_a_vote")]

    def test_unknown_classes_are_refused_with_the_others(self, lake: Lake) -> None:
        wrong = model(
            make_pipeline(CountVectorizer(), LogisticRegression()).fit(["a1", "b1"], ["cooking", "sports"]), on="texts"
        )
        with pytest.raises(SettingsError, match="cooking"):
            run_vote(lake, [dataclasses.replace(wrong, name="wrong")])

    @pytest.mark.parametrize(
        ("classes", "words"),
        [([-1, 1], "class -1"), ([0.4, 0.6], "class 0.4"), ([0, float("nan")], "class nan"), ([1, 7], "class 7")],
    )
    def test_numbers_that_are_no_classes_are_refused(self, lake: Lake, classes: list[float], words: str) -> None:
        class Numbered:
            classes_ = classes

            def predict_proba(self, texts: list[str]) -> np.ndarray:
                return np.ones((len(texts), 2)) / 2

        with pytest.raises(SettingsError, match=words):
            run_vote(lake, [model(Numbered(), on="texts", name="numbered")])

    def test_numbers_that_are_names_of_other_classes_are_refused(self, lake: Lake) -> None:
        function = model(make_pipeline(CountVectorizer(), LogisticRegression()).fit(["a1", "b1"], [0, 1]), on="texts")
        with pytest.raises(SettingsError, match="the number of '-1' and the name of another class"):
            run_vote(lake, [dataclasses.replace(function, name="learned")], classes=("-1", "0", "1"))

    @pytest.mark.parametrize(
        ("classifier", "changes", "words"),
        [
            (LogisticRegression(), {}, "not fitted"),
            (object(), {}, "predict_proba"),
            (LogisticRegression(), {"on": "pictures"}, "on is"),
            (LogisticRegression(), {"threshold": 0}, "threshold"),
        ],
    )
    def test_what_cannot_vote_is_refused(self, classifier: object, changes: dict[str, object], words: str) -> None:
        with pytest.raises(SettingsError, match=words):
            model(classifier, **({"on": "texts"} | changes))  # type: ignore[arg-type]


class TestCluster:
    def centres(self, folder: Path) -> Path:
        np.save(folder / "clusters.npy", 3 * encode(["goal", "atom", "zebra"]))
        return folder / "clusters.npy"

    def test_votes_in_its_cells_only(self, lake: Lake, tmp_path: Path) -> None:
        function = cluster("sports", [0, 2], centres=self.centres(tmp_path), name="cells")
        add_items(lake, {"a": "goal", "b": "atom", "c": "zebra"})
        add_vectors(lake)
        run_vote(lake, [function])
        assert [votes(lake)[item, "cells"] for item in "abc"] == [0, -1, 0]
        near = dataclasses.replace(cluster("sports", [0], centres=self.centres(tmp_path), radius=0.05), name="near")
        texts = ["goal", "goalie xxxx"]
        assert cast(near, texts, vectors=encode(texts)) == [0, -1]

    def test_the_centres_decide_the_version(self, tmp_path: Path) -> None:
        first = cluster("sports", [0], centres=self.centres(tmp_path)).version
        np.save(tmp_path / "clusters.npy", encode(["other", "atom", "zebra"]))
        assert cluster("sports", [0], centres=tmp_path / "clusters.npy").version != first

    def test_centres_of_another_encoder_are_a_fault_in_words(self, lake: Lake, tmp_path: Path) -> None:
        np.save(tmp_path / "clusters.npy", np.ones((2, 3), np.float32))
        add_items(lake, {"a": "goal"})
        add_vectors(lake)
        run_vote(lake, [cluster("sports", [0], centres=tmp_path / "clusters.npy", name="cells")])
        assert faults(lake) == {("a", "cells"): "raised"}

    def test_a_matrix_that_is_none_is_refused(self, tmp_path: Path) -> None:
        for content in (b"", b"junk", b"\x93NUMPY\x01\x00"):
            (tmp_path / "clusters.npy").write_bytes(content)
            with pytest.raises(SettingsError, match="siftline lf suggest"):
                cluster("sports", [0], centres=tmp_path / "clusters.npy")
        np.save(tmp_path / "clusters.npy", np.array([object()]), allow_pickle=True)
        with pytest.raises(SettingsError, match="cannot be read"):
            cluster("sports", [0], centres=tmp_path / "clusters.npy")
        np.save(tmp_path / "clusters.npy", np.ones(3))
        with pytest.raises(SettingsError, match="centres"):
            cluster("sports", [0], centres=tmp_path / "clusters.npy")

    @pytest.mark.parametrize(("cells", "radius"), [([], 1.0), ([3], 1.0), ([-1], 1.0), ([0], 0.0), ([0], 3.0)])
    def test_cells_and_radius_are_checked(self, tmp_path: Path, cells: list[int], radius: float) -> None:
        with pytest.raises(SettingsError, match=r"cells|radius"):
            cluster("sports", cells, centres=self.centres(tmp_path), radius=radius)


IN_A_ZONE = """
from tests.weak_labels.lf_helpers import batch
from weak_labels import sql
from weak_labels.functions.call import call_function
late = sql("sports", "(metadata->>'at')::TIMESTAMPTZ BETWEEN '2026-03-01 23:00' AND '2026-03-02'")
times = ['{"at": "2026-03-01T23:30:00Z"}', '{"at": "2026-03-01T18:30:00Z"}']
print(call_function(late, batch(["x", "y"], times)).votes)
"""


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Kolkata"])
def test_a_sql_function_votes_alike_on_machines_of_all_time_zones(zone: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IN_A_ZONE],
        env={**os.environ, "TZ": zone, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[ 0 -1]\n"


def test_no_progress_is_drawn_into_the_words_of_a_run() -> None:
    """DuckDB draws a bar after two seconds where it takes the process for a person's, as it does a `python -c`."""
    asked = "execute(\"SELECT current_setting('enable_progress_bar')\").fetchone()"
    for opened in ("duckdb.connect()", "open_in_utc(locked=True)"):
        script = f"import duckdb; from warehouse.session.duckdb import open_in_utc; print({opened}.{asked})"
        said = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
        assert said.stdout == f"({opened == 'duckdb.connect()'},)\n"
