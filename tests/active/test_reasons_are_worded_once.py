"""A wording is made once for all items that it fits; each item gets its own all the same."""

from dataclasses import replace

import numpy as np
import pytest

from active.pool.pool import Pool
from active.value.reasons import reasons

N, CLASSES = 400, 3


def pool(generator: np.random.Generator) -> Pool:
    sharp = generator.dirichlet(np.full(CLASSES, 0.4), N)
    return Pool(
        item_ids=[f"i{row}" for row in range(N)],
        content_hashes=[""] * N,
        class_names=["acq", "earn", "two words"],
        votes=generator.integers(0, 3, (N, CLASSES)) * (generator.random((N, 1)) < 0.5).astype(np.float64),
        weak=np.zeros((N, CLASSES)),
        predicted=sharp,
        has_prediction=generator.random(N) < 0.8,
        labelled=np.empty(0, np.int64),
        gold=np.empty(0, np.int64),
        queued=np.empty(0, np.int64),
    )


def test_all_at_once_are_what_one_by_one_gives() -> None:
    generator = np.random.default_rng(3)
    known = pool(generator)
    speaks_for, redundancy = generator.integers(0, 4, N), generator.random(N)
    settled = np.where(generator.random(N) < 0.3, 0.0, generator.random(N) / 50)
    rows = np.sort(generator.choice(N, 300, replace=False))
    said = reasons(known, speaks_for, redundancy, settled, rows).to_pylist()
    alone = [reasons(known, speaks_for, redundancy, settled, np.array([row])).to_pylist()[0] for row in rows]
    assert said == alone
    assert len(set(said)) > N / 2
    for part in (
        "Speaks only",
        "1 record ",
        "2 functions vote",
        "no function",
        "unsure",
        "(9",
        "remove 1.",
        "close to",
    ):
        assert any(part in sentence for sentence in said), part


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (0, "4 functions disagree on c0, c1 and c2"),
        (1, "5 functions disagree on c1, c0, c2 and 1 other class"),
        (27, "31 functions disagree on c1, c0, c2 and 27 other classes"),
    ],
)
def test_of_many_classes_that_functions_vote_for_those_with_most_votes_are_named(more: int, words: str) -> None:
    votes = np.ones((N, 3 + more))
    votes[:, 1] = 2
    names = [f"c{number}" for number in range(3 + more)]
    known = replace(
        pool(np.random.default_rng(5)),
        class_names=names,
        votes=votes,
        weak=np.zeros_like(votes),
        predicted=np.zeros_like(votes),
        has_prediction=np.zeros(N, bool),
    )
    zeros = np.zeros(N)
    [said] = reasons(known, zeros.astype(np.int64), zeros, zeros, np.array([0])).to_pylist()
    assert said == f"Speaks only for itself; {words}."


def test_nothing_is_asked_for() -> None:
    known = pool(np.random.default_rng(4))
    zeros = np.zeros(N)
    assert reasons(known, zeros.astype(np.int64), zeros, zeros, np.empty(0, np.int64)).to_pylist() == []


@pytest.mark.parametrize("multi_label", [False, True])
def test_before_there_is_an_end_model_nothing_is_said_of_it(multi_label: bool) -> None:
    known = replace(pool(np.random.default_rng(5)), has_prediction=np.zeros(N, np.bool_), multi_label=multi_label)
    zeros = np.zeros(N)
    said = reasons(known, zeros.astype(np.int64), zeros, zeros, np.arange(N)).to_pylist()
    assert not any("the model" in sentence for sentence in said)
    assert all(sentence.startswith("Speaks only for itself; ") for sentence in said)
