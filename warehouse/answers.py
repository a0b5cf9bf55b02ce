"""SQL of the views about what people answered: from the history of annotations to one label per item.

An *opinion* is the latest label of one annotator for the text that an item has now. The gold label is the class with
the most weight of opinions: that of an annotator with accuracy p among C classes weighs ln(p (C - 1) / (1 - p)), which
makes the weights log-odds of the class, as in the model of Dawid and Skene with one accuracy per annotator.
`active/consensus.py` estimates the accuracies; where it has not (yet), all opinions weigh the same: the majority.

In a multi-label project an opinion is a set of classes, and each class is a question of its own with two answers, to
which the same weights apply with C = 2: the gold label has the classes that more weight says yes to than no.
"""

UNKNOWN_ACCURACY = 0.8
"""Accuracy of an annotator nobody can judge yet."""

_ODDS = round(UNKNOWN_ACCURACY / (1 - UNKNOWN_ACCURACY), 6)
_UNKNOWN = f"ln({_ODDS} * greatest((SELECT count(*) FROM known) - 1, 1))"
_UNKNOWN_YES_NO = f"ln({_ODDS})"
# Who did not say who he is may be anyone, so each of his annotations is an opinion of its own.
_WHO = "CASE WHEN a.annotator IN ('', 'unknown') THEN a.annotation_id ELSE a.annotator END"

NO_CLASS = "(none)"
"""A set without a class, in words."""


def labels_in_words(labels: str) -> str:
    """SQL for a list of class names as one text, such as `grain, wheat`."""
    return f"coalesce(nullif(array_to_string({labels}, ', '), ''), '{NO_CLASS}')"


CURRENT_ANNOTATIONS = """
    SELECT * FROM annotations
    QUALIFY row_number() OVER (
        PARTITION BY item_id, project, annotation_id ORDER BY updated_at DESC, committed_at DESC
    ) = 1
"""

OPINIONS = f"""
    SELECT a.item_id, a.annotator, a.class_id, a.simulated, a.updated_at,
           sum(a.seconds) OVER (PARTITION BY a.item_id) AS seconds, a.class_ids
    FROM current_annotations a
    LEFT JOIN asked_before b ON b.item_id = a.item_id AND b.project = a.project AND b.task_id = a.task_id
    LEFT JOIN queue q ON q.item_id = a.item_id AND q.project = a.project
    LEFT JOIN items i ON i.item_id = a.item_id
    -- The text was edited after it was sent: the answer belongs to another text.
    WHERE a.action = 'labelled' AND coalesce(coalesce(b.content_hash, q.content_hash) = i.content_hash, true)
    QUALIFY row_number() OVER (
        PARTITION BY a.item_id, {_WHO} ORDER BY a.updated_at DESC, a.annotation_id DESC
    ) = 1
"""

# Classes and opinions are read once: to DuckLake each mention of a table is some queries to the catalogue (decision
# 0070). `votes` to `single` are about projects with one class per item, `asked` to `several` about the others.
GOLD_LABELS = f"""
    WITH known AS MATERIALIZED (SELECT class_id, name FROM classes), said AS MATERIALIZED (
        SELECT o.*, s.annotator AS judge, s.weight
        FROM opinions o LEFT JOIN annotator_skills s ON s.annotator = o.annotator
    ), votes AS (
        SELECT o.item_id, o.class_id, count(*) AS n, max(o.updated_at) AS last_at, max(o.seconds) AS seconds,
               bool_or(o.simulated) AS simulated, count(o.judge) > 0 AS judged,
               sum(coalesce(o.weight, {_UNKNOWN})) AS weight
        FROM said o WHERE o.class_ids IS NULL
        GROUP BY o.item_id, o.class_id
    ), shares AS (
        SELECT *, exp(weight) / (
                   sum(exp(weight)) OVER item
                   + greatest((SELECT count(*) FROM known) - count(*) OVER item, 0)
               ) AS confidence,
               sum(n) OVER item AS annotations, count(*) OVER item AS kinds, max(last_at) OVER item AS updated_at,
               bool_or(simulated) OVER item AS any_simulated, bool_or(judged) OVER item AS any_judged
        FROM votes WINDOW item AS (PARTITION BY item_id)
    ), single AS (
        SELECT v.item_id, v.class_id, c.name AS label,
               v.annotations::INTEGER AS annotations,
               v.n::INTEGER AS agreeing,
               round(v.confidence, 6) AS confidence,
               CASE WHEN v.annotations = 1 THEN 'single' WHEN v.kinds = 1 THEN 'unanimous'
                    WHEN v.any_judged THEN 'skill' ELSE 'majority' END AS decided_by,
               v.seconds, v.updated_at, v.any_simulated AS simulated,
               [v.class_id] AS class_ids, [c.name] AS labels
        FROM shares v LEFT JOIN known c ON c.class_id = v.class_id
        QUALIFY row_number() OVER (
            PARTITION BY v.item_id ORDER BY round(v.weight, 9) DESC, v.n DESC, v.last_at DESC, v.class_id
        ) = 1
    ), asked AS (
        SELECT o.item_id, k.class_id, k.name, o.updated_at, list_contains(o.class_ids, k.class_id) AS yes,
               coalesce(o.weight, {_UNKNOWN_YES_NO}) AS weight
        FROM said o CROSS JOIN known k WHERE o.class_ids IS NOT NULL
    ), leads AS (
        SELECT item_id, class_id, any_value(name) AS name, arg_max(yes, updated_at) AS latest,
               round(sum(CASE WHEN yes THEN weight ELSE -weight END), 9) AS lead
        FROM asked GROUP BY item_id, class_id
    ), sets AS (
        SELECT item_id, coalesce(list(class_id ORDER BY class_id) FILTER (WHERE yes), []) AS class_ids,
               coalesce(list(name ORDER BY class_id) FILTER (WHERE yes), []) AS labels,
               min(1 / (1 + exp(-abs(lead)))) AS confidence
        FROM (SELECT *, lead > 0 OR (lead = 0 AND latest) AS yes FROM leads) GROUP BY item_id
    ), several AS (
        SELECT s.item_id, -1 AS class_id, {labels_in_words("s.labels")} AS label, count(*)::INTEGER AS annotations,
               (count(*) FILTER (WHERE o.class_ids = s.class_ids))::INTEGER AS agreeing,
               round(any_value(s.confidence), 6) AS confidence,
               CASE WHEN count(*) = 1 THEN 'single' WHEN count(DISTINCT o.class_ids) = 1 THEN 'unanimous'
                    WHEN count(o.judge) > 0 THEN 'skill' ELSE 'majority' END AS decided_by,
               max(o.seconds) AS seconds, max(o.updated_at) AS updated_at, bool_or(o.simulated) AS simulated,
               s.class_ids, s.labels
        FROM sets s JOIN said o ON o.item_id = s.item_id WHERE o.class_ids IS NOT NULL
        GROUP BY s.item_id, s.class_ids, s.labels
    )
    FROM single UNION ALL FROM several
"""

ANNOTATORS = """
    WITH said AS (
        SELECT annotator, count(*) FILTER (WHERE action = 'labelled') AS labelled,
               count(*) FILTER (WHERE action = 'skipped') AS skipped,
               median(seconds) FILTER (WHERE action = 'labelled' AND seconds > 0) AS median_seconds,
               bool_or(simulated) AS simulated, max(updated_at) AS updated_at
        FROM current_annotations WHERE action <> 'deleted' GROUP BY annotator
    ), shared AS (
        SELECT o.annotator, count(*) AS compared,
               count(*) FILTER (WHERE coalesce(o.class_ids, [o.class_id]) = g.class_ids) AS agreeing
        FROM opinions o JOIN gold_labels g ON g.item_id = o.item_id WHERE g.annotations > 1 GROUP BY o.annotator
    )
    SELECT a.annotator, a.labelled, a.skipped, a.median_seconds, 3600 / nullif(a.median_seconds, 0) AS labels_per_hour,
           coalesce(c.compared, 0) AS compared, c.agreeing / nullif(c.compared, 0) AS agreement, s.accuracy, s.weight,
           a.simulated, a.updated_at
    FROM said a
    LEFT JOIN shared c ON c.annotator = a.annotator
    LEFT JOIN annotator_skills s ON s.annotator = a.annotator
    ORDER BY a.labelled DESC, a.annotator
"""

CONTESTED = f"""
    SELECT g.item_id, g.label, g.confidence, g.decided_by, g.annotations, g.agreeing,
           (SELECT list(o.annotator || ': ' || CASE
                WHEN o.class_ids IS NULL THEN coalesce(k.names[o.class_id + 1], o.class_id::VARCHAR)
                ELSE {labels_in_words("list_transform(o.class_ids, lambda c: k.names[c + 1])")}
            END ORDER BY o.annotator)
            FROM opinions o CROSS JOIN (SELECT list(name ORDER BY class_id) AS names FROM classes) k
            WHERE o.item_id = g.item_id) AS opinions,
           i.content
    FROM gold_labels g LEFT JOIN items i ON i.item_id = g.item_id
    WHERE g.agreeing < g.annotations
    ORDER BY g.confidence, g.item_id
"""
