"""What is in use now, as the report and the end of a run tell it: the encoder and the newest end model."""

import json
from typing import Any

from features.embedding.stage import UNREAD
from flows.report.text import counted, listed
from warehouse.queries.reader import Reader


def encoder_in_use(reader: Reader) -> str | None:
    """The encoder whose vectors were indexed last, which may have given its vectors before another; None without any.

    Where nothing was indexed yet it is the one that gave the newest vectors.
    """
    return reader.scalar(
        "SELECT coalesce((SELECT arg_max(detail->>'encoder_id', committed_at) FROM runs WHERE stage = 'index'), "
        "(SELECT encoder_id FROM vectors ORDER BY committed_at DESC, encoder_id LIMIT 1))"
    )


def belief_in_weak_labels(reader: Reader) -> float | None:
    """How far the newest end model believes what weak labels taught; None where nothing says so."""
    return reader.scalar(
        "SELECT (detail->>'belief_in_weak_labels')::DOUBLE FROM models WHERE stage = 'end_model' "
        "ORDER BY sequence DESC LIMIT 1"
    )


def scored_before(reader: Reader, split: str) -> bool:
    """Whether all figures of a split are of earlier end models, as the newest was not scored on it."""
    return bool(
        reader.scalar(
            "SELECT max(m.committed_at) > (SELECT max(f.committed_at) FROM metrics f WHERE f.name = 'accuracy' "
            "AND f.split = ? AND f.series IN ('siftline', 'end_model')) FROM models m WHERE m.stage = 'end_model'",
            [split],
        )
    )


def scored_without(reader: Reader) -> str:
    """That end models were scored before a class was added, and so seem better than later ones; empty for none."""
    names, models = reader.rows(
        """
        WITH late AS (
            FROM classes WHERE committed_at > (SELECT min(committed_at) FROM classes)
        ), scored AS (
            SELECT max(committed_at) AS scored_at FROM metrics WHERE series = 'end_model' AND name = 'accuracy'
            GROUP BY detail->>'model_id'
        )
        SELECT (SELECT list(format('''{}''', name) ORDER BY class_id) FROM late
                WHERE committed_at > (SELECT min(scored_at) FROM scored)),
               (SELECT count(*) FROM scored WHERE scored_at < (SELECT max(committed_at) FROM late))
        """
    )[0]
    if not models:
        return ""
    what = counted(models, "end model was", "end models were")
    came = f"{listed(names, 'and')} came in as {'a class' if len(names) == 1 else 'classes'}"
    return f"{what} scored before {came}. Compare later ones with each other only."


def unread_share(reader: Reader) -> float:
    """The mean of what the embed stage says the encoder cannot read of the texts that it gave their vectors."""
    return reader.scalar(
        "WITH told AS ("
        "SELECT count(*) AS items, any_value(coalesce((r.detail->>$1)::DOUBLE, 0)) AS unread "
        "FROM vectors v JOIN runs r USING (run_id) WHERE encoder_id = $2 GROUP BY run_id) "
        "SELECT coalesce(sum(items * unread) / sum(items), 0) FROM told",
        [UNREAD, encoder_in_use(reader)],
    )


def latest_counts(reader: Reader, split: str, name: str) -> tuple[dict[str, Any], int]:
    """What was counted beside the latest figure of a name, and the gold labels that it was reached with."""
    rows = reader.rows(
        "SELECT detail, labels FROM metrics WHERE series = 'siftline' AND name = ? AND split = ? "
        "ORDER BY labels DESC, committed_at DESC LIMIT 1",
        [name, split],
    )
    return (json_object(rows[0][0]), int(rows[0][1])) if rows else ({}, 0)


def json_object(text: str | None) -> dict[str, Any]:
    """A column that holds a JSON object; anything else is an empty one."""
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
