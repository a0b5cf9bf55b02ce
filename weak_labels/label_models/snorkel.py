"""Snorkel's own `LabelModel`, fenced in: it seeds global generators, and its posterior underflows on many votes.

Snorkel and torch are imported when they are used, because that takes seconds.
"""

import random
import threading
from collections.abc import Generator
from contextlib import contextmanager

import numpy as np

from warehouse.numeric import one_core
from weak_labels.label_models.votes import Bools, Probs, VoteMatrix
from weak_labels.losses import softmax

SMALLEST_L = 3
"""Snorkel identifies the accuracies from triples, so it refuses fewer functions."""


_one_at_a_time = threading.Lock()
"""Snorkel draws from the global generators, where a fit in another thread would draw in between."""


class NoSolution(ArithmeticError):
    """Snorkel's training ran into NaN: these votes do not determine the accuracies."""


def snorkel_posterior(votes: VoteMatrix, train_N: Bools, *, epochs: int, seed: int) -> Probs:
    """Class probabilities given the votes, under accuracies that Snorkel estimates without gold labels.

    Args:
        votes: the votes of at least 3 functions.
        train_N: rows to fit on, made dense; every row gets a posterior.
        epochs: steps of Snorkel's optimiser.
        seed: seed of its starting point.

    Returns:
        Probabilities [N, C]; rows without a vote hold the uniform prior.

    Raises:
        NoSolution: the loss became NaN.

    Source: Ratner et al. 2019, Training Complex Models with Multi-Task Weak Supervision, https://arxiv.org/abs/1810.02840
    """
    from snorkel.labeling.model import LabelModel

    model = LabelModel(cardinality=votes.classes, verbose=False)
    # Its matrices are small: waiting for a second thread costs 20 times the work when the machine is busy.
    with _one_at_a_time, _global_generators_restored(), one_core():
        try:
            model.fit(votes.take(np.flatnonzero(train_N)).dense(), n_epochs=epochs, seed=seed, progress_bar=False)
        except Exception as error:  # Snorkel raises a bare Exception for this one
            if "NaN" not in str(error):
                raise
            raise NoSolution(str(error)) from error
    # [L, C + 1, C]: P(vote | class), where index 0 of the votes is abstain. Abstaining says nothing about the class,
    # as in `LabelModel.predict_proba`; the sum of logarithms cannot underflow as its product of probabilities can.
    log_LVC = np.log(np.maximum(model.get_conditional_probs(), np.finfo(np.float32).tiny)).astype(np.float64)
    evidence_PC = log_LVC[:, 1:, :].reshape(-1, votes.classes)
    return softmax(np.asarray(votes.pairs() @ evidence_PC))


@contextmanager
def _global_generators_restored() -> Generator[None]:
    """Give the program back the global generators that `LabelModel.fit` seeds."""
    import torch

    python_state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002 - saved only to undo what Snorkel does to it
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002 - see above
