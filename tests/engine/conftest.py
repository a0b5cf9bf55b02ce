"""The encoders, each loaded once for all tests of the engine."""

from collections.abc import Iterator

import pytest
import torch

from engine.load import load_encoder
from engine.protocol import Encoder


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    return load_encoder("dense", max_tokens=64, threads=2)


@pytest.fixture(scope="session")
def routed() -> Encoder:
    return load_encoder("routed", max_tokens=64, threads=2)


@pytest.fixture(scope="session")
def shallow() -> Encoder:
    return load_encoder("shallow", max_tokens=64, threads=2)


@pytest.fixture(params=["encoder", "routed", "shallow"])
def either(request: pytest.FixtureRequest) -> Encoder:
    """Each of the encoders: a test with this runs for all."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny products gain nothing from a second core, and on a busy one waiting threads lose much."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
