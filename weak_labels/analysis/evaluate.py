"""Scoring against the gold file: how good is each end model on the test split, and what would rivals have reached?

Besides the simulated annotator this is the only place that opens the gold file. What is read here goes into `metrics`
and nowhere else. All figures of a split rest on one basis (equal weak labels, end model, gold file and scored items),
so they can be compared: a figure with another basis is measured again or removed. Only what each end model was scored
with itself (series end_model) stays as it was: it is the history, and no later figure replaces it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from warehouse import (
    Delete,
    Lake,
    Progress,
    Reader,
    SettingsError,
    Stage,
    StageResult,
    Upsert,
    Write,
    hash_token,
    silent,
)
from warehouse.queries.reader import list_column_to_matrix
from weak_labels.analysis.gold_file import EvaluateConfig, Gold, also_in_train, hash_gold, read_gold
from weak_labels.analysis.learning_curve import curve_sizes
from weak_labels.analysis.scores import Figures, score_classes, score_sets
from weak_labels.calibration import Floats
from weak_labels.classifiers.heads import Heads
from weak_labels.classifiers.linear import EndModelConfig, Ints
from weak_labels.classifiers.one_vs_rest import Label, OneVsRestHeads, Truth, truth
from weak_labels.end_model.training_data import TrainingData, read_training_data

Key = tuple[str, int, int]
"""Series, gold labels and seed: what names a figure within a split."""
HISTORY = "end_model"
"""The series of what each end model was scored with itself; the model's id stands in `metric_id` too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ground:
    """What all figures of a split rest on.

    Attributes:
        gold: the gold file.
        data: what the end model learns from.
        rows: places in `data` of the scored items [N].
        true_N: their true class ids [N], in a multi-label project sets [N, C].
        basis: hash of all that decides a figure, but for the gold labels that were learned from.
    """

    gold: Gold
    data: TrainingData
    rows: Ints
    true_N: Truth
    basis: str


def evaluate(
    lake: Lake, config: EvaluateConfig, end_config: EndModelConfig, progress: Progress = silent
) -> StageResult:
    """Score the latest end model and the latest label model on the split.

    Series: siftline (the end model; labels = its gold labels), end_model (the same, kept for this model when another
    has learned), label_model (weak labels of all items of the split; where nothing votes on any item, none) and
    label_model_covered (of those on which a function voted). The rows of `accuracy` hold the confusion matrix, those of
    `calibration_error` how far the probabilities are from the shares of right answers; for a multi-label project see
    `weak_labels.analysis.scores`. Figures with another basis are removed; `evaluate_rivals` measures them again.

    Nothing is written while no end model has learned from the present labels, or when no item of the split has both a
    vector and a label in the gold file.

    Args:
        lake: the warehouse.
        config: the gold file and the split.
        end_config: the end model.
        progress: called with (series scored, series).

    Returns:
        `detail` counts the ids of the gold file that are not among the items (`gold_without_item`), and where there are
        such the items of the split whose text stands in train too (`texts_also_in_train`).

    Raises:
        SettingsError: the gold file is not there; or the classes of `config` and `end_config` differ.
        DataError: see `read_gold` and `read_training_data`.
    """
    params = _params(config, end_config)
    inputs = ("items", "vectors", "weak_labels", "annotations", "annotator_skills", "predictions")
    with lake.stage("evaluate", version=5, inputs=inputs, params=params) as stage:
        if stage.done:
            return stage.result()
        latest = stage.scalar("SELECT detail FROM models WHERE stage = 'end_model' ORDER BY sequence DESC LIMIT 1")
        if latest is None:
            return stage.nothing(reason="no end model yet")
        ground = _read_ground(stage, config, end_config, params)
        if not len(ground.rows):
            return _no_gold(stage, config, ground)
        if json.loads(latest).get("fingerprint") != ground.data.fingerprint(end_config):
            return stage.nothing(reason="no end model has learned from the present labels yet")
        labels = ground.data.gold
        # Without a vote on any item all classes are as probable, and the figure would be that of the first one.
        voted = "AND EXISTS (FROM latest_weak_labels WHERE votes > 0)"
        sources = (
            ("siftline", "latest_predictions", "end_model_id", "", len(labels), {"picked": _hash_labels(labels)}),
            ("label_model", "latest_weak_labels", "label_model_id", voted, 0, {}),
            ("label_model_covered", "latest_weak_labels", "label_model_id", "AND p.votes > 0", 0, {}),
        )
        class_of = ground.gold.class_of
        rows: list[dict[str, Any]] = []
        for done, (series, view, model_id, condition, count, more) in enumerate(sources):
            progress(done, len(sources))
            table = stage.arrow(
                f"SELECT p.item_id, p.probs, p.{model_id} AS model_id FROM {view} p JOIN items i "
                f"ON i.item_id = p.item_id WHERE i.split = ? {condition} ORDER BY p.item_id",
                [config.split],
            )
            item_ids: list[str] = table.column("item_id").to_pylist()
            known = [row for row, item_id in enumerate(item_ids) if item_id in class_of]
            if known:
                probs_NC = list_column_to_matrix(table.column("probs").take(known), what="probs")
                true_N = _truth([class_of[item_ids[row]] for row in known], config)
                detail = {"basis": ground.basis, "model_id": table.column("model_id")[0].as_py(), **more}
                rows += _metrics(config, series, count, 0, true_N, probs_NC, detail)
                if series == "siftline":
                    own = _metrics(config, HISTORY, count, 0, true_N, probs_NC, detail)
                    rows += [{**row, "metric_id": f"{row['metric_id']}/{detail['model_id']}"} for row in own]
        progress(len(sources), len(sources))
        return _commit(stage, config, ground, rows, more={"texts_also_in_train": also_in_train(stage, config.split)})


def evaluate_rivals(
    lake: Lake, config: EvaluateConfig, end_config: EndModelConfig, progress: Progress = silent
) -> StageResult:
    """Measure what the same number of gold labels is worth without the selection or without the weak labels.

    For every number n of gold labels that an end model learned from and that is still in force, or where these are
    many for those that `curve_sizes` leaves:

    - random: n train items picked at random, with the weak labels; `rival_seeds` picks;
    - random_gold_only: the same picks without weak labels;
    - gold_only: the first n items that people labelled (in the order in which they were selected), their labels,
      without weak labels;
    - siftline: these n labels with the present weak labels (`replayed` in its detail), unless `evaluate` scored an end
      model that learned from exactly that.

    Where there are no weak labels, labels that are all alike make no end model, and the last two are not measured.

    And once all_gold: every train item of the gold file, without weak labels; not where it has fewer than are in force,
    as a file of test records has that stand in train too. A figure is measured again when its basis or its labels are
    others than the stored ones, and removed when it cannot be measured any more (fewer labels are in force, or the gold
    file has too few train items to pick n) or its n is left out.

    Args:
        lake: the warehouse.
        config: the gold file, the split and the number of picks.
        end_config: the end model; rivals use the same one.
        progress: called with (figures measured, figures).

    Returns:
        `detail` counts the ids of the gold file that are not among the items (`gold_without_item`).

    Raises:
        SettingsError: the gold file is not there; or the classes of `config` and `end_config` differ.
        DataError: see `read_gold` and `read_training_data`.
    """
    params = _params(config, end_config)
    with lake.read() as reader:
        # `evaluate` removes figures of another basis, so a new commit of it is work for this stage.
        scored = reader.scalar("SELECT token FROM runs WHERE stage = 'evaluate' ORDER BY committed_at DESC LIMIT 1")
    inputs = ("items", "vectors", "weak_labels", "annotations", "annotator_skills", "predictions", "queue")
    more_params = {**params, "rival_seeds": config.rival_seeds, "evaluate": scored}
    with lake.stage("rivals", version=4, inputs=inputs, params=more_params) as stage:
        if stage.done:
            return stage.result()
        learned = [
            int(row[0])
            for row in stage.rows("SELECT DISTINCT gold_labels FROM models WHERE stage = 'end_model' ORDER BY 1")
        ]
        if not any(learned):
            return stage.nothing(reason="no end model has learned from gold labels yet")
        ground = _read_ground(stage, config, end_config, params)
        if not len(ground.rows):
            return _no_gold(stage, config, ground)
        data = ground.data
        rivals = list(_rivals(stage, config, ground, curve_sizes([n for n in learned if n <= len(data.gold)])))
        stored = {
            (series, labels, seed): json.loads(detail)
            for series, labels, seed, detail in stage.rows(
                "SELECT series, labels, seed, detail FROM metrics WHERE name = 'accuracy' AND split = ? "
                "AND series NOT IN ('label_model', 'label_model_covered', ?)",
                [config.split, HISTORY],
            )
        }
        missing = [
            rival
            for rival in rivals
            if not (found := stored.get(rival.key))
            or (found.get("basis"), found.get("picked")) != (ground.basis, _hash_labels(rival.class_of))
        ]
        row_of = {item_id: row for row, item_id in enumerate(data.item_ids)}
        # Only those asked for: of many items, learning from weak labels takes longer than all rivals that go without.
        heads_by_weak: dict[bool, Heads | OneVsRestHeads] = {}
        rows: list[dict[str, Any]] = []
        for done, rival in enumerate(missing):
            progress(done, len(missing))
            picked = np.array([row_of[item_id] for item_id in rival.class_of], np.int64)
            weak = rival.with_weak_labels
            heads = heads_by_weak.get(weak) or heads_by_weak.setdefault(weak, data.heads(end_config, weak=weak))
            labels = _truth(list(rival.class_of.values()), config)
            model = heads.learned(picked, labels, from_weak=weak).model
            # Single precision as in `predictions`, so that a replay gives the figure that `evaluate` would.
            probs_NC = model.predict_proba(heads.features[ground.rows]).astype(np.float32)
            detail: dict[str, Any] = {"basis": ground.basis, "picked": _hash_labels(rival.class_of)}
            if rival.series == "siftline":
                detail["replayed"] = True
            rows += _metrics(config, *rival.key, ground.true_N, probs_NC, detail)
        progress(len(missing), len(missing))
        return _commit(stage, config, ground, rows, gone=set(stored) - {rival.key for rival in rivals})


@dataclass(frozen=True, kw_only=True, slots=True)
class Rival:
    """One training set to compare with: label by item, and whether weak labels come with it."""

    series: str
    labels: int
    seed: int
    with_weak_labels: bool
    class_of: dict[str, Label]

    @property
    def key(self) -> Key:
        """What names its figures within a split."""
        return self.series, self.labels, self.seed


def _rivals(reader: Reader, config: EvaluateConfig, ground: Ground, sizes: Sequence[int]) -> Iterator[Rival]:
    data, gold = ground.data, ground.gold
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
        # In the order of the end model's own training rows, which is that of the ids, so that equal bits come out.
        first = {item_id: data.gold[item_id] for item_id in sorted(labelled[:n])}
        learned = len(set(first.values())) > 1 or bool(data.weights.any())
        if learned:
            yield Rival(series="siftline", labels=n, seed=0, with_weak_labels=True, class_of=first)
        if n == 0:
            continue
        if learned:
            yield Rival(series="gold_only", labels=n, seed=0, with_weak_labels=False, class_of=first)
        for seed in range(config.rival_seeds if n <= len(pool) else 0):
            # One permutation per seed: the picks of a larger n contain those of a smaller one, as a queue would.
            order = np.random.default_rng(seed).permutation(len(pool))[:n]
            picked = {pool[place]: gold.class_of[pool[place]] for place in order}
            yield Rival(series="random", labels=n, seed=seed, with_weak_labels=True, class_of=picked)
            yield Rival(series="random_gold_only", labels=n, seed=seed, with_weak_labels=False, class_of=picked)
    if len(pool) >= max(sizes, default=1):
        everything = {item_id: gold.class_of[item_id] for item_id in pool}
        yield Rival(series="all_gold", labels=len(pool), seed=0, with_weak_labels=False, class_of=everything)


def _read_ground(reader: Reader, config: EvaluateConfig, end_config: EndModelConfig, params: dict[str, Any]) -> Ground:
    gold = read_gold(reader, config)
    data = read_training_data(reader, end_config)
    split = {row[0] for row in reader.rows("SELECT item_id FROM items WHERE split = ?", [config.split])}
    rows = [row for row, i in enumerate(data.item_ids) if i in split and i in gold.class_of]
    scored = [data.item_ids[row] for row in rows]
    return Ground(
        gold=gold,
        data=data,
        rows=np.array(rows, np.int64),
        true_N=_truth([gold.class_of[item_id] for item_id in scored], config),
        basis=hash_token({"params": params, "data": data.content, "scored": scored})[:16],
    )


def _no_gold(stage: Stage, config: EvaluateConfig, ground: Ground) -> StageResult:
    """Nothing to score is no reason to stop the stages after this one: people can be asked without figures."""
    unscored = (
        f"no item of split '{config.split}' with a vector has a label in the gold file {config.gold}. Give its records "
        "that split under [[sources]], and take them out of other sources; or leave `gold` out; labels of train items "
        "are for siftline import"
    )
    return stage.nothing(unscored=unscored, gold_without_item=ground.gold.without_item)


def _truth(labels: Sequence[Label], config: EvaluateConfig) -> Truth:
    return truth(labels, len(config.classes), multi_label=config.multi_label)


def _hash_labels(class_of: dict[str, Label]) -> str:
    return hash_token(class_of)[:16]


def _params(config: EvaluateConfig, end_config: EndModelConfig) -> dict[str, Any]:
    if (config.classes, config.multi_label) != (end_config.classes, end_config.multi_label):
        raise SettingsError(
            f"The scoring names the classes {list(config.classes)}, the end model {list(end_config.classes)}. They "
            "must be equal, in the same order, and both multi_label or neither."
        )
    params = {
        "gold": hash_gold(config.gold),
        "classes": list(config.classes),
        "split": config.split,
        "encoder": end_config.encoder_id,
    }
    return {**params, "multi_label": True} if config.multi_label else params


def _metrics(
    config: EvaluateConfig,
    series: str,
    labels: int,
    seed: int,
    true_N: Truth,
    probs_NC: Floats,
    detail: dict[str, Any],
) -> list[dict[str, Any]]:
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
        for name, value, more in _scored(config, true_N, probs_NC)
    ]


def _scored(config: EvaluateConfig, true_N: Truth, probs_NC: Floats) -> Figures:
    if config.multi_label:
        return score_sets(true_N.astype(np.bool_), probs_NC)
    return score_classes(true_N.astype(np.int64), probs_NC)


def _commit(
    stage: Stage,
    config: EvaluateConfig,
    ground: Ground,
    rows: Sequence[dict[str, Any]],
    gone: AbstractSet[Key] = frozenset(),
    more: Mapping[str, int] | None = None,
) -> StageResult:
    """Write the figures that are new or other than the stored ones; remove `gone` and those of another basis."""
    counts = {"gold_without_item": ground.gold.without_item}
    counts |= {name: count for name, count in (more or {}).items() if count}
    stored = stage.rows(
        "SELECT metric_id, value, detail, series, labels, seed FROM metrics WHERE split = ? ORDER BY metric_id",
        [config.split],
    )
    figures = {metric_id: (value, detail) for metric_id, value, detail, *_ in stored}
    measured = {row["metric_id"] for row in rows}
    old = [
        metric_id
        for metric_id, _, detail, *key in stored
        if metric_id not in measured
        and key[0] != HISTORY
        and (tuple(key) in gone or json.loads(detail).get("basis") != ground.basis)
    ]
    new = [row for row in rows if figures.get(row["metric_id"]) != (row["value"], row["detail"])]
    writes: list[Write] = []
    if new:
        writes.append(Upsert("metrics", pa.Table.from_pylist(new)))
    if old:
        writes.append(Delete("metrics", pa.table({"metric_id": old})))
    if not writes:
        return stage.nothing(reason="all figures are there", **counts)
    return stage.commit(writes, rows_read=len(rows), detail=counts)
