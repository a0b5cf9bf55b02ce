"""What goes through the queue: a caller's request, its answer, and what a model makes of a pack."""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import torch

from engine.errors import EngineError, NumericError
from engine.protocol import Vectors


@dataclass(frozen=True, slots=True)
class Packed:
    """What a model made of the S texts of a pack: vectors [S, D], and per text the active share and the route."""

    vectors: torch.Tensor
    active_frac: Sequence[float]
    routes: Sequence[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """How much may wait at a time.

    Attributes:
        entries: texts.
        tokens: all tokens of them.
        seconds: how long they may take at the pace of the last seconds; only what waits alone may take longer.
    """

    entries: int = 4096
    tokens: int = 65_536
    seconds: float = math.inf


@dataclass(frozen=True, slots=True)
class BatchReport:
    """One finished batch, for metrics.

    Attributes:
        texts: texts in it.
        tokens: tokens of them.
        queue_s: seconds that each text waited.
        infer_s: seconds of the model.
        failed: there is no result; a batch of several is computed again text by text.
        made: texts that have a vector now.
    """

    texts: int
    tokens: int
    queue_s: Sequence[float]
    infer_s: float
    failed: bool
    made: int


@dataclass(slots=True)
class Answer:
    """What became of the N texts of a request.

    Attributes:
        vectors: [N, D]; rows of failed texts mean nothing.
        active_frac: [N], 1 where nobody asked for it.
        routes: N routes, "" where nobody asked for them.
        errors: why a text failed, by its index.
    """

    vectors: Vectors
    active_frac: np.ndarray
    routes: list[str]
    errors: dict[int, BaseException] = field(default_factory=dict[int, BaseException])

    def checked(self) -> "Answer":
        """Itself, when no text failed.

        Raises:
            NumericError: some texts have no vector; `indexes` says which.
            EngineError: the first other error.
        """
        wrong = tuple(sorted(i for i, error in self.errors.items() if not isinstance(error, EngineError)))
        for error in self.errors.values():
            if isinstance(error, EngineError) and not isinstance(error, NumericError):
                raise error
        numeric = tuple(sorted(self.errors))
        if numeric:
            why = f" ({type(self.errors[wrong[0]]).__name__}: {self.errors[wrong[0]]})" if wrong else ""
            raise NumericError(
                f"The encoder gave no unit vector for {len(numeric)} of {len(self.routes)} texts, the first is text "
                f"{numeric[0]}{why}. Its weights passed their check, so look at the machine's memory first.",
                numeric,
            )
        return self


class Request:
    """Texts that one caller waits for. `answer` is set once all of them are done; `cancel` forgets the rest."""

    def __init__(
        self,
        sequences: Sequence[list[int]],
        dimension: int,
        *,
        traced: bool,
        told: Callable[[int], None] | None,
        drop: "Callable[[Request], None]",
    ) -> None:
        count = len(sequences)
        self.answer: Future[Answer] = Future()
        self.traced, self.told = traced, told
        self.began = time.monotonic()
        self.sequences = sequences
        # The longest first, equal lengths together: they share an attention call.
        self.waiting = deque(sorted(range(count), key=lambda index: -len(sequences[index])))
        self.open = count
        self.result = Answer(np.zeros((count, dimension), np.float32), np.ones(count, np.float32), [""] * count)
        self._drop = drop

    def cancel(self) -> None:
        """Drop what was not computed yet; `answer` is never set then. For callers that leave."""
        self._drop(self)
