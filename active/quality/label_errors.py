"""Which labels may be wrong: each is compared with what a model and the neighbours say that never saw it.

Both halves look at the item from the others only: a linear model fitted on the other folds, and the labels of the
nearest labelled items without itself. A wrong label misleads both about its neighbours, so a second round counts each
label by how credible the first one found it. In a multi-label project each class is a yes-or-no question of its own,
and an item is as suspicious as its most suspicious answer.

Shape letters: T labelled items, D embedding, C classes, K neighbours.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from active.pool.graph import Bools, Floats, Rows, Vectors, check_vectors
from features.neighbors.faiss_index import VectorIndex
from warehouse import Reader, SettingsError
from warehouse.numeric import one_core
from warehouse.schema.answer_views import LAST_WORD

FOLDS = 5
ROUNDS = 2
NEIGHBORS = 20
STEP = 512
"""Items whose cosines with all T are held at a time."""
INVERSE_RIDGE = 10.0
SHARPNESS = 4.0
"""Power of the cosine by which a neighbour's label counts."""
SUSPICIOUS = 0.5
"""Suspicion over which model and neighbours together prefer another answer."""
PRIOR = 0.5
"""Votes that every class has before the neighbours vote, and the least probability times C."""

BALANCE = 0.5
"""With several classes, how far yes and no of a class are balanced: 0 not at all, 1 in full."""
CHANCES = 0.5
"""Power of C by which the answers to C classes are less suspicious each: an item has so many that may be wrong."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Suspect:
    """A gold label, and how much model and neighbours contradict it.

    Attributes:
        item_id: the item.
        labels: classes that people gave it; one, unless the project is multi-label.
        likely: classes that model and neighbours prefer, which may be the same; in a multi-label project they differ
            in the class in question at most.
        suspicion: of `suspicion`, 0 to 1; in a multi-label project that of the class in question.
        in_question: in a multi-label project the class whose yes or no is the most suspicious, else None.
    """

    item_id: str
    labels: tuple[int, ...]
    likely: tuple[int, ...]
    suspicion: float
    in_question: int | None = None


def suspects(reader: Reader, index: VectorIndex) -> list[Suspect]:
    """The labels in force of train items, the most suspicious first; those of reviewers are taken as right.

    Args:
        reader: of the warehouse.
        index: of the current vectors; labelled items that are not in it are left out.
    """
    place = {item_id: row for row, item_id in enumerate(index.item_ids)}
    gold: list[tuple[str, tuple[int, ...]]] = [
        (str(item), tuple(class_ids))
        for item, class_ids in reader.rows("SELECT item_id, class_ids FROM gold_labels ORDER BY item_id")
        if item in place
    ]
    if not gold:
        return []
    named = int(reader.scalar("SELECT count(*) FROM classes") or 0)
    classes = max([named, *(class_id + 1 for _, given in gold for class_id in given)])
    vectors = index.vectors[np.array([place[item] for item, _ in gold], np.int64)]
    generator = np.random.default_rng(0)  # draws the folds
    reviewed = {
        item
        for (item,) in reader.rows(
            "SELECT o.item_id FROM opinions o JOIN annotator_skills s ON s.annotator = o.annotator WHERE s.weight >= ?",
            [LAST_WORD],
        )
    }
    if reader.scalar("SELECT bool_or(multi_label) FROM classes"):
        found = _suspect_sets(vectors, gold, classes, generator)
    else:
        found = _suspect_labels(vectors, gold, classes, generator)
    return [suspect for suspect in found if suspect.item_id not in reviewed]


def _suspect_labels(
    vectors: Vectors, gold: list[tuple[str, tuple[int, ...]]], classes: int, generator: np.random.Generator
) -> list[Suspect]:
    labels = np.array([class_id for _, (class_id,) in gold], np.int64)
    found, likely = _judged(vectors, labels, classes, generator, rounds=ROUNDS)
    return [
        Suspect(item_id=gold[row][0], labels=gold[row][1], likely=(int(likely[row]),), suspicion=float(found[row]))
        for row in np.argsort(-found, kind="stable")
    ]


def _suspect_sets(
    vectors: Vectors, gold: list[tuple[str, tuple[int, ...]]], classes: int, generator: np.random.Generator
) -> list[Suspect]:
    has = np.zeros((len(gold), classes), np.bool_)
    for row, (_, class_ids) in enumerate(gold):
        has[row, list(class_ids)] = True
    found = suspicion_by_class(vectors, has, generator)
    worst = found.argmax(axis=1)
    suspected: list[Suspect] = []
    for row in np.argsort(-found.max(axis=1), kind="stable"):
        (item_id, given), asked, doubt = gold[row], int(worst[row]), float(found[row, worst[row]])
        likely = tuple(sorted({*given} ^ {asked})) if doubt > SUSPICIOUS else given
        suspected.append(Suspect(item_id=item_id, labels=given, likely=likely, suspicion=doubt, in_question=asked))
    return suspected


def suspicion(
    vectors: Vectors, labels: Rows, classes: int, generator: np.random.Generator, *, rounds: int = ROUNDS
) -> Floats:
    """How much each label is contradicted: an order, and no share of wrong ones.

    Args:
        vectors: [T, D] unit rows.
        labels: [T] class ids.
        classes: C.
        generator: draws the folds.
        rounds: of counting labels by their credibility.

    Returns:
        [T] 0 to 1: over 0.5 model and neighbours doubt it on the whole, each against the other class that it finds
        most probable. 0 where a label cannot be judged: in a class of fewer than five, and all where there is only one.

    Raises:
        SettingsError: `rounds` is below 1, labels are no classes or not as many as vectors, or the generator is none.
        DataError: vectors are not finite or not of length 1.

    Source: confident learning of Northcutt, Jiang, Chuang (2021) for the out-of-fold judgement, and the neighbourhood
    votes of Zhu, Dong, Liu (2022), Detecting Corrupted Labels Without Training a Model to Predict; their mean in
    log-odds and the second round were measured here.
    """
    if rounds < 1:
        raise SettingsError(f"rounds of the label check is {rounds}; it must be 1 or more.")
    _check_generator(generator)
    vectors, labels = check_vectors(vectors), np.asarray(labels)
    if labels.shape != (len(vectors),):
        raise SettingsError(f"Labels have shape {labels.shape}; give one for each of the {len(vectors)} vectors.")
    if labels.size and not (labels.dtype.kind in "iu" and labels.min() >= 0 and labels.max() < classes):
        shown = (
            f"from {labels.min()} to {labels.max()}"
            if labels.dtype.kind in "iuf"
            else f"such as {labels.tolist()[0]!r}"
        )
        raise SettingsError(
            f"Labels are {labels.dtype} {shown}; give class numbers from 0 to {classes - 1}, of labelled items only."
        )
    return _judged(vectors, labels, classes, generator, rounds=rounds)[0]


def suspicion_by_class(vectors: Vectors, has: Bools, generator: np.random.Generator) -> Floats:
    """How much each yes or no is contradicted where items have several classes or none.

    Args:
        vectors: [T, D] unit rows.
        has: [T, C] the item was given the class.
        generator: draws the folds.

    Returns:
        [T, C] 0 to 1: `suspicion` of the answer to each class, which C chances of being wrong make less sure. All 0 in
        a class that too few items have, or too few have not, for one of each in every fold: a first yes has nothing to
        be compared with.

    Raises:
        SettingsError: `has` is no truth value for each item and class, or the generator is none.
        DataError: vectors are not finite or not of length 1.

    Source: the thresholds for each class of confident learning, Northcutt, Jiang, Chuang (2021).
    """
    _check_generator(generator)
    vectors, has = check_vectors(vectors), np.asarray(has)
    if has.dtype != np.bool_ or has.ndim != 2 or len(has) != len(vectors):
        raise SettingsError(
            f"What the {len(vectors)} items have is {has.dtype} of shape {has.shape}; give a truth value for each item "
            "and class (has == 1 makes them of numbers)."
        )
    found = np.zeros(has.shape)
    judged = np.flatnonzero(np.minimum(has.sum(axis=0), (~has).sum(axis=0)) >= FOLDS)
    if not judged.size:
        return found
    with one_core():
        nearest = _nearest(vectors)
        for number in judged:
            odds = _odds_of_answers(vectors, has[:, number], nearest, generator)
            found[:, number] = _sigmoid(-odds - CHANCES * np.log(has.shape[1]))
    return found


def _odds_of_answers(
    vectors: Vectors, has: Bools, nearest: tuple[Rows, Floats], generator: np.random.Generator
) -> Floats:
    """Log-odds that each answer to one question is right [T].

    Most answers are no, so the others speak for a yes only weakly even where it is right, and every yes would be more
    suspicious than a forgotten one. So the odds count from nearer to the middle of those of the items answered yes and
    of those answered no.
    """
    answers = has.astype(np.int64)
    fold = _folds(answers, generator)
    odds, credible = np.zeros(len(has)), np.ones(len(has))
    for _ in range(ROUNDS):
        model = _out_of_fold(vectors, answers, 2, fold, credible)
        graph = _votes(*nearest, answers, 2, credible)
        yes = (_log_odds(model, np.ones_like(answers)) + _log_odds(graph, np.ones_like(answers))) / 2.0
        yes -= BALANCE * (yes[has].mean() + yes[~has].mean()) / 2.0
        odds = np.where(has, yes, -yes)
        credible = np.maximum(_sigmoid(odds), 0.01)
    return odds


def _check_generator(generator: object) -> None:
    if not isinstance(generator, np.random.Generator):
        raise SettingsError(f"The generator is {generator!r}; give one, such as np.random.default_rng(0).")


def _sigmoid(odds: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-np.clip(odds, -30.0, 30.0)))


def _judged(
    vectors: Vectors, labels: Rows, classes: int, generator: np.random.Generator, *, rounds: int
) -> tuple[Floats, Rows]:
    """Suspicion [T], and the given class or, where that is suspicious, the other that both prefer [T]."""
    count = len(labels)
    # As in `suspicion_by_class`: of 64 right labels two of a rare class were all suspicious, and two thirds of four.
    few = np.bincount(labels)[labels] < FOLDS
    if few.all() or len(np.unique(labels)) < 2:
        return np.zeros(count), labels
    fold = _folds(labels, generator)
    credible, found, both = np.ones(count), np.zeros(count), np.ones((count, classes))
    with one_core():
        near, similarity = _nearest(vectors)
        for _ in range(rounds):
            model = _out_of_fold(vectors, labels, classes, fold, credible)
            graph = _votes(near, similarity, labels, classes, credible)
            found = _sigmoid(-(_log_odds(model, labels) + _log_odds(graph, labels)) / 2.0)
            found[few] = 0.0
            credible = np.maximum(1.0 - found, 0.01)
            both = model * graph
    both[np.arange(count), labels] = -1.0
    return found, np.where(found > SUSPICIOUS, both.argmax(axis=1), labels)


def _folds(labels: Rows, generator: np.random.Generator) -> Rows:
    """A fold for each item; the items of a class are spread evenly."""
    shuffled = generator.permutation(len(labels))
    fold = np.empty(len(labels), np.int64)
    fold[shuffled[np.argsort(labels[shuffled], kind="stable")]] = np.arange(len(labels)) % FOLDS
    return fold


def _out_of_fold(vectors: Vectors, labels: Rows, classes: int, fold: Rows, credible: Floats) -> Floats:
    from sklearn.linear_model import LogisticRegression  # takes a second to import

    probs = np.full((len(labels), classes), PRIOR / classes)
    for number in range(int(fold.max()) + 1):
        rest, held = fold != number, fold == number
        if len(np.unique(labels[rest])) < 2:
            probs[held] = np.bincount(labels[rest], minlength=classes) / rest.sum()
            continue
        model: Any = LogisticRegression(C=INVERSE_RIDGE, max_iter=200)
        model.fit(vectors[rest], labels[rest], sample_weight=credible[rest])
        probs[np.ix_(held, model.classes_)] = model.predict_proba(vectors[held])
    return probs


def _nearest(vectors: Vectors) -> tuple[Rows, Floats]:
    """The K nearest others of each item [T, K] and their cosines; which of several at the same last cosine is open.

    Only these are sorted: with many labels most of the time and nearly all memory went into sorting the others.
    """
    count = len(vectors)
    width = min(NEIGHBORS, count - 1)
    near, similarity = np.empty((count, width), np.int64), np.empty((count, width))
    for start in range(0, count, STEP):
        part = np.arange(start, min(start + STEP, count))
        close = vectors[part] @ vectors.T
        close[np.arange(len(part)), part] = -np.inf
        found = np.sort(np.argpartition(close, -width, axis=1)[:, -width:], axis=1)
        order = np.argsort(-np.take_along_axis(close, found, axis=1), axis=1, kind="stable")
        near[part] = np.take_along_axis(found, order, axis=1)
        similarity[part] = np.take_along_axis(close, near[part], axis=1)
    return near, similarity


def _votes(near: Rows, similarity: Floats, labels: Rows, classes: int, credible: Floats) -> Floats:
    weight = np.clip(similarity, 0.0, 1.0) ** SHARPNESS * credible[near]
    votes = np.full((len(labels), classes), PRIOR / classes)
    for place in range(near.shape[1]):
        votes[np.arange(len(labels)), labels[near[:, place]]] += weight[:, place]
    return votes / votes.sum(axis=1, keepdims=True)


def _log_odds(probs: Floats, labels: Rows) -> Floats:
    """Log-odds of the given label against the most probable other one [T]."""
    rows = np.arange(len(labels))
    given = probs[rows, labels]
    others = probs.copy()
    others[rows, labels] = 0.0
    least = PRIOR / probs.shape[1] / 100
    return np.log(np.maximum(given, least)) - np.log(np.maximum(others.max(axis=1), least))
