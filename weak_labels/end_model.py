"""The end model: a linear classifier on the vectors that learns from weak labels first and from gold labels after.

Here live the model (arrays in, probabilities out), the data it learns from, and the end_model stage that writes
`predictions`. Only the view `gold_labels` tells this file what people answered.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from threadpoolctl import threadpool_limits

from warehouse import (
    DataError,
    Lake,
    Progress,
    Reader,
    SettingsError,
    StageResult,
    Upsert,
    matrix_to_list_array,
    silent,
)
from warehouse.reader import list_column_to_matrix
from weak_labels.calibration import Calibration, calibrate
from weak_labels.self_training import self_trained

Floats = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.floating[Any]]
Features = Any
"""What a classifier sees of N items: `Vectors` [N, D], or these and their words in one sparse matrix (untyped)."""
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

VERSION = 1
"""Raised with every change of this file that could change a prediction."""
KIND = "logistic_regression"
WEAK_RIDGE = 1.0
GOLD_RIDGE = 1.0
ALONE_RIDGE = 0.1
MAX_STEPS = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class EndModelConfig:
    """What the end model predicts, and from which vectors.

    Attributes:
        classes: class names; the place of a name is its class id.
        encoder_id: encoder whose vectors it reads.
        seed: part of the model's id only; training has one optimum and draws no random numbers.
        self_training: learn from labels that two views of the texts agree on instead of the weak labels themselves; see
            `weak_labels.self_training`.
        calibrate: make the probabilities as sure as the answers are right, by the gold labels where there are enough;
            see `weak_labels.calibration`.

    Raises:
        SettingsError: a value is out of range.
    """

    classes: tuple[str, ...]
    encoder_id: str
    seed: int = 0
    self_training: bool = False
    calibrate: bool = False

    def __post_init__(self) -> None:
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise SettingsError(f"classes is {list(self.classes)}; name at least two, each once.")
        if not self.encoder_id:
            raise SettingsError("encoder_id of the end model is empty; give the id that `vectors` was written with.")


@dataclass(frozen=True, slots=True)
class EndModel:
    """Multinomial logistic regression: weights [D, C] and intercepts [C]; `taught_C` are classes with weak labels.

    Its logits are divided by `temperature`, which no fit looks at.

    Weak then clean:

    1. `fit_weak`: logistic regression on the soft labels of covered train items, ridge 1.
    2. `fit_gold`: logistic regression on the gold items that starts from that model and is held to it by a ridge of 1
       on the difference. Intercepts of taught classes stay as they are: people label what was selected for them, so
       the class shares among gold labels say nothing about those among all items. A few gold labels move the model a
       little, many as far as they like, so there is no weight to tune.

    Without weak labels step 2 is plain logistic regression, ridge 0.1, with all intercepts free.

    Measured on Reuters R8, 3,840 train items to learn from and the other 1,645 to score, Snorkel weak labels,
    accuracy at 32 / 64 / 96 / 128 gold labels (0: .907), picked at random, and by margin and clusters:

    - this rule .933 / .937 / .940 / .941, and .943 / .954 / .955 / .957;
    - one fit, a gold row counting as 20 weak ones: .914 / .920 / .924 / .924, and .926 / .935 / .944 / .946;
    - step 2 with free intercepts: .888 / .929 / .933 / .941, and .857 / .878 / .900 / .921 (picks of the line above);
    - gold alone: .789 / .844 / .881 / .896, and .550 / .585 / .643 / .714 (same picks).

    With random picks on trec / youtube / sms / agnews, mean over the four sizes: .775 / .921 / .967 / .835, within .01
    of the best of some twenty rules; a gold row counting as 20 weak ones .712 / .894 / .955 / .805. It can lose a
    little: 32 labels picked by margin on agnews gave .817 where weak labels alone had .830.
    """

    weights_DC: Floats
    intercept_C: Floats
    taught_C: Bools
    temperature: float = 1.0

    @classmethod
    def fit_weak(cls, vectors: Features, probs: Floats, weights: Floats) -> Self | None:
        """Learn from weak labels alone.

        Args:
            vectors: [N, D] unit rows, with the words beside them where it sees both.
            probs: weak labels [N, C].
            weights: [N] how much each one counts; 0 leaves it out.

        Returns:
            The model, or None when every weight is 0.
        """
        rows_N = weights > 0
        if not rows_N.any():
            return None
        untrained = cls.untrained(vectors.shape[1], probs.shape[1])
        fitted = untrained._moved(vectors[rows_N], probs[rows_N], weights[rows_N], WEAK_RIDGE)
        return replace(fitted, taught_C=weights[rows_N] @ probs[rows_N] >= 1.0)

    @classmethod
    def fit_gold(cls, weak: "EndModel | None", vectors: Features, class_ids: Ints, classes: int) -> "EndModel":
        """Learn from gold labels on top of a model from weak labels.

        Args:
            weak: the result of `fit_weak`.
            vectors: vectors of the gold items [N, D]; N may be 0.
            class_ids: their labels [N].
            classes: number of classes C.
        """
        if len(class_ids) == 0:
            return weak or cls.untrained(vectors.shape[1], classes)
        start = weak or cls.untrained(vectors.shape[1], classes)
        ridge = GOLD_RIDGE if weak else ALONE_RIDGE
        return start._moved(vectors, np.eye(classes)[class_ids], np.ones(len(class_ids)), ridge)

    @classmethod
    def learned(
        cls, weak: "EndModel | None", vectors: Features, class_ids: Ints, config: EndModelConfig
    ) -> "tuple[EndModel, Calibration]":
        """`fit_gold`, and with `config.calibrate` the temperature that gold labels held out of it ask for."""
        classes = len(config.classes)
        model = cls.fit_gold(weak, vectors, class_ids, classes)
        if not config.calibrate:
            return model, Calibration()

        def held_out(learn: Ints, others: Ints) -> Floats:
            return cls.fit_gold(weak, vectors[learn], class_ids[learn], classes).predict_proba(vectors[others])

        found = calibrate(class_ids, classes, held_out)
        return replace(model, temperature=found.temperature), found

    @classmethod
    def untrained(cls, dimensions: int, classes: int) -> Self:
        """The model that knows nothing: every class is equally probable."""
        return cls(np.zeros((dimensions, classes)), np.zeros(classes), np.zeros(classes, np.bool_))

    def predict_proba(self, vectors: Features) -> Floats:
        """Class probabilities [N, C] of vectors [N, D]; rows sum to 1."""
        with threadpool_limits(1):
            logits_NC = (vectors.astype(np.float64) @ self.weights_DC + self.intercept_C) / self.temperature
        exp_NC = np.exp(logits_NC - logits_NC.max(axis=1, keepdims=True))
        return exp_NC / exp_NC.sum(axis=1, keepdims=True)

    def _moved(self, vectors: Features, probs_NC: Floats, weights_N: Floats, ridge: float) -> Self:
        """The minimum of weighted cross-entropy + ridge/2 * squared distance of the weights from this model's."""
        from scipy.optimize import minimize  # takes a third of a second to import

        x_ND = vectors.astype(np.float64)
        d, c = self.weights_DC.shape
        target_NC = probs_NC * weights_N[:, None]
        start_NC = x_ND @ self.weights_DC + self.intercept_C

        def loss_and_gradient(step: Floats) -> tuple[float, Floats]:
            step_DC, step_C = step[: d * c].reshape(d, c), step[d * c :]
            logits_NC = start_NC + x_ND @ step_DC + step_C
            top_N1 = logits_NC.max(axis=1, keepdims=True)
            exp_NC = np.exp(logits_NC - top_N1)
            sum_N1 = exp_NC.sum(axis=1, keepdims=True)
            loss = float((target_NC * (top_N1 + np.log(sum_N1) - logits_NC)).sum())
            error_NC = weights_N[:, None] * exp_NC / sum_N1 - target_NC
            gradient_DC = x_ND.T @ error_NC + ridge * step_DC
            gradient_C = np.where(self.taught_C, 0.0, error_NC.sum(axis=0))
            loss += 0.5 * ridge * float((step_DC**2).sum())
            return loss, np.concatenate([gradient_DC.reshape(-1), gradient_C])

        # One thread: equal bits on any number of cores, and no waiting for a second one where other work runs.
        with threadpool_limits(1):
            found = minimize(
                loss_and_gradient,
                np.zeros(d * c + c),
                jac=True,
                method="L-BFGS-B",
                options={"maxiter": MAX_STEPS, "gtol": 1e-3, "ftol": 1e-8},
            )
        step = np.asarray(found.x, np.float64)
        return replace(
            self, weights_DC=self.weights_DC + step[: d * c].reshape(d, c), intercept_C=self.intercept_C + step[d * c :]
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingData:
    """What the end model can learn from: items that have a vector, in the order of their ids.

    Attributes:
        item_ids: [N].
        train: [N] items that may be learned from; the others are only predicted.
        vectors: [N, D].
        label_model_id: the latest label model, empty when there is none.
        probs: its weak labels [N, C]; zeros where an item has none.
        weights: [N] 1 for train items on which a function voted, else 0.
        content: hash of all of this but the gold labels, and of the model's version.
        gold: class id by item, for train items with a vector.
        gold_left_out: gold labels of other items.
        texts: [N] where the end model trains itself, else none.
    """

    item_ids: list[str]
    train: Bools
    vectors: Vectors
    label_model_id: str
    probs: Floats
    weights: Floats
    content: str
    gold: dict[str, int]
    gold_left_out: int
    texts: list[str]

    def weak_model(self) -> tuple[EndModel | None, Features]:
        """The end model before gold labels, None where no train item has a weak label; and what it sees of them."""
        if not self.texts or not self.weights.any():
            return EndModel.fit_weak(self.vectors, self.probs, self.weights), self.vectors
        rows = np.flatnonzero(self.train)
        texts = [self.texts[row] for row in rows]
        taught = self_trained(self.vectors[rows], texts, self.probs[rows], self.weights[rows])
        features = taught.words.beside(self.vectors, self.texts) if taught.words else self.vectors
        return EndModel.fit_weak(features[rows], taught.probs, taught.weights), features

    def fingerprint(self, config: EndModelConfig) -> str:
        """Hash of all that decides the model that learns from this."""
        learned = json.dumps([_params(config), self.content, sorted(self.gold.items())])
        return hashlib.sha256(learned.encode()).hexdigest()


def read_training_data(reader: Reader, config: EndModelConfig) -> TrainingData:
    """Vectors, the latest weak labels and the gold labels, from one snapshot.

    Raises:
        DataError: a gold label or a weak label does not fit the classes, or a vector is not finite.
    """
    classes = len(config.classes)
    table = reader.arrow(
        """
        SELECT i.item_id, i.split = 'train' AS train, i.content_hash, v.vector, w.probs, coalesce(w.votes, 0) AS votes
        FROM items i
        JOIN vectors v ON v.item_id = i.item_id AND v.encoder_id = ? AND v.content_hash = i.content_hash
        LEFT JOIN latest_weak_labels w ON w.item_id = i.item_id
        ORDER BY i.item_id
        """,
        [config.encoder_id],
    )
    item_ids: list[str] = table.column("item_id").to_pylist()
    vectors_ND = list_column_to_matrix(table.column("vector"), what="vector")
    if len(bad := np.flatnonzero(~np.isfinite(vectors_ND).all(axis=1))):
        raise DataError(
            f"{len(bad)} vectors are not finite, such as that of item '{item_ids[bad[0]]}'. Embed these items again."
        )
    train_N = table.column("train").to_numpy().astype(np.bool_)
    votes_N = table.column("votes").to_numpy()
    probs_NC = np.zeros((len(item_ids), classes))
    labelled_N = table.column("probs").is_valid().to_numpy()
    if labelled_N.any():
        weak = list_column_to_matrix(table.column("probs").drop_null(), what="probs")
        if weak.shape[1] != classes:
            raise DataError(
                f"Weak labels have {weak.shape[1]} classes, the settings name {classes}. Run the label model again."
            )
        probs_NC[labelled_N] = weak
    known = dict(zip(item_ids, train_N.tolist(), strict=True))
    answers: list[tuple[str, int]] = reader.rows("SELECT item_id, class_id FROM gold_labels ORDER BY item_id")
    for item_id, class_id in answers:
        if not 0 <= class_id < classes:
            raise DataError(
                f"The gold label of item '{item_id}' is class {class_id}; the settings name classes 0 to "
                f"{classes - 1}. Mend `classes` or that annotation."
            )
    gold = {item_id: class_id for item_id, class_id in answers if known.get(item_id, False)}
    label_model_id = str(
        reader.scalar("SELECT model_id FROM models WHERE stage = 'label_model' ORDER BY sequence DESC LIMIT 1") or ""
    )
    hashes: list[str] = table.column("content_hash").to_pylist()
    content = hashlib.sha256(json.dumps([VERSION, item_ids, hashes, train_N.tolist()]).encode())
    content.update(probs_NC.tobytes() + votes_N.tobytes())
    texts: list[str] = []
    if config.calibrate:
        content.update(b"calibrate 1")
    if config.self_training:
        content.update(b"self-training 3")
        text_of = dict(reader.rows("SELECT item_id, content FROM items"))
        texts = [text_of[item_id] for item_id in item_ids]
    return TrainingData(
        item_ids=item_ids,
        train=train_N,
        vectors=vectors_ND,
        label_model_id=label_model_id,
        probs=probs_NC,
        weights=((votes_N > 0) & train_N).astype(np.float64),
        content=content.hexdigest(),
        gold=gold,
        gold_left_out=len(answers) - len(gold),
        texts=texts,
    )


def end_model(lake: Lake, config: EndModelConfig, progress: Progress = silent) -> StageResult:
    """Train on weak and gold labels of train items and write `predictions` for every item that has a vector.

    Equal vectors, weak labels and gold labels write nothing, also when other annotations (skips) came in.

    Args:
        lake: the warehouse.
        config: the model.
        progress: called with (steps done, 3).

    Returns:
        `detail` counts the gold labels, the weak labels and the gold labels left out (test or valid items, or items
        without a vector).

    Raises:
        DataError: see `read_training_data`.
    """
    inputs = ("items", "vectors", "weak_labels", "annotations", "annotator_skills")
    with lake.stage("end_model", version=VERSION, inputs=inputs, params=_params(config)) as stage:
        if stage.done:
            return stage.result()
        data = read_training_data(stage, config)
        if not data.item_ids:
            return stage.nothing(reason="no item has a vector")
        fingerprint = data.fingerprint(config)
        latest = stage.rows(
            "SELECT sequence, detail FROM models WHERE stage = 'end_model' ORDER BY sequence DESC LIMIT 1"
        )
        if latest and json.loads(latest[0][1]).get("fingerprint") == fingerprint:
            return stage.nothing(reason="equal vectors, weak labels and gold labels")
        progress(0, 3)
        weak, features = data.weak_model()
        progress(1, 3)
        row_of = {item_id: row for row, item_id in enumerate(data.item_ids)}
        gold_rows = np.array([row_of[item_id] for item_id in data.gold], np.int64)
        gold_classes = np.array(list(data.gold.values()), np.int64)
        model, calibration = EndModel.learned(weak, features[gold_rows], gold_classes, config)
        progress(2, 3)
        probs_NC = model.predict_proba(features).astype(np.float32)
        weak_items = int((data.weights > 0).sum())
        detail: dict[str, Any] = {
            "gold_labels": len(data.gold),
            "gold_labels_left_out": data.gold_left_out,
            "weak_labels": weak_items,
            "label_model_id": data.label_model_id,
        }
        if config.calibrate:
            detail["calibration"] = asdict(calibration)
        predictions = pa.table(
            {
                "item_id": data.item_ids,
                "end_model_id": [stage.short_token] * len(data.item_ids),
                "probs": matrix_to_list_array(probs_NC),
                "class_id": probs_NC.argmax(axis=1).astype(np.int32),
                "confidence": probs_NC.max(axis=1),
            }
        )
        learned_from = len(set(gold_rows.tolist()) | set(np.flatnonzero(data.weights).tolist()))
        row = pa.table(
            {
                "model_id": [stage.short_token],
                "stage": ["end_model"],
                "kind": [KIND],
                "gold_labels": [len(data.gold)],
                "items": [learned_from],
                "sequence": [latest[0][0] + 1 if latest else 1],
                "detail": [json.dumps({**detail, "fingerprint": fingerprint}, sort_keys=True)],
            }
        )
        progress(3, 3)
        return stage.commit(
            [Upsert("predictions", predictions), Upsert("models", row)], rows_read=len(data.item_ids), detail=detail
        )


def _params(config: EndModelConfig) -> dict[str, Any]:
    params: dict[str, Any] = {"classes": list(config.classes), "encoder": config.encoder_id, "seed": config.seed}
    # A setting that is off is left out, so that adding it made no model stale.
    chosen = {name: True for name in ("self_training", "calibrate") if getattr(config, name)}
    return {**params, **chosen}
