"""What is said of an error that nobody foresaw: an id to the client, the place to the log, the texts to nobody.

The message of an exception may quote a client's text, so the log has its type and the places it went through only.
"""

import secrets
import traceback
from pathlib import Path

PLACES = 8
"""The innermost ones of a traceback; enough to find the line and who called it."""


def new_id() -> str:
    """What the answer and the log have in common."""
    return secrets.token_hex(4)


def log_line(fault_id: str, path: str, error: BaseException) -> str:
    """One line: id, path of the request, type of the error, and the places it went through, the innermost first."""
    frames = traceback.extract_tb(error.__traceback__)[-PLACES:]
    places = [f"{'/'.join(Path(frame.filename).parts[-2:])}:{frame.lineno}" for frame in reversed(frames)]
    return f"Error {fault_id} at {path}: {type(error).__name__} in {', '.join(places)}"
