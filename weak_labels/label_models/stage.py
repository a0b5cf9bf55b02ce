"""The label_model stage: reads votes, fits on train items, writes `weak_labels` for all items.

Gold labels are an input only where the settings say so and the kind learns from them. They are not by default: the
figures of `evaluate` for fewer labels would then rest on weak labels that know more of them.
"""

import hashlib
import json
from typing import Any

import numpy as np
import pyarrow as pa

from warehouse import Lake, Progress, Reader, Stage, StageResult, Upsert, matrix_to_list_array, silent
from weak_labels.label_models.fit import GOLD_KINDS, LabelModelConfig, fit
from weak_labels.label_models.multi_label import fit_sets
from weak_labels.label_models.votes import Ints, VoteMatrix

VERSION = 9
"""Raised with every change of a label model that could change a probability; 5: votes on an item are dependent; 7: of
functions that are alike on train items, votes that contradict each other on others count as none; 8: `auto` compares
what was learned with the majority itself; 9: on halves that are drawn, and by gold labels in folds that hold some of
each class."""


def label_model(lake: Lake, config: LabelModelConfig, progress: Progress = silent) -> StageResult:
    """Fit a label model where votes (or gold labels it learns from) changed and write its probabilities for every item.

    A missing vote (a fault, or a function without an opinion) is an abstain. Items of every split get a weak label;
    only train items are learned from. Equal votes on equal items write nothing. A model that learns from gold labels
    goes on from its last parameters.

    Args:
        lake: the warehouse.
        config: the model.
        progress: called with (items written, items).

    Returns:
        `detail` holds the kind that was used, the covered items and, where it applies, the reason why it is another
        kind than the one asked for, and what `auto` decided by.

    Raises:
        SettingsError: a stored vote or gold label is no class.
    """
    learns = config.learn_from_gold and config.kind in GOLD_KINDS
    inputs = ("items", "lf_votes", "annotations", "annotator_skills") if learns else ("items", "lf_votes")
    params = {"kind": config.kind, "classes": list(config.classes), "epochs": config.epochs, "seed": config.seed}
    if learns:
        params["learn_from_gold"] = True
    if config.multi_label:
        params["multi_label"] = 2  # raised when what a label model of sets keeps of itself is another
    with lake.stage("label_model", version=VERSION, inputs=inputs, params=params) as stage:
        if stage.done:
            return stage.result()
        items = stage.rows("SELECT item_id, split = 'train' FROM items ORDER BY item_id")
        if not items:
            return stage.nothing(reason="no items")
        votes, names = read_votes(stage, items=len(items), classes=len(config.classes))
        gold_N = (
            (_gold_sets(stage, len(items), config) if config.multi_label else _gold(stage, len(items)))
            if learns
            else None
        )
        fingerprint = _fingerprint(params, items, votes, gold_N)
        latest = stage.rows(
            "SELECT sequence, detail FROM models WHERE stage = 'label_model' ORDER BY sequence DESC LIMIT 1"
        )
        before = json.loads(latest[0][1]) if latest else {}
        if before.get("fingerprint") == fingerprint:
            return stage.nothing(reason="equal votes on equal items")
        progress(0, len(items))
        train_N = np.array([train for _, train in items], np.bool_)
        start = before.get("learned") if learns else None
        if config.multi_label:
            fitted = fit_sets(votes, config, train_N, gold_N, names=names)
        else:
            fitted = fit(votes, config, train_N, gold_N, names=names, start=start)
        detail = {**fitted.detail, "kind": fitted.kind, "wanted": config.kind}
        weak_labels = pa.table(
            {
                "item_id": [item_id for item_id, _ in items],
                "label_model_id": [stage.short_token] * len(items),
                "probs": matrix_to_list_array(fitted.probs.astype(np.float32)),
                "votes": fitted.votes.astype(np.int32),
            }
        )
        kept = {**detail, "fingerprint": fingerprint, "learned": fitted.learned}
        model = pa.table(
            {
                "model_id": [stage.short_token],
                "stage": ["label_model"],
                "kind": [fitted.kind],
                "gold_labels": [detail["gold_labels"]],
                "items": [detail["train_items_covered"]],
                "sequence": [latest[0][0] + 1 if latest else 1],
                "detail": [json.dumps(kept, sort_keys=True)],
            }
        )
        progress(len(items), len(items))
        return stage.commit(
            [Upsert("weak_labels", weak_labels), Upsert("models", model)], rows_read=len(items), detail=detail
        )


def read_votes(reader: Reader, *, items: int, classes: int) -> tuple[VoteMatrix, list[str]]:
    """The votes in the warehouse: rows by item id, columns by the name of the function.

    Args:
        reader: one snapshot.
        items: rows of the table `items` in it.
        classes: number of classes.

    Returns:
        The votes, and the names of the functions that have any.

    Raises:
        SettingsError: a stored vote is no class.
    """
    names = [name for (name,) in reader.rows("SELECT DISTINCT lf_name FROM lf_votes ORDER BY lf_name")]
    cast = reader.arrow(
        """
        SELECT i.row, f.col, v.vote
        FROM lf_votes v
        JOIN (SELECT item_id, row_number() OVER (ORDER BY item_id) - 1 AS row FROM items) i ON i.item_id = v.item_id
        JOIN (SELECT lf_name, row_number() OVER (ORDER BY lf_name) - 1 AS col
              FROM (SELECT DISTINCT lf_name FROM lf_votes)) f ON f.lf_name = v.lf_name
        WHERE v.vote <> -1
        """
    )
    row_V, function_V, class_V = (cast.column(name).to_numpy() for name in ("row", "col", "vote"))
    votes = VoteMatrix.from_triples(row_V, function_V, class_V, items=items, functions=len(names), classes=classes)
    return votes, names


def _gold(stage: Stage, items: int) -> Ints:
    """What people said, by row [N]; -1 where nobody did."""
    gold_N = np.full(items, -1, np.int64)
    said = stage.rows(
        """
        SELECT i.row, g.class_id FROM gold_labels g
        JOIN (SELECT item_id, row_number() OVER (ORDER BY item_id) - 1 AS row FROM items) i USING (item_id)
        """
    )
    for row, class_id in said:
        gold_N[row] = class_id
    return gold_N


def _gold_sets(stage: Stage, items: int, config: LabelModelConfig) -> Ints:
    """What people said in a multi-label project [N, C]: 1 has the class, 0 has it not, -1 nobody said."""
    gold_NC = np.full((items, len(config.classes)), -1, np.int64)
    said = stage.rows(
        """
        SELECT i.row, g.class_ids FROM gold_labels g
        JOIN (SELECT item_id, row_number() OVER (ORDER BY item_id) - 1 AS row FROM items) i USING (item_id)
        """
    )
    for row, class_ids in said:
        gold_NC[row] = 0
        gold_NC[row, class_ids] = 1
    return gold_NC


def _fingerprint(params: dict[str, Any], items: list[tuple[Any, ...]], votes: VoteMatrix, gold_N: Ints | None) -> str:
    content = hashlib.sha256(json.dumps([VERSION, params, items, votes.functions]).encode())
    for part in (votes.starts, votes.function_V, votes.class_V, gold_N):
        if part is not None:
            content.update(part.tobytes())
    return content.hexdigest()
