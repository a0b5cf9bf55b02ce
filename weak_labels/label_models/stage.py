"""The label_model stage: reads votes, fits on train items, writes `weak_labels` for all items.

Gold labels are no input: Snorkel could only use them for its class prior, and the uniform prior measured better (see
`LabelModelConfig`). So new gold labels never refit this model.
"""

import hashlib
import json

import numpy as np
import pyarrow as pa

from warehouse import Lake, Progress, Stage, StageResult, Upsert, matrix_to_list_array, silent
from weak_labels.label_models.fit import LabelModelConfig, fit
from weak_labels.label_models.majority import Votes


def label_model(lake: Lake, config: LabelModelConfig, progress: Progress = silent) -> StageResult:
    """Fit a label model where votes changed and write its probabilities for every item.

    A missing vote (a fault, or a function without an opinion) is an abstain. Items of every split get a weak label;
    only train items are learned from. Equal votes on equal items write nothing.

    Args:
        lake: the warehouse.
        config: the model.
        progress: called with (items written, items).

    Returns:
        `detail` holds the kind that was used, the covered items and, where it applies, the reason why it is another
        kind than the one asked for.

    Raises:
        SettingsError: a stored vote is no class.
    """
    params = {"kind": config.kind, "classes": list(config.classes), "epochs": config.epochs, "seed": config.seed}
    with lake.stage("label_model", version=1, inputs=("items", "lf_votes"), params=params) as stage:
        if stage.done:
            return stage.result()
        items = stage.rows("SELECT item_id, split = 'train' FROM items ORDER BY item_id")
        if not items:
            return stage.nothing(reason="no items")
        votes_NL = _votes(stage, len(items))
        fingerprint = hashlib.sha256(json.dumps([params, items]).encode() + votes_NL.tobytes()).hexdigest()
        latest = stage.rows(
            "SELECT sequence, detail FROM models WHERE stage = 'label_model' ORDER BY sequence DESC LIMIT 1"
        )
        if latest and json.loads(latest[0][1]).get("fingerprint") == fingerprint:
            return stage.nothing(reason="equal votes on equal items")
        progress(0, len(items))
        fitted = fit(votes_NL, config, np.array([train for _, train in items], np.bool_))
        detail = {**fitted.detail, "kind": fitted.kind, "wanted": config.kind}
        weak_labels = pa.table(
            {
                "item_id": [item_id for item_id, _ in items],
                "label_model_id": [stage.short_token] * len(items),
                "probs": matrix_to_list_array(fitted.probs.astype(np.float32)),
                "votes": fitted.votes.astype(np.int32),
            }
        )
        model = pa.table(
            {
                "model_id": [stage.short_token],
                "stage": ["label_model"],
                "kind": [fitted.kind],
                "gold_labels": [0],
                "items": [detail["train_items_covered"]],
                "sequence": [latest[0][0] + 1 if latest else 1],
                "detail": [json.dumps({**detail, "fingerprint": fingerprint}, sort_keys=True)],
            }
        )
        progress(len(items), len(items))
        return stage.commit(
            [Upsert("weak_labels", weak_labels), Upsert("models", model)], rows_read=len(items), detail=detail
        )


def _votes(stage: Stage, items: int) -> Votes:
    """Votes [N, L]: rows by item_id, columns by the name of the function."""
    functions = stage.rows("SELECT DISTINCT lf_name FROM lf_votes ORDER BY lf_name")
    votes_NL = np.full((items, len(functions)), -1, np.int64)
    cast = stage.arrow(
        """
        SELECT i.row, f.col, v.vote
        FROM lf_votes v
        JOIN (SELECT item_id, row_number() OVER (ORDER BY item_id) - 1 AS row FROM items) i ON i.item_id = v.item_id
        JOIN (SELECT lf_name, row_number() OVER (ORDER BY lf_name) - 1 AS col
              FROM (SELECT DISTINCT lf_name FROM lf_votes)) f ON f.lf_name = v.lf_name
        WHERE v.vote <> -1
        """
    )
    row_V, col_V, vote_V = (cast.column(name).to_numpy() for name in ("row", "col", "vote"))
    votes_NL[row_V, col_V] = vote_V
    return votes_NL
