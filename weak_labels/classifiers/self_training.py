"""Self-training: better soft labels for the end model, from two views of the texts that teach each other.

Labeling functions cover some items, and some classes more than others. A classifier on the vectors and one on words and
character n-grams both learn from the weak labels, with every class weighing the same. Where the two say the same about
most items, their confident answers become the labels, also of items on which no function voted; where they do not,
the weak labels are too wrong to be spread, and only the weights of the classes are changed. Answers are smoothed over
the neighbours in the vectors first. Views that agree are also both worth learning from: the end model then sees the
words beside the vectors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix, hstack

from warehouse.numeric import one_core
from weak_labels.classifiers.linear import class_weights
from weak_labels.label_models.votes import Ints, Probs
from weak_labels.losses import cross_entropy, softmax

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import TfidfVectorizer

RIDGE = 1.0
STEPS = 40
CONFIDENT_FRAC = 0.8
"""Share of the items given to each class that keep their new label: the most confident ones."""
SHARPNESS = 0.8
"""A new label is this much its class and for the rest what the classifiers said."""
LEAST_AGREEMENT = 0.73
"""Cohen's kappa of the two classifiers below which their answers are no labels. Chosen on train and valid splits."""
NEIGHBORS = 10
SMOOTHING = 0.5
"""Share of an item's answer that comes from its neighbours, in each of SMOOTHING_STEPS."""
SMOOTHING_STEPS = 3
MOST_EXACT = 50_000
"""Items up to which every pair is compared; beyond, neighbours are looked for in the nearest cells only."""
MOST_FEATURES = 30_000
_NGRAMS = {"word": (1, 2), "char_wb": (2, 4)}


@dataclass(frozen=True, slots=True)
class Words:
    """TF-IDF of words, word pairs and character n-grams of some texts; the second view, rows of length 1 at most."""

    terms: "tuple[TfidfVectorizer, ...]"

    @classmethod
    def fit(cls, texts: list[str]) -> Self | None:
        """Choose and weigh the terms; None where no term is in two texts."""
        fitted: list[TfidfVectorizer] = []
        for analyzer, least in (("word", 2), ("char_wb", 3)):
            terms = _vectorizer(analyzer, min_df=least, max_features=MOST_FEATURES)
            try:
                fitted.append(terms.fit(texts))
            except ValueError:  # no term is frequent enough: empty or very few texts
                continue
        return cls(tuple(fitted)) if fitted else None

    @classmethod
    def of_parts(cls, parts: "Sequence[tuple[str, list[str], npt.NDArray[np.float64]]]") -> Self:
        """What `parts` gave: of each view by itself its kind, its terms and their weights."""
        found: list[TfidfVectorizer] = []
        for analyzer, names, weights in parts:
            terms = _vectorizer(analyzer, vocabulary=names)
            terms.idf_ = weights
            found.append(terms)
        return cls(tuple(found))

    def parts(self) -> "list[tuple[str, list[str], npt.NDArray[np.float64]]]":
        """All that decides what is seen of a text, as plain values."""
        return [
            (str(terms.analyzer), terms.get_feature_names_out().tolist(), np.asarray(terms.idf_, np.float64))
            for terms in self.terms
        ]

    def of(self, texts: list[str]) -> csr_matrix:
        """Their terms [N, T], sparse."""
        return csr_matrix(hstack([terms.transform(texts) for terms in self.terms])) * np.sqrt(1 / len(self.terms))


def _vectorizer(analyzer: str, **options: Any) -> "TfidfVectorizer":
    from sklearn.feature_extraction.text import TfidfVectorizer  # takes a second to import

    return TfidfVectorizer(analyzer=analyzer, ngram_range=_NGRAMS[analyzer], sublinear_tf=True, **options)


@dataclass(frozen=True, slots=True)
class SelfTrained:
    """What a classifier learns more from.

    Attributes:
        probs: soft labels [N, C].
        weights: [N] how much each counts; 0 for the least confident items of each class.
        words: the second view, where the two agree; the classifier then sees both.
    """

    probs: Probs
    weights: Probs
    words: Words | None


def self_trained(vectors: Any, texts: list[str], probs: Probs, weights: Probs) -> SelfTrained:
    """Let two views of the texts teach each other.

    Args:
        vectors: of train items [N, D].
        texts: of the same items [N].
        probs: their weak labels [N, C].
        weights: [N] 0 where no function voted.

    Source: self-training with confidence as in COSINE (Yu et al. 2021, https://arxiv.org/abs/2010.07835); two views as
        in Blum and Mitchell 1998.
    """
    covered = np.flatnonzero(weights > 0)
    if not len(covered):
        return SelfTrained(probs, weights, None)
    balanced_N = class_weights(probs, weights)
    words = Words.fit(texts)
    if words is None:
        return SelfTrained(probs, balanced_N, None)
    with one_core():
        views = (vectors, words.of(texts))
        said = [_fitted(view, covered, probs[covered], balanced_N[covered]) for view in views]
    if _kappa(said[0].argmax(axis=1), said[1].argmax(axis=1), probs.shape[1]) < LEAST_AGREEMENT:
        return SelfTrained(probs, balanced_N, None)
    both_NC = _smoothed(softmax(np.mean(np.log(np.maximum(said, 1e-12)), axis=0)), vectors)
    label_N, confidence_N = both_NC.argmax(axis=1), both_NC.max(axis=1)
    kept_N = np.zeros(len(both_NC))
    for class_id in range(both_NC.shape[1]):
        rows = np.flatnonzero(label_N == class_id)
        best = rows[np.argsort(-confidence_N[rows], kind="stable")]
        kept_N[best[: max(int(len(best) * CONFIDENT_FRAC), 1)]] = 1.0
    labels_NC = SHARPNESS * np.eye(both_NC.shape[1])[label_N] + (1 - SHARPNESS) * both_NC
    return SelfTrained(labels_NC, kept_N, words)


def _smoothed(probs: Probs, vectors: Any) -> Probs:
    """Answers [N, C] mixed with those of the nearest neighbours by inner product."""
    import faiss

    index: Any
    rows = np.ascontiguousarray(vectors, np.float32)
    n, d = rows.shape
    if n <= MOST_EXACT:
        index = faiss.IndexFlatIP(d)
    else:
        index = faiss.index_factory(d, f"IVF{int(4 * n**0.5)},Flat", faiss.METRIC_INNER_PRODUCT)
        index.nprobe = 16
        index.train(rows[:: max(n // 200_000, 1)])
    index.add(rows)
    _, found = index.search(rows, min(NEIGHBORS + 1, n))
    near = np.where((found < 0) | (found == np.arange(n)[:, None]), -1, found)
    weights = (near >= 0).astype(np.float64)
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1.0)
    smoothed = probs
    for _ in range(SMOOTHING_STEPS):
        around = np.einsum("nk,nkc->nc", weights, smoothed[near])
        smoothed = (1 - SMOOTHING) * probs + SMOOTHING * around
    return smoothed / smoothed.sum(axis=1, keepdims=True)


def _kappa(first_N: Ints, second_N: Ints, classes: int) -> float:
    """Agreement beyond that of two classifiers that guess with the same class shares; at most 1."""
    shares = [np.bincount(answers_N, minlength=classes) / len(answers_N) for answers_N in (first_N, second_N)]
    chance = float(shares[0] @ shares[1])
    return (float((first_N == second_N).mean()) - chance) / max(1 - chance, 1e-12)


def _fitted(view: Any, rows: Any, probs: Probs, weights: Probs) -> Probs:
    """Class probabilities of all rows [N, C], by logistic regression on the soft labels of some."""
    from scipy.optimize import minimize  # takes a third of a second to import

    seen = view[rows]
    d, c = view.shape[1], probs.shape[1]
    target = probs * weights[:, None]

    def loss_and_gradient(flat: Probs) -> tuple[float, Probs]:
        weights_DC, intercept_C = flat[: d * c].reshape(d, c), flat[d * c :]
        logits = np.asarray(seen @ weights_DC) + intercept_C
        loss, error = cross_entropy(logits, target, weights)
        loss += 0.5 * RIDGE * float((weights_DC**2).sum())
        gradient_DC = np.asarray(seen.T @ error) + RIDGE * weights_DC
        return loss, np.concatenate([gradient_DC.reshape(-1), error.sum(axis=0)])

    found = minimize(
        loss_and_gradient, np.zeros(d * c + c), jac=True, method="L-BFGS-B", options={"maxiter": STEPS, "gtol": 1e-3}
    )
    flat = np.asarray(found.x, np.float64)
    return softmax(np.asarray(view @ flat[: d * c].reshape(d, c)) + flat[d * c :])
