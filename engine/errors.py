"""Errors of the engine, which stands alone; every message names the thing, the values and the way out."""

from collections.abc import Mapping


class EngineError(Exception):
    """Base of every error that the engine raises on purpose. Trying the same call again does not help."""


class OptionError(EngineError):
    """An argument of `load_encoder` is wrong or asks for what this machine does not have."""


class ModelFileError(EngineError):
    """A file of the model is missing, damaged or not what it should be."""


class InputError(EngineError):
    """Some of the texts cannot be encoded; none of the call was computed.

    Attributes:
        reasons: what is wrong, by the text's index in the call; empty when the call as a whole is wrong.
    """

    def __init__(self, message: str, reasons: Mapping[int, str] | None = None) -> None:
        super().__init__(message)
        self.reasons = dict(reasons or {})


class NumericError(EngineError):
    """The model gave a vector that is not finite or has no direction.

    Attributes:
        indexes: the texts' indexes in the call.
    """

    def __init__(self, message: str, indexes: tuple[int, ...]) -> None:
        super().__init__(message)
        self.indexes = indexes


class OverloadError(EngineError):
    """There is no room for more texts at present; nothing was computed. The same call may succeed later."""


class DeadlineError(EngineError):
    """A text was not computed before its deadline."""


class WorkerError(EngineError):
    """The encoder's workers are gone; it must be started again."""


class UnavailableError(EngineError):
    """The engine's server is away or too busy, also after retries. The same call may succeed later."""
