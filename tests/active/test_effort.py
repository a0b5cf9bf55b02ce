"""The seconds of an answer: learned from what people spent, not misled by who left the desk, used where asked for."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from active.annotation.simulated_annotator import DECISION_S, WORDS_PER_S, seconds_to_answer
from active.selection.stage import SelectConfig, select
from active.strategies import STRATEGIES
from active.value.labeling_cost import FEWEST, LEAST_S, Effort
from active.value.stage import ValueConfig, estimate_values
from tests.active.pools import CLASSES, SmallPool, clusters, label, small_pool
from tests.active.test_select_strategies import NONE, situation
from tests.lakes import copy_of
from warehouse import Lake, SettingsError

WORD = "word "
ANSWERED = 24
N = 60


def texts(count: int, seed: int = 0) -> list[str]:
    """Texts of 5 to 200 words of five characters each."""
    return [WORD * int(words) for words in np.random.default_rng(seed).integers(5, 200, count)]


def answers(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Characters and seconds of the simulated annotator's answers."""
    given = texts(count)
    return np.array([len(t) for t in given]), np.array([seconds_to_answer(f"i{k}", t, 0) for k, t in enumerate(given)])


def off_by(effort: Effort | None) -> float:
    """The largest error of the expected time of 5 to 200 words, as a share of what the simulated annotator needs."""
    assert effort is not None
    words = np.arange(5, 200, 5)
    needed = words / WORDS_PER_S + DECISION_S
    return float(np.abs(effort.seconds(words * len(WORD)) / needed - 1).max())


def test_what_the_simulated_annotator_needs_is_learned_from_its_answers() -> None:
    assert off_by(Effort.learned(*answers(400))) < 0.1
    assert off_by(Effort.learned(*answers(40))) < 0.3


def test_answers_of_people_who_left_the_desk_hardly_count() -> None:
    characters, seconds = answers(400)
    away = np.random.default_rng(1).random(400) < 0.1
    left = np.where(away, seconds + 3600, seconds)
    assert off_by(Effort.learned(characters, left)) < 0.2
    slope, base = np.polyfit(characters, left, 1)  # least squares believes every hour
    words = np.arange(5, 200, 5)
    assert ((slope * words * len(WORD) + base) / (words / WORDS_PER_S + DECISION_S)).min() > 5


def test_with_too_few_answers_nothing_is_expected() -> None:
    characters, seconds = answers(FEWEST)
    assert Effort.learned(characters[1:], seconds[1:]) is None
    assert Effort.learned(characters, seconds) is not None


def test_texts_beyond_those_that_were_answered_count_as_the_nearest_of_them() -> None:
    characters, seconds = answers(100)
    effort = Effort.learned(characters, seconds)
    assert effort is not None
    edges = effort.seconds(np.array([characters.min(), characters.max()]))
    assert effort.seconds(np.array([0, 1_000_000])).tolist() == edges.tolist()
    assert edges[0] < edges[1]


def test_equal_lengths_give_their_median() -> None:
    effort = Effort.learned(np.full(31, 80), np.linspace(5.0, 35.0, 31))
    assert effort is not None
    assert effort.seconds(np.array([10, 80, 800])) == pytest.approx([20.0, 20.0, 20.0])


@pytest.fixture
def pool(lake: Lake, tmp_path: Path) -> SmallPool:
    probs = np.random.default_rng(0).dirichlet(np.ones(len(CLASSES)), N)
    return small_pool(lake, tmp_path / "index", clusters(N)[0], probs, texts=dict(enumerate(texts(N))))


def answered(pool: SmallPool, count: int, **changes: float) -> None:
    """The first items are labelled, in the time that the simulated annotator needs; `changes` by item."""
    spent = {item: seconds_to_answer(item, texts(N)[row], 0) for row, item in enumerate(pool.ids[:count])}
    label(pool, dict.fromkeys(spent, 0), seconds={**spent, **changes})


def valued(pool: SmallPool) -> dict[str, dict[str, Any]]:
    estimate_values(pool.lake, pool.index(), ValueConfig())
    with pool.lake.read() as reader:
        rows = reader.arrow('SELECT v.*, length(i.content) AS characters FROM "values" v JOIN items i USING (item_id)')
    return {row["item_id"]: row for row in rows.to_pylist()}


def test_the_expected_seconds_stand_beside_the_value_and_do_not_change_it(pool: SmallPool) -> None:
    answered(pool, ANSWERED)
    found = valued(pool)
    assert len(found) == N - ANSWERED
    by_length = sorted(found.values(), key=lambda row: row["characters"])
    expected = [row["expected_seconds"] for row in by_length]
    assert expected == sorted(expected)
    for row in by_length:
        needed = row["characters"] / len(WORD) / WORDS_PER_S + DECISION_S
        assert 0.5 < row["expected_seconds"] / needed < 2
    assert max(row["value"] for row in by_length) == 1
    with pool.lake.read() as reader:
        detail = reader.scalar("SELECT detail FROM runs WHERE stage = 'value'")
    assert f'"expected_seconds": {round(float(np.median(expected)), 2)}' in detail


def test_answers_without_a_time_tell_nothing(pool: SmallPool) -> None:
    answered(pool, FEWEST, i00003=0.0)
    assert {row["expected_seconds"] for row in valued(pool).values()} == {None}
    label(pool, {"i00030": 1}, seconds={"i00030": 9.0})
    assert all(row["expected_seconds"] > 0 for row in valued(pool).values() if row["item_id"] != "i00030")


def chosen(pool: SmallPool, project: str, **changes: Any) -> tuple[list[tuple[str, str, float]], str]:
    """Item, reason and expected seconds of a batch by rank, and what the selection says of itself."""
    estimate_values(pool.lake, pool.index(), ValueConfig())
    select(pool.lake, pool.index(), SelectConfig(**{"project": project, "batch": 6, "budget": 90, **changes}))
    with pool.lake.read() as reader:
        rows = reader.rows(
            'SELECT q.item_id, q.reason, v.expected_seconds FROM queue q JOIN "values" v USING (item_id, cycle) '
            "WHERE q.project = ? ORDER BY q.rank",
            [project],
        )
        detail = reader.scalar("SELECT detail FROM runs WHERE stage = 'select' ORDER BY committed_at DESC LIMIT 1")
    return rows, str(detail)


def test_ranked_by_seconds_a_batch_costs_less_and_says_so(tmp_path: Path) -> None:
    spent: dict[str, float] = {}
    for cost in ("label", "seconds"):
        probs = np.random.default_rng(0).dirichlet(np.ones(len(CLASSES)), N)
        with copy_of(Lake, tmp_path / cost) as lake:
            given = small_pool(lake, tmp_path / f"i{cost}", clusters(N)[0], probs, texts=dict(enumerate(texts(N))))
            answered(given, ANSWERED)
            rows, detail = chosen(given, "p", cost=cost)
        spent[cost] = sum(seconds for *_, seconds in rows)
        for _, reason, seconds in rows:
            assert reason.endswith(f"; about {round(seconds)} s to answer.") == (cost == "seconds")
        assert ('"ranked_by": "second"' in detail) == (cost == "seconds")
    assert spent["seconds"] < 0.75 * spent["label"]


def test_while_nothing_is_known_ranking_by_seconds_is_ranking_by_labels(tmp_path: Path) -> None:
    found: list[list[tuple[str, str, float]]] = []
    for cost in ("label", "seconds"):
        with copy_of(Lake, tmp_path / cost) as lake:
            given = small_pool(lake, tmp_path / f"i{cost}", clusters(N)[0], texts=dict(enumerate(texts(N))))
            answered(given, FEWEST - 1)
            rows, detail = chosen(given, "p", cost=cost)
        assert ('"ranked_by": "label"' in detail) == (cost == "seconds")
        found.append(rows)
    assert found[0] == found[1]


@pytest.mark.parametrize("weak", [False, True])
def test_of_two_items_worth_the_same_the_quicker_one_comes_first(weak: bool) -> None:
    vectors, classes = clusters(N)
    given = situation(vectors, np.full((N, len(CLASSES)), 1 / 3), labelled=NONE, queued=NONE)
    if weak:
        votes = np.eye(len(CLASSES))[classes]
        given = replace(given, pool=replace(given.pool, weak=votes, votes=votes))
        assert given.pool.weakly_taught
    first = STRATEGIES["value"](given, 1).rows[0]
    seconds = np.full(N, 10.0)
    assert STRATEGIES["value"](replace(given, seconds=seconds), 20).rows[0] == first
    seconds[first] = 100.0
    pick = STRATEGIES["value"](replace(given, seconds=seconds), 20)
    assert pick.rows[0] != first
    assert ((pick.values >= 0) & (pick.values <= 1)).all()
    assert (np.diff(pick.values) <= 0).all()


def test_a_strategy_that_does_not_look_at_seconds_is_refused_with_the_way_out() -> None:
    with pytest.raises(SettingsError, match=r'"margin" does not look at seconds\. Set strategy = "value", or cost'):
        SelectConfig(project="p", strategy="margin", cost="seconds")
    with pytest.raises(SettingsError, match='cost of the selection is "hours"'):
        SelectConfig(project="p", cost="hours")  # type: ignore[arg-type]


def test_answers_without_a_duration_worth_the_name_make_no_label_free() -> None:
    effort = Effort.learned(np.arange(1, 31), np.full(30, 0.001))
    assert effort is not None
    assert effort.seconds(np.array([1, 1000])).tolist() == [LEAST_S, LEAST_S]
