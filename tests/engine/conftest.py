"""The dense encoder, loaded once for all tests of the engine."""

import pytest

from engine.client import Encoder, load_encoder


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    return load_encoder("dense", max_tokens=64, threads=2)
