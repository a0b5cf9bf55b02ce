"""Votes as a sparse matrix: what every label model reads, in memory that grows with the votes that were cast.

An abstain is the absence of a vote. Rows are items, each with the functions that voted on it and their classes.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix, issparse

from warehouse import SettingsError
from weak_labels.functions import arguments
from weak_labels.functions.arguments import whole_numbers

Votes = npt.NDArray[np.int64]
Probs = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class VoteMatrix:
    """V votes of L functions on N items, in the order of the items.

    Attributes:
        starts: [N + 1] the votes of item n are those from starts[n] to starts[n + 1].
        function_V: [V] the function of each vote, 0 to L - 1.
        class_V: [V] its class, 0 to C - 1.
        functions: L.
        classes: C.
    """

    starts: Ints
    function_V: npt.NDArray[np.int32]
    class_V: npt.NDArray[np.int32]
    functions: int
    classes: int

    @classmethod
    def from_triples(
        cls, row_V: Any, function_V: Any, class_V: Any, *, items: int, functions: int, classes: int
    ) -> Self:
        """Votes given one by one, in any order; one that is given twice counts once.

        Args:
            row_V: item of each vote [V].
            function_V: function of each vote [V].
            class_V: class of each vote [V]; -1 is an abstain and left out.
            items: N.
            functions: L.
            classes: C.

        Raises:
            SettingsError: a vote is no class and no abstain, or of no item or function that there is; or a count
                is no whole number.
        """
        for what, number in (("items", items), ("functions", functions), ("classes", classes)):
            arguments.whole(number, f"The number of {what} of the votes")
        row_V, function_V, class_V = (whole_numbers(part, "Votes") for part in (row_V, function_V, class_V))
        if not row_V.shape == function_V.shape == class_V.shape == (len(class_V),):
            raise SettingsError(
                f"Votes given one by one have items {row_V.shape}, functions {function_V.shape} and classes "
                f"{class_V.shape}; give three lists of one length."
            )
        for what, numbers_V, end in (("items", row_V, items), ("functions", function_V, functions)):
            if numbers_V.size and not (numbers_V.min() >= 0 and numbers_V.max() < end):
                raise SettingsError(
                    f"Votes name the {what} {numbers_V.min()} to {numbers_V.max()}, but {end} {what} are numbered 0 to "
                    f"{end - 1}."
                )
        if class_V.size and not (class_V.min() >= -1 and class_V.max() < classes):
            raise SettingsError(
                f"Votes range from {class_V.min()} to {class_V.max()}, but {classes} classes allow -1 (abstain) to "
                f"{classes - 1}. Mend the labeling function or the classes."
            )
        cast_V = class_V >= 0
        row_V, function_V, class_V = row_V[cast_V], function_V[cast_V], class_V[cast_V]
        order_V = np.lexsort((class_V, function_V, row_V))
        row_V, function_V, class_V = row_V[order_V], function_V[order_V], class_V[order_V]
        repeated = _repeated(row_V, function_V)
        again = repeated[class_V[repeated] == class_V[repeated - 1]]
        if again.size:
            row_V, function_V, class_V = (np.delete(part, again) for part in (row_V, function_V, class_V))
        starts = np.zeros(items + 1, np.int64)
        np.cumsum(np.bincount(row_V, minlength=items), out=starts[1:])
        return cls(starts, function_V.astype(np.int32), class_V.astype(np.int32), functions, classes)

    @classmethod
    def from_dense(cls, votes_NL: npt.NDArray[np.integer[Any]], classes: int) -> Self:
        """Votes given as class ids [N, L] with -1 for an abstain.

        Raises:
            SettingsError: they are no matrix of whole numbers, or what `from_triples` says.
        """
        if issparse(votes_NL):
            raise SettingsError(
                "Votes are a sparse matrix, in which a vote for class 0 cannot be told from none; give them one by "
                "one: VoteMatrix.from_triples(item of each vote, its function, its class, ...)."
            )
        votes_NL = whole_numbers(votes_NL, "Votes")
        if votes_NL.ndim != 2:
            raise SettingsError(
                f"Votes have shape {votes_NL.shape}; give a row for each item and a column for each function."
            )
        row_V, function_V = np.nonzero(votes_NL != -1)
        return cls.from_triples(
            row_V,
            function_V,
            votes_NL[row_V, function_V],
            items=votes_NL.shape[0],
            functions=votes_NL.shape[1],
            classes=classes,
        )

    @property
    def items(self) -> int:
        """N."""
        return len(self.starts) - 1

    @cached_property
    def cast_N(self) -> Ints:
        """How many votes each item got [N]."""
        return np.diff(self.starts)

    @property
    def covered_N(self) -> Bools:
        """Items that got a vote [N]."""
        return self.cast_N > 0

    @cached_property
    def row_V(self) -> Ints:
        """The item of each vote [V]."""
        return np.repeat(np.arange(self.items), self.cast_N)

    def divided(self) -> Ints:
        """Votes [.] of functions that voted for another class on the same item too, the first of these left out."""
        return _repeated(self.row_V, self.function_V)

    def counts(self) -> Probs:
        """Votes for each class [N, C]."""
        cells = np.bincount(self.row_V * self.classes + self.class_V, minlength=self.items * self.classes)
        return cells.reshape(self.items, self.classes).astype(np.float64)

    def dense(self) -> Votes:
        """Class ids [N, L] with -1 for an abstain; for models that need them, in memory of N times L."""
        votes_NL = np.full((self.items, self.functions), -1, np.int64)
        votes_NL[self.row_V, self.function_V] = self.class_V
        return votes_NL

    def take(self, rows: Ints) -> "VoteMatrix":
        """The votes on some items, in the order given."""
        cast = self.cast_N[rows]
        starts = np.concatenate([[0], np.cumsum(cast)])
        places = np.repeat(self.starts[rows] - starts[:-1], cast) + np.arange(starts[-1])
        return VoteMatrix(starts, self.function_V[places], self.class_V[places], self.functions, self.classes)

    def pairs(self) -> csr_matrix:
        """One column for each function and class [N, L * C], 1 where that function cast that vote."""
        columns = self.function_V.astype(np.int64) * self.classes + self.class_V
        ones = np.ones(len(columns), np.float64)
        return csr_matrix((ones, columns, self.starts), shape=(self.items, self.functions * self.classes))

    def learnable(self, train_N: Bools) -> "VoteMatrix":
        """The votes of the functions that vote on a train row; about the others nothing can be learned."""
        votes_L = np.zeros(self.functions, np.bool_)
        votes_L[self.function_V[train_N[self.row_V]]] = True
        if votes_L.all():
            return self
        stay_V = votes_L[self.function_V]
        return VoteMatrix.from_triples(
            self.row_V[stay_V],
            (np.cumsum(votes_L) - 1)[self.function_V[stay_V]],
            self.class_V[stay_V],
            items=self.items,
            functions=int(votes_L.sum()),
            classes=self.classes,
        )

    def distinct(self, train_N: Bools) -> tuple["VoteMatrix", Ints, Ints]:
        """The different functions in an order of their own: one that copies another would count double.

        Train rows decide what is a copy, and the order, so that neither the order of the functions nor votes on other
        rows change a bit of what is learned. On other rows a copy speaks where the function that is kept is silent, and
        neither does where they contradict each other.

        Args:
            train_N: rows to learn from.

        Returns:
            The votes of the functions that are kept, where each of these stood, and for each function [L] which of
            them votes for it.
        """
        rank_N = np.argsort(np.argsort(~train_N, kind="stable"))
        trains = int(train_N.sum())
        row_V = rank_N[self.row_V]
        order_V = np.lexsort((self.class_V, row_V, self.function_V))
        bounds = np.searchsorted(self.function_V[order_V], np.arange(self.functions + 1))
        contents: dict[tuple[bytes, bytes], list[int]] = {}
        for function in range(self.functions):
            votes = order_V[bounds[function] : bounds[function + 1]]
            cell_V = row_V[votes] * self.classes + self.class_V[votes]
            cut = np.searchsorted(row_V[votes], trains)
            # Rows of other splits are counted from the first of them: one more train item is no other function.
            elsewhere = b"" if cut else _digest(cell_V - trains * self.classes)
            contents.setdefault((_digest(cell_V[:cut]), elsewhere), []).append(function)
        groups = [contents[key] for key in sorted(contents)]
        kept = np.array([group[0] for group in groups], np.int64)
        place = np.empty(self.functions, np.int64)
        for number, group in enumerate(groups):
            place[group] = number
        together = type(self).from_triples(
            self.row_V,
            place[self.function_V],
            self.class_V,
            items=self.items,
            functions=len(kept),
            classes=self.classes,
        )
        return together._agreed(), kept, place

    def _agreed(self) -> Self:
        """Without the votes of functions that vote for several classes on one item."""
        if not (later := self.divided()).size:
            return self
        stay_V = np.ones(len(self.class_V), np.bool_)
        stay_V[later] = stay_V[later - 1] = False
        row_V, function_V, class_V = (part[stay_V] for part in (self.row_V, self.function_V, self.class_V))
        return type(self).from_triples(
            row_V, function_V, class_V, items=self.items, functions=self.functions, classes=self.classes
        )


def _repeated(row_V: Ints, function_V: npt.NDArray[np.integer[Any]]) -> Ints:
    """Votes [.] of the same function on the same item as the vote before them, of votes in order."""
    return 1 + np.flatnonzero((row_V[1:] == row_V[:-1]) & (function_V[1:] == function_V[:-1]))


def _digest(cells: Ints) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(cells, np.int64).tobytes()).digest()


def train_rows(train: Any, items: int) -> Bools:
    """The rows to learn from [N]; all where None is given.

    Raises:
        SettingsError: they are not one truth value per item.
    """
    if train is None:
        return np.ones(items, np.bool_)
    train_N = np.asarray(train)
    if train_N.dtype != np.bool_ or train_N.shape != (items,):
        raise SettingsError(
            f"The train rows are {train_N.dtype} of shape {train_N.shape}; give one truth value for each of the "
            f"{items} items."
        )
    return train_N
