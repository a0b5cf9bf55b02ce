"""SQL that counts what each labeling function did, for the view `lf_summary` and for the report of functions."""

TRAIN = "SELECT item_id FROM items WHERE split = 'train'"


def lf_counts(scope: str) -> str:
    """SQL of one row for each function that was applied or failed.

    Columns: lf_name; applied_to, its items in the scope; votes, those on which it did not abstain; overlapping and
    conflicting, those of its votes where another function voted too, and for another class; polarity, classes it voted
    for, NULL without a vote; gold_votes, its votes on what people labelled; gold_right, those they agree with; faults,
    its items in the scope that it failed on; switched_off; why_off, NULL while its votes count.

    Args:
        scope: SQL that gives the `item_id` of all items that count, such as `TRAIN`.
    """
    return f"""
        WITH scope AS ({scope}), active AS (
            SELECT v.item_id, v.lf_name, v.vote FROM lf_votes v JOIN scope s ON s.item_id = v.item_id
        ), per_item AS (
            SELECT item_id, count(*) AS n, count(DISTINCT vote) AS kinds FROM active GROUP BY item_id
        ), batches AS (
            SELECT b.input, b.batch, count(*) AS items FROM lf_inputs b JOIN scope s ON s.item_id = b.item_id
            GROUP BY b.input, b.batch
        ), failed AS (
            SELECT f.lf_name, count(s.item_id) AS items, bool_or(f.fault = 'switched_off') AS switched_off,
                   max(f.detail) FILTER (f.fault = 'switched_off') AS why_off
            FROM lf_faults f LEFT JOIN scope s ON s.item_id = f.item_id GROUP BY f.lf_name
        ), reached AS (
            SELECT r.lf_name, coalesce(sum(b.items), 0) - coalesce(max(x.items), 0) AS items
            FROM lf_reach r LEFT JOIN batches b ON b.input = r.input AND b.batch <= r.batch
            LEFT JOIN failed x ON x.lf_name = r.lf_name
            GROUP BY r.lf_name
        ), totals AS (
            SELECT f.lf_name, CASE WHEN r.lf_name IS NOT NULL THEN r.items WHEN x.switched_off THEN 0
                                   ELSE (SELECT count(*) FROM scope) END AS items
            FROM (
                SELECT lf_name FROM lf_reach UNION SELECT lf_name FROM lf_votes UNION SELECT lf_name FROM lf_faults
            ) f LEFT JOIN reached r ON r.lf_name = f.lf_name LEFT JOIN failed x ON x.lf_name = f.lf_name
        )
        SELECT t.lf_name,
               max(t.items)::BIGINT AS applied_to,
               count(a.item_id) AS votes,
               count(*) FILTER (WHERE p.n > 1) AS overlapping,
               count(*) FILTER (WHERE p.kinds > 1) AS conflicting,
               list_sort(list_distinct(list(c.name) FILTER (WHERE c.name IS NOT NULL))) AS polarity,
               count(g.item_id) AS gold_votes,
               count(*) FILTER (WHERE list_contains(g.class_ids, a.vote)) AS gold_right,
               coalesce(max(x.items), 0) AS faults,
               coalesce(bool_or(x.switched_off), false) AS switched_off,
               max(x.why_off) AS why_off
        FROM totals t
        LEFT JOIN active a ON a.lf_name = t.lf_name
        LEFT JOIN per_item p ON p.item_id = a.item_id
        LEFT JOIN classes c ON c.class_id = a.vote
        LEFT JOIN gold_labels g ON g.item_id = a.item_id
        LEFT JOIN failed x ON x.lf_name = t.lf_name
        GROUP BY t.lf_name
    """
