"""The API key of an engine server, checked by one rule on both sides, so that a key that one takes the other takes."""

import os
import re

from engine.errors import OptionError

KEY_VARIABLE = "SIFTLINE_ENGINE_KEY"
"""The API key comes from this environment variable only: arguments can be read in the process list."""
SHORTEST_KEY = 16


def check_key(key: str) -> str:
    """A key as it is.

    Raises:
        OptionError: it is short, or holds what a header cannot carry; the key itself is not told.
    """
    if not re.fullmatch(r"[!-~]+", key):
        raise OptionError(f"{KEY_VARIABLE} holds a blank, a line end or a character that is not ASCII; take another.")
    if len(key) < SHORTEST_KEY:
        raise OptionError(f"{KEY_VARIABLE} has {len(key)} characters; take {SHORTEST_KEY} or more.")
    return key


def key_from_environment() -> str | None:
    """The API key without blanks and line ends around it; None when the variable is not set or empty."""
    return os.environ.get(KEY_VARIABLE, "").strip() or None
