"""Label models of other projects, in an environment of their own: run by `benchmarks.weak_labels`, never imported.

    .venv-peers-labels/bin/python benchmarks/weak_labels_peers.py VOTES.npz ANSWERS.npz

Reads `votes` [N, L] (-1 abstains), `train` [N] and `classes`; writes for each peer its class of every covered row.
"""

import sys
import time
from typing import Any

import numpy as np


def main() -> None:
    """Every peer on one data set."""
    given = np.load(sys.argv[1])
    votes, train, classes = given["votes"].astype(int), given["train"], int(given["classes"])
    found: dict[str, Any] = {}
    for name, answer in (*_crowd_kit(votes, classes), ("FlyingSquid", lambda: _flying_squid(votes, train, classes))):
        began = time.monotonic()
        found[name] = answer()
        found[f"seconds:{name}"] = time.monotonic() - began
    np.savez(sys.argv[2], **found)


def _crowd_kit(votes: Any, classes: int) -> list[tuple[str, Any]]:
    import pandas as pd
    from crowdkit.aggregation import GLAD, MACE, MMSR, DawidSkene, MajorityVote, OneCoinDawidSkene, Wawa, ZeroBasedSkill

    rows, functions = np.nonzero(votes >= 0)
    table = pd.DataFrame({"task": rows, "worker": functions, "label": votes[rows, functions]})

    def answer(model: Any) -> Any:
        told = model.fit_predict(table)
        labels = np.full(len(votes), -1)
        labels[told.index.to_numpy()] = told.to_numpy()
        return labels

    models = {
        "MajorityVote": MajorityVote(),
        "DawidSkene": DawidSkene(n_iter=100),
        "OneCoinDawidSkene": OneCoinDawidSkene(n_iter=100),
        "GLAD": GLAD(n_iter=30),
        "MACE": MACE(n_restarts=3, n_iter=30, random_state=0),
        "MMSR": MMSR(random_state=0),
        "Wawa": Wawa(),
        "ZeroBasedSkill": ZeroBasedSkill(),
    }
    return [(f"crowd-kit {name}", lambda model=model: answer(model)) for name, model in models.items()]


def _flying_squid(votes: Any, train: Any, classes: int) -> Any:
    """One problem per class against the rest, as WRENCH does; a vote for another class is a vote against it."""
    from flyingsquid.label_model import LabelModel

    covered = (votes >= 0).any(axis=1)
    scores = np.zeros((len(votes), classes))
    for class_id in range(classes) if classes > 2 else (1,):
        signs = np.where(votes < 0, 0, np.where(votes == class_id, 1, -1))
        signs = signs[:, (signs[train] != 0).any(axis=0)]
        share = float(np.clip((votes[train][votes[train] >= 0] == class_id).mean(), 0.01, 0.99))
        model = LabelModel(signs.shape[1], triplet_seed=0)
        model.fit(signs[train & covered], class_balance=np.array([1 - share, share]))
        scores[:, class_id] = np.nan_to_num(model.predict_proba(signs)[:, 1])
    if classes == 2:
        scores[:, 0] = 1 - scores[:, 1]
    return np.where(covered, scores.argmax(axis=1), -1)


if __name__ == "__main__":
    main()
