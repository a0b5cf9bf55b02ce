"""What the end model of one class and the votes on an item say together, as one probability.

The end model learned from the votes, so what it adds to them is worth less than it says: in log-odds it counts half
beside the whole of what the votes say. People's labels move both factors and an offset, each label judging an end model
that did not see it.

Shape letters: N items.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from weak_labels.classifiers.linear import EndModel, Floats, Hold, Ints

END_MODEL = 0.5
VOTES = 1.0
RIDGE = 32.0
"""Of the step that people's labels may move the factors."""
FIRST_OFFSET, OFFSET = 2.0, 6.0
"""How far the offset may go, in steps of a factor, below `ENOUGH` labels and from there on: of a class, functions may
find few items (docs/decisions/several-classes-per-item.md)."""
ENOUGH = 30
SURE = 1e-4
"""Probabilities are kept this far from 0 and 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Weighed:
    """log-odds = offset + end_model * log-odds of the end model + votes * what the votes add to a class's share."""

    offset: float
    end_model: float = END_MODEL
    votes: float = VOTES

    @classmethod
    def without_gold(cls, share: float) -> Self:
        """What holds before people say anything.

        Args:
            share: of the items that have the class by the label model, 0 to 1.
        """
        return cls(offset=float(log_odds(np.array(share))) * (1 - END_MODEL))

    def predict_proba(self, said: Floats, votes: npt.NDArray[np.floating[Any]]) -> Floats:
        """The probability that each item has the class [N].

        Args:
            said: the same by the end model alone [N].
            votes: log-odds by the votes, less those of the class's share [N].
        """
        return self._as_model(OFFSET).predict_proba(_beside(said, votes, OFFSET))[:, 1]

    def moved(self, said: Floats, votes: npt.NDArray[np.floating[Any]], has: Ints) -> Self:
        """Moved by people's labels, held to what it was.

        Args:
            said: by end models that did not see the label [N].
            votes: as for `predict_proba` [N].
            has: 1 where the item has the class, else 0 [N].
        """
        reach = OFFSET if len(has) >= ENOUGH else FIRST_OFFSET
        found = EndModel.fit_gold(self._as_model(reach), _beside(said, votes, reach), has, 2)
        end_model, votes_factor, offset = (found.weights_DC[:, 1] - found.weights_DC[:, 0]).tolist()
        return type(self)(offset=reach * offset, end_model=end_model, votes=votes_factor)

    def _as_model(self, reach: float) -> EndModel:
        half_D = np.array([self.end_model, self.votes, self.offset / reach]) / 2
        return EndModel(np.stack([-half_D, half_D], axis=1), np.zeros(2), np.ones(2, np.bool_), Hold(RIDGE))


def log_odds(probs: npt.NDArray[np.floating[Any]]) -> Floats:
    """The log-odds of probabilities."""
    kept = np.clip(probs.astype(np.float64), SURE, 1 - SURE)
    return np.log(kept) - np.log1p(-kept)


def _beside(said: Floats, votes: npt.NDArray[np.floating[Any]], reach: float) -> Floats:
    return np.stack([log_odds(said), votes.astype(np.float64), np.full(len(said), reach)], axis=1)
