"""Scoring against the gold file: how good is each end model on the test split, and what would rivals have reached?

Besides the simulated annotator this is the only place that opens the gold file. What is read here goes into `metrics`
and nowhere else.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from warehouse import DataError, Lake, Progress, Reader, SettingsError, Stage, StageResult, Upsert, hash_token, silent
from warehouse.reader import list_column_to_matrix
from weak_labels.end_model import EndModel, EndModelConfig, Ints, TrainingData, read_training_data


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """Where the true labels are and what is scored.

    Attributes:
        gold: Parquet file with the columns id and label (class name).
        classes: class names; the place of a name is its class id.
        split: split that is scored.
        rival_seeds: repetitions of the random picks.

    Raises:
        SettingsError: a value is out of range.
    """

    gold: Path
    classes: tuple[str, ...]
    split: str = "test"
    rival_seeds: int = 5

    def __post_init__(self) -> None:
        if self.split not in ("valid", "test"):
            raise SettingsError(f"split of evaluate is '{self.split}'; use test or valid, which nobody learns from.")
        if self.rival_seeds < 1:
            raise SettingsError(f"rival_seeds is {self.rival_seeds}; use 1 or more.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Gold:
    """The gold file: class id by item, and the hash of the file."""

    class_of: dict[str, int]
    sha256: str


def read_gold(reader: Reader, config: EvaluateConfig) -> Gold:
    """Read the gold file and check it against the items and the classes.

    Raises:
        SettingsError: the file is not there.
        DataError: it is no such Parquet file, or names unknown items or classes, or an item twice.
    """
    path = config.gold
    sha256 = hash_gold(path)
    try:
        table = pq.read_table(path, columns=["id", "label"])
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"The gold file {path} cannot be read as Parquet with columns id and label: {error}") from error
    ids: list[str] = table.column("id").cast(pa.string()).to_pylist()
    labels: list[str] = table.column("label").cast(pa.string()).to_pylist()
    number_of = {name: number for number, name in enumerate(config.classes)}
    if unknown := sorted({str(label) for label in labels} - set(number_of)):
        raise DataError(
            f"The gold file {path} has {len(unknown)} classes that the settings do not name, such as '{unknown[0]}'; "
            f"they name {', '.join(config.classes)}."
        )
    stored = {row[0] for row in reader.rows("SELECT item_id FROM items")}
    if missing := [item_id for item_id in ids if item_id not in stored]:
        raise DataError(
            f"The gold file {path} labels {len(missing)} items that the warehouse does not hold, such as "
            f"'{missing[0]}'. Do its ids belong to the sources of this project? `siftline status` shows quarantined "
            "records."
        )
    class_of = {item_id: number_of[label] for item_id, label in zip(ids, labels, strict=True)}
    if len(class_of) != len(ids):
        raise DataError(f"The gold file {path} labels {len(ids) - len(class_of)} items more than once.")
    return Gold(class_of=class_of, sha256=sha256)


def hash_gold(path: Path) -> str:
    """sha256 of the gold file.

    Raises:
        SettingsError: the file is not there.
    """
    if not path.is_file():
        raise SettingsError(f"The gold file {path} is not there. Mend `gold` under [evaluate], or leave it out.")
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """Accuracy, macro-averaged F1 over the classes that occur, and the confusion matrix [true, predicted]."""

    accuracy: float
    macro_f1: float
    confusion: list[list[int]]


def score(true_N: Ints, predicted_N: Ints, classes: int) -> Score:
    """Compare predicted with true class ids, at least one of them.

    A class that neither occurs nor is predicted has no F1 and is left out of the mean.
    """
    confusion_CC = np.zeros((classes, classes), np.int64)
    np.add.at(confusion_CC, (true_N, predicted_N), 1)
    seen_C = confusion_CC.sum(axis=0) + confusion_CC.sum(axis=1)
    f1_C = 2.0 * np.diag(confusion_CC) / np.maximum(seen_C, 1)
    return Score(
        accuracy=float((true_N == predicted_N).mean()),
        macro_f1=float(f1_C[seen_C > 0].mean()),
        confusion=confusion_CC.tolist(),
    )


def evaluate(
    lake: Lake, config: EvaluateConfig, end_config: EndModelConfig, progress: Progress = silent
) -> StageResult:
    """Score the latest end model and the latest label model on the split.

    Series: siftline (the end model; labels = its gold labels), label_model (weak labels of all items of the split) and
    label_model_covered (of those on which a function voted). The rows of `accuracy` hold the confusion matrix.

    Args:
        lake: the warehouse.
        config: the gold file and the split.
        end_config: the end model.
        progress: called with (series scored, series).

    Raises:
        SettingsError: see `read_gold`; or the classes of `config` and `end_config` differ.
        DataError: see `read_gold`; or no predicted item of the split has a gold label.
    """
    params = _params(config, end_config)
    with lake.stage("evaluate", version=1, inputs=("items", "weak_labels", "predictions"), params=params) as stage:
        if stage.done:
            return stage.result()
        gold = read_gold(stage, config)
        labels = stage.scalar("SELECT gold_labels FROM models WHERE stage = 'end_model' ORDER BY sequence DESC LIMIT 1")
        if labels is None:
            return stage.nothing(reason="no end model yet")
        sources = (
            ("siftline", "latest_predictions", "end_model_id", "", int(labels)),
            ("label_model", "latest_weak_labels", "label_model_id", "", 0),
            ("label_model_covered", "latest_weak_labels", "label_model_id", "AND p.votes > 0", 0),
        )
        rows: list[dict[str, Any]] = []
        for done, (series, view, model_id, condition, count) in enumerate(sources):
            progress(done, len(sources))
            table = stage.arrow(
                f"SELECT p.item_id, p.probs, p.{model_id} AS model_id FROM {view} p JOIN items i "
                f"ON i.item_id = p.item_id WHERE i.split = ? {condition} ORDER BY p.item_id",
                [config.split],
            )
            item_ids: list[str] = table.column("item_id").to_pylist()
            known = [row for row, item_id in enumerate(item_ids) if item_id in gold.class_of]
            if known:
                predicted_N = list_column_to_matrix(table.column("probs").take(known), what="probs").argmax(axis=1)
                true_N = np.array([gold.class_of[item_ids[row]] for row in known], np.int64)
                detail = {"model_id": table.column("model_id")[0].as_py()}
                rows += _metrics(config, end_config, series, count, 0, true_N, predicted_N, detail)
            elif series == "siftline":
                raise DataError(
                    f"No predicted item of split '{config.split}' has a label in the gold file {config.gold}. Score "
                    "another split, or leave `gold` out."
                )
        progress(len(sources), len(sources))
        return _commit(stage, rows)


def evaluate_rivals(
    lake: Lake, config: EvaluateConfig, end_config: EndModelConfig, progress: Progress = silent
) -> StageResult:
    """Measure what the same number of gold labels is worth without the selection or without the weak labels.

    For every number n of gold labels that an end model learned from:

    - random: n train items picked at random, with the weak labels; `rival_seeds` picks;
    - random_gold_only: the same picks without weak labels;
    - gold_only: the first n items that people labelled (in the order in which they were selected), their labels,
      without weak labels.

    And once all_gold: every train item of the gold file, without weak labels. Figures that are there for the same data
    are not measured again.

    Args:
        lake: the warehouse.
        config: the gold file, the split and the number of picks.
        end_config: the end model; rivals use the same one.
        progress: called with (figures measured, figures).

    Raises:
        SettingsError: see `read_gold`; or the classes of `config` and `end_config` differ.
        DataError: see `read_gold`; or no item of the split has a vector and a gold label.
    """
    params = {**_params(config, end_config), "rival_seeds": config.rival_seeds}
    inputs = ("items", "vectors", "weak_labels", "annotations", "predictions")
    with lake.stage("rivals", version=1, inputs=inputs, params=params) as stage:
        if stage.done:
            return stage.result()
        sizes = [
            int(row[0])
            for row in stage.rows(
                "SELECT DISTINCT gold_labels FROM models WHERE stage = 'end_model' AND gold_labels > 0 ORDER BY 1"
            )
        ]
        if not sizes:
            return stage.nothing(reason="no end model has learned from gold labels yet")
        gold = read_gold(stage, config)
        data = read_training_data(stage, end_config)
        row_of = {item_id: row for row, item_id in enumerate(data.item_ids)}
        scored_rows = np.array(
            [
                row_of[row[0]]
                for row in stage.rows("SELECT item_id FROM items WHERE split = ? ORDER BY item_id", [config.split])
                if row[0] in row_of and row[0] in gold.class_of
            ],
            np.int64,
        )
        if not len(scored_rows):
            raise DataError(
                f"No item of split '{config.split}' with a vector has a label in the gold file {config.gold}. Score "
                "another split, or leave `gold` out."
            )
        true_N = np.array([gold.class_of[data.item_ids[row]] for row in scored_rows], np.int64)
        stored = _stored_bases(stage)
        missing = [
            (rival, basis)
            for rival in _rivals(stage, config, data, gold, sizes)
            if stored.get((rival.series, rival.labels, rival.seed)) != (basis := rival.basis(data, gold, params))
        ]
        if not missing:
            return stage.nothing(reason="all figures are there")
        classes = len(end_config.classes)
        weak = EndModel.fit_weak(data.vectors, data.probs, data.weights)
        rows: list[dict[str, Any]] = []
        for done, (rival, basis) in enumerate(missing):
            progress(done, len(missing))
            picked = np.array([row_of[item_id] for item_id in rival.class_of], np.int64)
            class_ids = np.array(list(rival.class_of.values()), np.int64)
            prior = weak if rival.with_weak_labels else None
            model = EndModel.fit_gold(prior, data.vectors[picked], class_ids, classes)
            predicted_N = model.predict_proba(data.vectors[scored_rows]).argmax(axis=1)
            detail = {"basis": basis}
            rows += _metrics(config, end_config, rival.series, rival.labels, rival.seed, true_N, predicted_N, detail)
        progress(len(missing), len(missing))
        return _commit(stage, rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rival:
    """One training set to compare with: class id by item, and whether weak labels come with it."""

    series: str
    labels: int
    seed: int
    with_weak_labels: bool
    class_of: dict[str, int]

    def basis(self, data: TrainingData, gold: Gold, params: dict[str, Any]) -> str:
        """Hash of all that decides the figure; another one means that it must be measured again."""
        return hash_token(
            {
                "params": params,
                "gold": gold.sha256,
                "data": data.content,
                "weak": self.with_weak_labels,
                "picked": list(self.class_of.items()),
            }
        )[:16]


def _rivals(
    reader: Reader, config: EvaluateConfig, data: TrainingData, gold: Gold, sizes: Sequence[int]
) -> Iterator[Rival]:
    pool = [i for i, train in zip(data.item_ids, data.train, strict=True) if train and i in gold.class_of]
    labelled = [
        row[0]
        for row in reader.rows(
            """
            SELECT g.item_id FROM gold_labels g
            LEFT JOIN (SELECT item_id, min((cycle, rank)) AS place FROM queue GROUP BY item_id) q USING (item_id)
            ORDER BY q.place NULLS LAST, g.item_id
            """
        )
        if row[0] in data.gold
    ]
    for n in sizes:
        for seed in range(config.rival_seeds):
            # One permutation per seed: the picks of a larger n contain those of a smaller one, as a queue would.
            order = np.random.default_rng(seed).permutation(len(pool))[:n]
            picked = {pool[place]: gold.class_of[pool[place]] for place in order}
            yield Rival(series="random", labels=n, seed=seed, with_weak_labels=True, class_of=picked)
            yield Rival(series="random_gold_only", labels=n, seed=seed, with_weak_labels=False, class_of=picked)
        first = {item_id: data.gold[item_id] for item_id in labelled[:n]}
        yield Rival(series="gold_only", labels=n, seed=0, with_weak_labels=False, class_of=first)
    everything = {item_id: gold.class_of[item_id] for item_id in pool}
    yield Rival(series="all_gold", labels=len(pool), seed=0, with_weak_labels=False, class_of=everything)


def _stored_bases(reader: Reader) -> dict[tuple[str, int, int], str]:
    rows = reader.rows("SELECT series, labels, seed, detail FROM metrics WHERE name = 'accuracy'")
    return {(series, labels, seed): json.loads(detail).get("basis", "") for series, labels, seed, detail in rows}


def _params(config: EvaluateConfig, end_config: EndModelConfig) -> dict[str, Any]:
    if config.classes != end_config.classes:
        raise SettingsError(
            f"The scoring names the classes {list(config.classes)}, the end model {list(end_config.classes)}. They "
            "must be equal, in the same order."
        )
    return {
        "gold": hash_gold(config.gold),
        "classes": list(config.classes),
        "split": config.split,
        "encoder": end_config.encoder_id,
    }


def _metrics(
    config: EvaluateConfig,
    end_config: EndModelConfig,
    series: str,
    labels: int,
    seed: int,
    true_N: Ints,
    predicted_N: Ints,
    detail: dict[str, Any],
) -> list[dict[str, Any]]:
    scored = score(true_N, predicted_N, len(end_config.classes))
    detail = {**detail, "items": len(true_N)}
    return [
        {
            "metric_id": f"{series}/{name}/{config.split}/{labels}/{seed}",
            "series": series,
            "name": name,
            "split": config.split,
            "labels": labels,
            "seed": seed,
            "value": value,
            "detail": json.dumps({**detail, **more}, sort_keys=True),
        }
        for name, value, more in (
            ("accuracy", scored.accuracy, {"confusion": scored.confusion}),
            ("macro_f1", scored.macro_f1, {}),
        )
    ]


def _commit(stage: Stage, rows: Sequence[dict[str, Any]]) -> StageResult:
    """Write the figures that are new or other than the stored ones."""
    stored = {row[0]: (row[1], row[2]) for row in stage.rows("SELECT metric_id, value, detail FROM metrics")}
    new = [row for row in rows if stored.get(row["metric_id"]) != (row["value"], row["detail"])]
    if not new:
        return stage.nothing(reason="all figures are there")
    return stage.commit([Upsert("metrics", pa.Table.from_pylist(new))], rows_read=len(rows))
