"""Fixtures of several files of this folder."""

import threading
from collections.abc import Iterator

import pytest

from tests.weak_labels.chat_service import Service


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()
