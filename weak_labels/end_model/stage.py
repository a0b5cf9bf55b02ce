"""The end_model stage: learn from weak labels first and from gold labels after, and write `predictions`."""

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from warehouse import Lake, Progress, StageResult, Upsert, matrix_to_list_array, silent
from weak_labels.classifiers.linear import CHUNK, VERSION, EndModelConfig
from weak_labels.classifiers.one_vs_rest import confidence
from weak_labels.end_model.predictor import Predictor
from weak_labels.end_model.training_data import read_training_data


def end_model(lake: Lake, config: EndModelConfig, progress: Progress = silent) -> StageResult:
    """Train on weak and gold labels of train items and write `predictions` for every item that has a vector.

    Equal vectors, weak labels and gold labels write nothing, also when other annotations (skips) came in; so does the
    first model of all where there is nothing to learn from, see `TrainingData.tells_apart`. A later one that has
    nothing to learn from any more says nothing: it has no predictions.

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
    with lake.stage("end_model", version=VERSION, inputs=inputs, params=config.params()) as stage:
        if stage.done:
            return stage.result()
        data = read_training_data(stage, config)
        if not data.item_ids:
            return stage.nothing(reason="no item has a vector")
        fingerprint = data.fingerprint(config)
        latest = stage.rows(
            "SELECT sequence, detail FROM models WHERE stage = 'end_model' ORDER BY sequence DESC LIMIT 1"
        )
        if not (latest or data.tells_apart):
            return stage.nothing(reason="neither votes for two classes nor two different labels to learn from yet")
        if latest and json.loads(latest[0][1]).get("fingerprint") == fingerprint:
            return stage.nothing(reason="equal vectors, weak labels and gold labels")
        progress(0, 3)
        heads = data.heads(config)
        progress(1, 3)
        learned = data.learned(heads, config)
        progress(2, 3)
        count, said = len(data.item_ids), list[npt.NDArray[np.float32]]()
        for start in range(0, count, CHUNK):
            said.append(learned.model.predict_proba(heads.features[start : start + CHUNK]).astype(np.float32))
        probs_NC = np.concatenate(said)
        weak_items = int((data.weights > 0).sum())
        detail: dict[str, Any] = {
            "gold_labels": len(data.gold),
            "gold_labels_left_out": data.gold_left_out,
            "weak_labels": weak_items,
            "label_model_id": data.label_model_id,
            **learned.detail,
        }
        predictions = pa.table(
            {
                "item_id": data.item_ids,
                "end_model_id": [stage.short_token] * len(data.item_ids),
                "probs": matrix_to_list_array(probs_NC),
                "class_id": probs_NC.argmax(axis=1).astype(np.int32),
                "confidence": confidence(probs_NC, multi_label=config.multi_label),
            }
        )
        if not data.tells_apart:  # what it says would be shown to people as a suggestion: one class of every item
            predictions = predictions.slice(0, 0)
        learned_from = len(set(data.gold_rows.tolist()) | set(np.flatnonzero(data.weights).tolist()))
        row = pa.table(
            {
                "model_id": [stage.short_token],
                "stage": ["end_model"],
                "kind": [learned.model.kind],
                "gold_labels": [len(data.gold)],
                "items": [learned_from],
                "sequence": [latest[0][0] + 1 if latest else 1],
                "detail": [json.dumps({**detail, "fingerprint": fingerprint}, sort_keys=True)],
            }
        )
        kept = Predictor.learned(stage, data, heads, learned, config) if data.tells_apart else None
        progress(3, 3)
        done = stage.commit(
            [Upsert("predictions", predictions), Upsert("models", row)], rows_read=len(data.item_ids), detail=detail
        )
        if kept:
            kept.keep(fingerprint)
        return done
