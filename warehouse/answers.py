"""SQL of the views about what people answered: from the history of annotations to one label per item.

An *opinion* is the latest label of one annotator for the text that an item has now. The gold label is the class with
the most weight of opinions: that of an annotator with accuracy p among C classes weighs ln(p (C - 1) / (1 - p)), which
makes the weights log-odds of the class, as in the model of Dawid and Skene with one accuracy per annotator.
`active/consensus.py` estimates the accuracies; where it has not (yet), all opinions weigh the same: the majority.
"""

UNKNOWN_ACCURACY = 0.8
"""Accuracy of an annotator nobody can judge yet."""

_ODDS = round(UNKNOWN_ACCURACY / (1 - UNKNOWN_ACCURACY), 6)
_UNKNOWN = f"ln({_ODDS} * greatest((SELECT count(*) FROM known) - 1, 1))"
# Who did not say who he is may be anyone, so each of his annotations is an opinion of its own.
_WHO = "CASE WHEN a.annotator IN ('', 'unknown') THEN a.annotation_id ELSE a.annotator END"

CURRENT_ANNOTATIONS = """
    SELECT * FROM annotations
    QUALIFY row_number() OVER (
        PARTITION BY item_id, project, annotation_id ORDER BY updated_at DESC, committed_at DESC
    ) = 1
"""

OPINIONS = f"""
    SELECT a.item_id, a.annotator, a.class_id, a.simulated, a.updated_at,
           sum(a.seconds) OVER (PARTITION BY a.item_id) AS seconds
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

# The classes are read once: to DuckLake each mention of a table is some queries to the catalogue (decision 0070).
GOLD_LABELS = f"""
    WITH known AS MATERIALIZED (SELECT class_id, name FROM classes), votes AS (
        SELECT o.item_id, o.class_id, count(*) AS n, max(o.updated_at) AS last_at, max(o.seconds) AS seconds,
               bool_or(o.simulated) AS simulated, count(s.annotator) > 0 AS judged,
               sum(coalesce(s.weight, {_UNKNOWN})) AS weight
        FROM opinions o LEFT JOIN annotator_skills s ON s.annotator = o.annotator
        GROUP BY o.item_id, o.class_id
    ), shares AS (
        SELECT *, exp(weight) / (
                   sum(exp(weight)) OVER item
                   + greatest((SELECT count(*) FROM known) - count(*) OVER item, 0)
               ) AS confidence,
               sum(n) OVER item AS annotations, count(*) OVER item AS kinds, max(last_at) OVER item AS updated_at,
               bool_or(simulated) OVER item AS any_simulated, bool_or(judged) OVER item AS any_judged
        FROM votes WINDOW item AS (PARTITION BY item_id)
    )
    SELECT v.item_id, v.class_id, c.name AS label,
           v.annotations::INTEGER AS annotations,
           v.n::INTEGER AS agreeing,
           round(v.confidence, 6) AS confidence,
           CASE WHEN v.annotations = 1 THEN 'single' WHEN v.kinds = 1 THEN 'unanimous'
                WHEN v.any_judged THEN 'skill' ELSE 'majority' END AS decided_by,
           v.seconds, v.updated_at, v.any_simulated AS simulated
    FROM shares v LEFT JOIN known c ON c.class_id = v.class_id
    QUALIFY row_number() OVER (
        PARTITION BY v.item_id ORDER BY round(v.weight, 9) DESC, v.n DESC, v.last_at DESC, v.class_id
    ) = 1
"""

ANNOTATORS = """
    WITH said AS (
        SELECT annotator, count(*) FILTER (WHERE action = 'labelled') AS labelled,
               count(*) FILTER (WHERE action = 'skipped') AS skipped,
               median(seconds) FILTER (WHERE action = 'labelled' AND seconds > 0) AS median_seconds,
               bool_or(simulated) AS simulated, max(updated_at) AS updated_at
        FROM current_annotations WHERE action <> 'deleted' GROUP BY annotator
    ), shared AS (
        SELECT o.annotator, count(*) AS compared, count(*) FILTER (WHERE o.class_id = g.class_id) AS agreeing
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

CONTESTED = """
    SELECT g.item_id, g.label, g.confidence, g.decided_by, g.annotations, g.agreeing,
           (SELECT list(o.annotator || ': ' || coalesce(c.name, o.class_id::VARCHAR) ORDER BY o.annotator)
            FROM opinions o LEFT JOIN classes c ON c.class_id = o.class_id WHERE o.item_id = g.item_id) AS opinions,
           i.content
    FROM gold_labels g LEFT JOIN items i ON i.item_id = g.item_id
    WHERE g.agreeing < g.annotations
    ORDER BY g.confidence, g.item_id
"""
