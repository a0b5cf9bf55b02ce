"""SQL of the views about what people answered: from the history of annotations to one label per item.

An *opinion* is the latest label of one annotator for what an item shows now. The gold label is the class with
the most weight of opinions: that of an annotator with accuracy p among C classes weighs ln(p (C - 1) / (1 - p)), which
makes the weights log-odds of the class, as in the model of Dawid and Skene with one accuracy per annotator.
`active/quality/consensus.py` estimates the accuracies; where it has not (yet), all opinions weigh the same: the
majority. A reviewer's opinion (`[annotate] reviewers`) outweighs all others.

In a multi-label project an opinion is a set of classes, and each class is a question of its own. There an annotator has
two weights, of a yes and of a no, since who seldom says yes is often right and finds little: the gold
label has the classes that more weight says yes to than no.
"""

UNKNOWN_ACCURACY = 0.8
"""Accuracy of an annotator nobody can judge yet."""

LAST_WORD = 1000.0
"""Weight of a reviewer's opinion. That of an annotator is seldom above 10, so no crowd outweighs it."""

_ODDS = round(UNKNOWN_ACCURACY / (1 - UNKNOWN_ACCURACY), 6)
_UNKNOWN = f"ln({_ODDS} * greatest((SELECT count(*) FROM known) - 1, 1))"
_UNKNOWN_YES_NO = f"ln({_ODDS})"
NAMELESS = ("", "unknown")
"""Names of annotators that say nothing of who it was."""
WHO = f"CASE WHEN a.annotator IN {NAMELESS} THEN a.annotation_id ELSE a.annotator END"
"""SQL of `person` for an annotation `a`."""

NO_CLASS = "(none)"
"""A set without a class, in words."""


def person(annotator: str, annotation_id: str) -> str:
    """Who gave an annotation. Who did not say who he is may be anyone, so his annotations are several people's."""
    return annotation_id if annotator in NAMELESS else annotator


def labels_in_words(labels: str) -> str:
    """SQL for a list of class names as one text, such as `grain, wheat`."""
    return f"coalesce(nullif(array_to_string({labels}, ', '), ''), '{NO_CLASS}')"


def sent_hash(keys: str) -> str:
    """SQL of `queue.content_hash` for an item as it is now, of `items i`.

    Where the text alone is shown, that is its hash; else the JSON list of the metadata keys shown, a space, and the md5
    of the text's hash and the keys' values: so a row says by itself what has to be as it was.

    Args:
        keys: SQL of that list, '[]' for the text alone.
    """
    path = "'/' || replace(replace(key, '~', '~0'), '/', '~1')"
    values = f"list_transform(json_extract_string({keys}, '$[*]'), lambda key: json_extract_string(i.metadata, {path}))"
    return (
        f"CASE WHEN {keys} = '[]' THEN i.content_hash "
        f"ELSE {keys} || ' ' || md5(i.content_hash || to_json({values})) END"
    )


def shown_keys(sent: str) -> str:
    """SQL of the keys in a `queue.content_hash`, as `sent_hash` takes them."""
    return f"CASE WHEN {sent}[1] = '[' THEN left({sent}, len({sent}) - 33) ELSE '[]' END"


CURRENT_ANNOTATIONS = """
    SELECT * FROM annotations
    QUALIFY row_number() OVER (
        PARTITION BY item_id, project, annotation_id ORDER BY updated_at DESC, committed_at DESC
    ) = 1
"""

_SENT = "coalesce(b.content_hash, q.content_hash)"


def _opinions(more: str = "") -> str:
    return f"""
    SELECT a.item_id, a.annotator, a.class_id, a.simulated, a.updated_at,
           sum(a.seconds) OVER (PARTITION BY a.item_id) AS seconds, a.class_ids
    FROM current_annotations a
    LEFT JOIN asked_before b ON b.item_id = a.item_id AND b.project = a.project AND b.task_id = a.task_id
    LEFT JOIN queue q ON q.item_id = a.item_id AND q.project = a.project
    -- What it shows was edited after it was sent: the answer belongs to that. Only what was ever changed is read.
    LEFT JOIN items i ON i.item_id = a.item_id AND i.changed_at IS NOT NULL
    WHERE a.action = 'labelled' AND coalesce({_SENT} = {sent_hash(shown_keys(_SENT))}, true) {more}
    QUALIFY row_number() OVER (
        PARTITION BY a.item_id, {WHO} ORDER BY a.updated_at DESC, a.annotation_id DESC
    ) = 1
"""


OPINIONS = _opinions()

FIRST_OPINIONS = _opinions("""
    AND NOT EXISTS (
        -- The task that came after each one; of the last one it is whichever is not named there.
        FROM (SELECT *, lead(task_id) OVER (PARTITION BY item_id, project ORDER BY round) AS next FROM asked_before) w
        WHERE w.item_id = a.item_id AND w.project = a.project AND w.why IN ('disagreement', 'second_look')
        AND (w.next = a.task_id OR (w.next IS NULL AND b.item_id IS NULL))
    )
""")
"""As `OPINIONS`, without the answers to tasks that other answers called for: these are about items on which people
disagree, or whose label looks wrong, so they say how right people are there and not how right they are."""

# Classes and opinions are read once: to DuckLake each mention of a table is some queries to the
# catalogue. An opinion is one row of `said` where an item has one class, else one row per class, a yes or a no.
GOLD_LABELS = f"""
    WITH known AS MATERIALIZED (SELECT class_id, name FROM classes), said AS (
        SELECT o.* EXCLUDE (class_id), s.annotator AS judge, s.weight, s.weight_no,
               unnest(CASE WHEN o.class_ids IS NULL THEN [o.class_id] ELSE (SELECT list(class_id) FROM known) END)
                   AS class_id
        FROM opinions o LEFT JOIN annotator_skills s ON s.annotator = o.annotator
    ), votes AS (
        SELECT item_id, class_id, count(*) AS n, max(updated_at) AS last_at, max(seconds) AS seconds,
               bool_or(simulated) AS simulated, count(judge) > 0 AS judged,
               coalesce(max(weight) >= {LAST_WORD}, false) AS reviewed,
               sum(CASE WHEN class_ids IS NULL THEN coalesce(weight, {_UNKNOWN})
                        WHEN list_contains(class_ids, class_id) THEN coalesce(weight, {_UNKNOWN_YES_NO})
                        ELSE -coalesce(weight_no, weight, {_UNKNOWN_YES_NO}) END) AS weight,
               -- Of answers of one time, as imported ones are, the same is the latest at every reading.
               arg_max(list_contains(class_ids, class_id), (updated_at, annotator, class_ids)) AS latest,
               list(class_ids) FILTER (WHERE class_ids IS NOT NULL) AS sets
        FROM said GROUP BY item_id, class_id
    ), heaviest AS (
        -- As exp(weight) is too large for a number where reviewers or hundreds of people spoke.
        SELECT *, max(weight) OVER (PARTITION BY item_id) AS top FROM votes
    ), shares AS (
        SELECT *, exp(weight - top) / (
                   sum(exp(weight - top)) OVER item
                   + greatest((SELECT count(*) FROM known) - count(*) OVER item, 0) * exp(-top)
               ) AS confidence,
               sum(n) OVER item AS annotations, count(*) OVER item AS kinds, max(last_at) OVER item AS updated_at,
               bool_or(simulated) OVER item AS any_simulated, bool_or(judged) OVER item AS any_judged,
               bool_or(reviewed) OVER item AS any_reviewed,
               list_sort(coalesce(
                   list(class_id) FILTER (WHERE round(weight, 9) > 0 OR (round(weight, 9) = 0 AND latest)) OVER item, []
               )) AS chosen,
               min(1 / (1 + exp(-abs(weight)))) OVER item AS least_sure
        FROM heaviest WINDOW item AS (PARTITION BY item_id)
    ), winners AS (
        SELECT *, sets IS NOT NULL AS several, CASE WHEN sets IS NULL THEN [class_id] ELSE chosen END AS won,
               CASE WHEN sets IS NULL THEN annotations ELSE n END AS opinions,
               CASE WHEN sets IS NULL THEN kinds ELSE len(list_distinct(sets)) END AS different
        FROM shares
        QUALIFY row_number() OVER (
            PARTITION BY item_id ORDER BY round(weight, 9) DESC, n DESC, last_at DESC,
            -- Answers of one time, as a file without times has them, are drawn: else ties made the first class larger.
            CASE WHEN kinds > 1 THEN md5(item_id || ' ' || class_id) END, class_id
        ) = 1
    ), named AS (
        SELECT w.*, list_transform(w.won, lambda c: k.names[c + 1]) AS labels
        FROM winners w CROSS JOIN (SELECT list(name ORDER BY class_id) AS names FROM known) k
    )
    SELECT item_id, CASE WHEN several THEN -1 ELSE class_id END AS class_id,
           CASE WHEN several THEN {labels_in_words("labels")} ELSE labels[1] END AS label,
           opinions::INTEGER AS annotations,
           (CASE WHEN several THEN len(list_filter(sets, lambda s: s = won)) ELSE n END)::INTEGER AS agreeing,
           round(CASE WHEN several THEN least_sure ELSE confidence END, 6) AS confidence,
           CASE WHEN opinions = 1 THEN 'single' WHEN different = 1 THEN 'unanimous'
                WHEN any_reviewed THEN 'reviewer' WHEN any_judged THEN 'skill' ELSE 'majority' END AS decided_by,
           seconds, updated_at, any_simulated AS simulated, won AS class_ids, labels
    FROM named
"""

ANNOTATORS = """
    WITH said AS (
        SELECT annotator, count(*) FILTER (WHERE action = 'labelled') AS labelled,
               count(*) FILTER (WHERE action = 'skipped') AS skipped,
               median(seconds) FILTER (WHERE action = 'labelled' AND seconds > 0) AS median_seconds,
               bool_or(simulated) AS simulated, max(updated_at) AS updated_at
        FROM current_annotations WHERE action <> 'deleted' GROUP BY annotator
    ), answers AS (
        SELECT item_id, annotator, coalesce(class_ids, [class_id]) AS label FROM opinions
    ), shared AS (
        SELECT annotator, count(*) AS compared, avg(same / others) AS agreement
        FROM (SELECT annotator, count(*) OVER (PARTITION BY item_id) - 1 AS others,
                     count(*) OVER (PARTITION BY item_id, label) - 1 AS same FROM answers)
        WHERE others > 0 GROUP BY annotator
    )
    SELECT a.annotator, a.labelled, a.skipped, a.median_seconds, 3600 / nullif(a.median_seconds, 0) AS labels_per_hour,
           coalesce(c.compared, 0) AS compared, c.agreement, s.accuracy, s.weight,
           s.weight_no, s.sensitivity, a.simulated, a.updated_at
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
