"""The same text gives the same bits alone, in any batch, in any order, with any number of threads, in any process."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from engine.load import load_encoder
from engine.model.dense import pack
from engine.protocol import Encoder
from tests.engine.texts import make_texts

TEXTS = [*make_texts(240, longest=24, seed=1), *make_texts(60, longest=80, seed=2)]


@pytest.fixture(scope="module", params=["dense", "routed", "shallow"])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def subject(name: str) -> Encoder:
    return load_encoder(name, max_tokens=64, threads=2)


@pytest.fixture(scope="module")
def alone(subject: Encoder) -> np.ndarray:
    return np.concatenate([subject.encode([text]) for text in TEXTS])


def test_any_batch_and_order(subject: Encoder, alone: np.ndarray) -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        chosen = generator.permutation(len(TEXTS))[: generator.integers(2, 50)]
        vectors = subject.encode([TEXTS[index] for index in chosen])
        assert np.array_equal(vectors, alone[chosen])


@pytest.mark.parametrize(("callers", "workers"), [(1, 1), (2, 3), (4, 1)])
def test_any_number_of_threads(name: str, alone: np.ndarray, callers: int, workers: int) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(callers)
        vectors = load_encoder(name, max_tokens=64, threads=workers).encode(TEXTS[:150])
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(vectors, alone[:150])


def test_loading_leaves_the_callers_threads_alone() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        load_encoder("dense", max_tokens=64, threads=1)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_more_threads_than_the_system_starts_are_refused_and_the_process_ends() -> None:
    code = (
        "import resource, torch; from engine.load import load_encoder; load_encoder('shallow', threads=1); "
        "room = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize() + (1 << 30); "
        "resource.setrlimit(resource.RLIMIT_AS, (room, room)); torch.set_num_threads(3)\n"
        "try: load_encoder('shallow', threads=5000)\n"
        "except Exception as error: print(type(error).__name__, error, torch.get_num_threads())"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert ended.stdout.startswith("OptionError 5000 worker threads are more than can be started"), ended
    assert ended.stdout.endswith("Give fewer. 3\n")


def test_another_process(name: str, subject: Encoder, alone: np.ndarray) -> None:
    code = (
        "import sys; from engine.load import load_encoder; from tests.engine.texts import make_texts; "
        f"e = load_encoder({name!r}, max_tokens=64, threads=1); "
        "sys.stdout.buffer.write(e.encoder_id.encode() + e.encode(make_texts(240, longest=24, seed=1)[:20]).tobytes())"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert output == subject.encoder_id.encode() + alone[:20].tobytes()


def test_a_text_over_and_over(subject: Encoder, alone: np.ndarray) -> None:
    vectors = subject.encode([TEXTS[7]] * 90)
    assert (vectors == alone[7]).all()


def test_a_pack_holds_the_tokens_of_its_texts_and_no_others() -> None:
    batch = pack([[101, 7, 102]] * 3 + [[101, 102]] + [[101, 8, 102]])
    assert batch.ids_T.tolist() == [101, 7, 102] * 3 + [101, 102] + [101, 8, 102]
    assert batch.positions_T.tolist() == [0, 1, 2] * 3 + [0, 1] + [0, 1, 2]
    assert batch.sequences_T.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 2 + [4] * 3
    assert [(run.start, run.sequences, run.length) for run in batch.runs] == [(0, 3, 3), (9, 1, 2), (11, 1, 3)]
