"""The views of the warehouse, as data: each a question that people ask, answered by SQL over the tables."""

from dataclasses import dataclass

from warehouse.schema import answer_views
from warehouse.schema.lf_counts import TRAIN, lf_counts

VIEWS_VERSION = 19
"""Raised with every change of a view's text: whoever opens an older warehouse to write brings its views to this one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """One view for people: the question it answers and its SQL."""

    name: str
    comment: str
    sql: str


_HAS = "list_filter(range(len(p.probs))::INTEGER[], lambda c: p.probs[c + 1] >= 0.5)"
_HAS_NAMES = f"list_transform({_HAS}, lambda c: k.names[c + 1])"

VIEWS: tuple[View, ...] = (
    View(
        name="current_annotations",
        comment="The state in force of every annotation: the last row of its history.",
        sql=answer_views.CURRENT_ANNOTATIONS,
    ),
    View(
        name="opinions",
        comment="The latest label of each annotator for the text, and the metadata shown, that an item has now.",
        sql=answer_views.OPINIONS,
    ),
    View(
        name="gold_labels",
        comment="One label per item: a reviewer's, else the opinions weighted by the annotators' skill, else the "
        "majority, the latest on a tie; none for an item edited since. In a multi-label project a label is a set of "
        "classes, maybe an empty one, and each class is decided on its own.",
        sql=answer_views.GOLD_LABELS,
    ),
    View(
        name="annotators",
        comment="Who answered how much, how fast, and how well where others answered too.",
        sql=answer_views.ANNOTATORS,
    ),
    View(
        name="contested",
        comment="Items on which people disagree, the least certain label first.",
        sql=answer_views.CONTESTED,
    ),
    View(
        name="latest_weak_labels",
        comment="Weak labels of the latest label model.",
        sql="""
            SELECT w.* FROM weak_labels w
            WHERE w.label_model_id = (SELECT arg_max(model_id, sequence) FROM models WHERE stage = 'label_model')
        """,
    ),
    View(
        name="latest_predictions",
        comment="Predictions of the latest end model, with the class name. In a multi-label project an item has the "
        "classes whose probability is at least 1/2; class_id is the most probable one all the same.",
        sql=f"""
            SELECT p.*, CASE WHEN k.multi_label THEN {answer_views.labels_in_words(_HAS_NAMES)}
                             ELSE k.names[p.class_id + 1] END AS label,
                   CASE WHEN k.multi_label THEN {_HAS} ELSE [p.class_id] END AS class_ids,
                   CASE WHEN k.multi_label THEN {_HAS_NAMES} ELSE [k.names[p.class_id + 1]] END AS labels
            FROM predictions p CROSS JOIN (
                SELECT list(name ORDER BY class_id) AS names, bool_or(coalesce(multi_label, false)) AS multi_label
                FROM classes
            ) k
            WHERE p.end_model_id = (SELECT arg_max(model_id, sequence) FROM models WHERE stage = 'end_model')
        """,
    ),
    View(
        name="training_set",
        comment="The labelled data set: people's labels where they exist, else the end model's, with the confidence.",
        sql="""
            SELECT i.item_id, i.content, i.split,
                   coalesce(g.label, p.label) AS label,
                   CASE WHEN g.item_id IS NOT NULL THEN 'gold' ELSE 'predicted' END AS label_source,
                   CASE WHEN g.agreeing = g.annotations THEN 1.0
                        ELSE coalesce(g.confidence::FLOAT, p.confidence) END AS confidence,
                   coalesce(g.simulated, false) AS simulated,
                   p.probs,
                   coalesce(g.labels, p.labels) AS labels
            FROM items i
            LEFT JOIN gold_labels g ON g.item_id = i.item_id
            LEFT JOIN latest_predictions p ON p.item_id = i.item_id
            WHERE g.item_id IS NOT NULL OR p.item_id IS NOT NULL
        """,
    ),
    View(
        name="lf_applied",
        comment="Every item that a labeling function has been applied to; vote is -1 where it abstained.",
        sql="""
            SELECT b.item_id, r.lf_name, r.lf_version, coalesce(v.vote, -1) AS vote
            FROM lf_reach r
            JOIN lf_inputs b ON b.input = r.input AND b.batch <= r.batch
            LEFT JOIN lf_votes v ON v.item_id = b.item_id AND v.lf_name = r.lf_name
            WHERE NOT EXISTS (
                FROM lf_faults f
                WHERE f.item_id = b.item_id AND f.lf_name = r.lf_name AND f.lf_version = r.lf_version
            )
        """,
    ),
    View(
        name="lf_summary",
        comment="Labeling functions on the train split: shares of the items each was applied to, and accuracy on gold.",
        sql=f"""
            SELECT lf_name, votes, applied_to, polarity,
                   coalesce(votes / nullif(applied_to, 0), 0) AS coverage,
                   coalesce(overlapping / nullif(applied_to, 0), 0) AS overlap,
                   CASE WHEN NOT coalesce((SELECT bool_or(multi_label) FROM classes), false)
                        THEN coalesce(conflicting / nullif(applied_to, 0), 0) END AS conflict,
                   gold_votes, gold_right / nullif(gold_votes, 0) AS gold_accuracy, faults, switched_off
            FROM ({lf_counts(TRAIN)})
            ORDER BY coverage DESC, lf_name
        """,
    ),
    View(
        name="queue_progress",
        comment="Tasks per cycle and state.",
        sql="""
            SELECT project, cycle,
                   count(*) AS tasks,
                   count(*) FILTER (WHERE state = 'planned') AS planned,
                   count(*) FILTER (WHERE state = 'sent') AS sent,
                   count(*) FILTER (WHERE state = 'confirmed') AS waiting,
                   count(*) FILTER (WHERE state = 'answered') AS answered,
                   min(value) AS lowest_value, max(value) AS highest_value
            FROM queue GROUP BY project, cycle ORDER BY project, cycle
        """,
    ),
    View(
        name="cycle_summary",
        comment="One row per end model: gold labels it learned from and the accuracy it was scored with on the split "
        "that was scored last, where scored.",
        sql="""
            WITH last AS (
                SELECT arg_max(split, committed_at) AS split FROM metrics
                WHERE series IN ('siftline', 'end_model') AND name = 'accuracy'
            ), figures AS (
                SELECT f.*, f.detail->>'model_id' AS model_id FROM metrics f JOIN last ON last.split = f.split
                WHERE f.name = 'accuracy'
            ), scored AS (
                SELECT labels, max(value) FILTER (WHERE series = 'siftline') AS value,
                       max(committed_at) FILTER (WHERE series = 'siftline') AS scored_at,
                       avg(value) FILTER (WHERE series = 'random') AS random
                FROM figures GROUP BY labels
            ), models_scored AS (
                -- What was scored before a model had learned says nothing of it.
                SELECT m.*, s.random, CASE WHEN s.scored_at >= m.committed_at THEN s.value END AS ours
                FROM models m LEFT JOIN scored s ON s.labels = m.gold_labels
            )
            SELECT m.sequence - 1 AS cycle, m.model_id AS end_model_id, m.gold_labels, m.items AS trained_on,
                   coalesce(o.value, m.ours) AS test_accuracy, m.random AS random_accuracy, m.committed_at,
                   CASE WHEN coalesce(o.value, m.ours, m.random) IS NOT NULL THEN last.split END AS split,
                   o.value IS NULL AND m.ours IS NOT NULL AS replayed
            FROM models_scored m CROSS JOIN last
            LEFT JOIN figures o ON o.series = 'end_model' AND o.model_id = m.model_id
            WHERE m.stage = 'end_model' ORDER BY m.sequence
        """,
    ),
    View(
        name="disagreements",
        comment="Items whose functions contradict each other, or whose gold label contradicts the end model; in a "
        "multi-label project votes for several classes are no contradiction.",
        sql="""
            WITH votes AS (
                SELECT v.item_id, count(*) AS votes,
                       CASE WHEN bool_or(coalesce(c.multi_label, false)) THEN 1
                            ELSE count(DISTINCT v.vote) END AS kinds,
                       list_sort(list(DISTINCT c.name)) AS voted
                FROM lf_votes v JOIN classes c ON c.class_id = v.vote GROUP BY v.item_id
            )
            SELECT i.item_id, i.split, v.votes, v.voted, p.label AS predicted, p.confidence, g.label AS gold, i.content
            FROM items i
            LEFT JOIN votes v ON v.item_id = i.item_id
            LEFT JOIN latest_predictions p ON p.item_id = i.item_id
            LEFT JOIN gold_labels g ON g.item_id = i.item_id
            WHERE v.kinds > 1 OR (g.item_id IS NOT NULL AND g.class_ids <> p.class_ids)
            ORDER BY v.kinds DESC NULLS LAST, i.item_id
        """,
    ),
)
