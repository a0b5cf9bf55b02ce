"""Functions that a trained thing speaks through: `model` (any classifier) and `cluster` (cells of a k-means)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from warehouse import DataError, SettingsError
from weak_labels.functions import arguments
from weak_labels.functions.call import NotAVote
from weak_labels.functions.types import ABSTAIN, ItemBatch, LabelingFunction, Matrix, Votes
from weak_labels.functions.version import fingerprint


def model(
    classifier: Any,
    *,
    on: Literal["texts", "vectors"],
    threshold: float = 0.8,
    name: str | None = None,
    description: str = "",
    timeout_s: float | None = None,
) -> LabelingFunction:
    """Vote as a trained classifier predicts, where it is sure enough.

    Args:
        classifier: fitted; has `predict_proba` and `classes_`, as scikit-learn's have. Its classes are class names,
            or class numbers of the project. What it learned decides the function's version.
        on: what it was trained on: a list of texts, or vectors [N, D] of the project's encoder.
        threshold: lowest probability at which it votes, above 0 and at most 1.
        name: name of the function; the variable's when left out.
        description: what it says about the items; the classifier's type when left out.
        timeout_s: seconds for one batch; the project's when left out.

    Raises:
        SettingsError: it is not fitted, has no `predict_proba`, a class is no name and no class number, or a parameter
            is out of range.
    """
    where = f"model({type(classifier).__name__})"
    if on not in ("texts", "vectors"):
        raise SettingsError(f"{where}: on is {on!r}; it must be 'texts' or 'vectors'.")
    arguments.number(threshold, f"{where}: threshold")
    if not 0 < threshold <= 1:
        raise SettingsError(f"{where}: threshold is {threshold}; it must be above 0 and at most 1.")
    if not callable(getattr(classifier, "predict_proba", None)):
        raise SettingsError(f"{where}: it has no predict_proba. Use a classifier that gives probabilities.")
    known = getattr(classifier, "classes_", None)
    if known is None:
        raise SettingsError(f"{where}: it has no classes_, so it is not fitted. Call fit before.")
    classes = [_class_of(c, where) for c in known]

    def rule(batch: ItemBatch) -> Votes:
        if [_class_of(c, where) for c in classifier.classes_] != classes:
            raise NotAVote("not_a_vote", "the classifier was fitted again, on other classes; make the function anew")
        probs_NC = np.asarray(classifier.predict_proba(batch.vectors if on == "vectors" else batch.texts), np.float64)
        if probs_NC.shape != (len(batch), len(classes)):
            expected = (len(batch), len(classes))
            raise NotAVote("not_a_vote", f"predict_proba gave shape {probs_NC.shape} where {expected} is expected")
        if not np.isfinite(probs_NC).all():
            raise NotAVote("not_a_vote", "predict_proba gave a value that is no number")
        numbers = np.array([batch.class_id(c) if isinstance(c, str) else c for c in classes], np.int32)
        sure = probs_NC.max(axis=1) >= threshold
        return np.where(sure, numbers[probs_NC.argmax(axis=1)], np.int32(ABSTAIN)).astype(np.int32)

    made_of = ("model", classifier, on, threshold)
    return LabelingFunction(
        name=name or "",
        kind="model",
        version=fingerprint(*made_of, as_loaded=True),
        made_of=made_of,
        rule=rule,
        description=description or f"{type(classifier).__name__} on {on}, where it is sure to {threshold:g}",
        labels=tuple(c for c in classes if isinstance(c, str)),
        class_ids=tuple(c for c in classes if isinstance(c, int)),
        uses_vectors=on == "vectors",
        timeout_s=timeout_s,
    )


def _class_of(value: Any, where: str) -> str | int:
    if isinstance(value, str):
        return str(value)
    number = isinstance(value, bool | np.bool_ | int | np.integer | float | np.floating)
    if number and value >= 0 and float(value).is_integer():
        return int(value)
    raise SettingsError(
        f"{where}: its class {value} is no class name and no class number (0, 1, ...). Fit it on names or numbers of "
        "the project's classes."
    )


def cluster(
    label: str,
    cells: Sequence[int],
    *,
    centres: Path,
    radius: float = 2.0,
    name: str | None = None,
    description: str = "",
) -> LabelingFunction:
    """Vote for a class in some cells of a clustering: where the nearest of all centres is one of these.

    Args:
        label: class to vote for.
        cells: rows of the centres' file, counted from 0.
        centres: .npy file of the centres [K, D] float32, as `siftline lf suggest` writes it:
            `Path(__file__).with_name("clusters.npy")`. Its content decides the function's version.
        radius: largest cosine distance (1 - cosine) to that centre, above 0 and at most 2.
        name: name of the function; the variable's when left out.
        description: what it says about the items.

    Raises:
        SettingsError: the file is missing or no such matrix, a cell is not in it, or the radius is out of range.
    """
    arguments.text(label, "A class that a cluster function votes for")  # else the cells, which follow, look wrong
    where = f"cluster('{label}', ...)"
    try:
        loaded: Any = np.load(centres, allow_pickle=False)
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise SettingsError(
            f"{where}: {centres} cannot be read as a matrix: {error}. Make it: siftline lf suggest"
        ) from error
    if loaded.ndim != 2 or not len(loaded) or not np.issubdtype(loaded.dtype, np.floating):
        raise SettingsError(f"{where}: {centres} holds {loaded.dtype} {loaded.shape}, not centres [K, D] of floats.")
    if isinstance(cells, int | str):
        raise SettingsError(f"{where}: cells must be a list of numbers, such as [{cells}].")
    for cell in cells:
        arguments.whole(cell, f"{where}: a cell")
    cells = [int(cell) for cell in cells]
    if not cells or not 0 <= min(cells) <= max(cells) < len(loaded):
        raise SettingsError(f"{where}: cells are {cells}; name some of 0 to {len(loaded) - 1} ({centres}).")
    arguments.number(radius, f"{where}: radius")
    if not 0 < radius <= 2:
        raise SettingsError(f"{where}: radius is {radius}; it must be above 0 and at most 2 (cosine distance).")
    centres_KD: Matrix = (loaded / np.maximum(np.linalg.norm(loaded, axis=1, keepdims=True), 1e-12)).astype(np.float32)
    ours = np.zeros(len(centres_KD), np.bool_)
    ours[cells] = True

    def rule(batch: ItemBatch) -> Votes:
        if batch.vectors.shape[1] != centres_KD.shape[1]:
            raise DataError(
                f"the centres have {centres_KD.shape[1]} dimensions, the vectors {batch.vectors.shape[1]}; "
                "make new ones: siftline lf suggest"
            )
        # float64, so that the rounding of another batch size does not decide a vote.
        likeness = batch.vectors.astype(np.float64) @ centres_KD.astype(np.float64).T  # [N, K]
        best = likeness.argmax(axis=1)
        near = ours[best] & (1 - likeness[np.arange(len(batch)), best] <= radius)
        return np.where(near, np.int32(batch.class_id(label)), np.int32(ABSTAIN)).astype(np.int32)

    return LabelingFunction(
        name=name or "",
        kind="cluster",
        version=fingerprint("cluster", label, sorted(set(cells)), radius, centres_KD),
        rule=rule,
        description=description or f"cells {', '.join(map(str, sorted(set(cells))))} of {len(centres_KD)}",
        labels=(label,),
        uses_vectors=True,
    )
