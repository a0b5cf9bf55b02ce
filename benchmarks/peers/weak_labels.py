"""Label models of other projects on the votes of one set.

    python -m benchmarks.peers.weak_labels VOTES.npz ANSWERS.npz

Reads `votes` [N, L] (-1 abstains), `train` [N], `classes` and `limit_s`; writes for each peer its class of every
covered row, if it ended before it had used `limit_s` seconds of processor time, and the seconds it took; of one that
raised an error, as some do on few functions or votes for one class, what it said.
"""

import os
import resource
import signal
import sys
import tempfile
from typing import Any

import numpy as np


def main() -> None:
    """Every peer on one data set."""
    given = np.load(sys.argv[1])
    votes, train, classes = given["votes"].astype(int), given["train"], int(given["classes"])
    found: dict[str, Any] = {}
    for name, answer in (*_crowd_kit(votes, classes), ("FlyingSquid", lambda: _flying_squid(votes, train, classes))):
        told, seconds = limited(answer, int(given["limit_s"]))
        found[f"seconds:{name}"] = seconds
        if told is not None:
            found[name if told.dtype.kind != "U" else f"failed:{name}"] = told
    np.savez(sys.argv[2], **found)


def limited(answer: Any, limit_s: int) -> tuple[Any, float]:
    """The answer or an error's words, from a child that the kernel ends at its limit (None then); its CPU seconds."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "answer.npy")
        child = os.fork()
        if child == 0:
            resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s + 1))
            try:
                told = answer()
            except Exception as error:  # noqa: BLE001 - a peer that cannot take these votes; the page says so
                told = np.array(f"{type(error).__name__}: {error}")
            np.save(path, told)
            os._exit(0)
        _, status, used = os.wait4(child, 0)
        seconds = used.ru_utime + used.ru_stime
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL):
            return None, seconds
        if status != 0:  # it was not Python that ended it: one that crashes costs its own figure alone
            return np.array(f"its process ended with {os.waitstatus_to_exitcode(status)}"), seconds
        return np.load(path), seconds


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
