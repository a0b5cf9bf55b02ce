-- Question: Has the mixture of what comes in changed?
-- How to read: One row per day on which items came in. distance is the total variation between that day's predicted
--     classes and all days' (0 the same, 1 nothing in common); expect about 0.5 * sqrt(classes / items) from chance
--     alone. Left out are items that were read again with another text, split or metadata: on which day they came in is
--     no longer known (nor of any item at a snapshot from before schema 6). Over 500,000 items a fixed sample is read.
--     In a multi-label project each item counts by its most probable class.
WITH step AS (
    SELECT greatest(1, count(*) // 500000) AS n FROM items
), sampled AS (
    SELECT b::UBIGINT AS bucket FROM range(1024) t(b), step WHERE b % n = 0
), labelled AS (
    SELECT date_trunc('day', i.committed_at) AS day, p.class_id
    FROM (SELECT item_id, committed_at FROM items SEMI JOIN sampled ON hash(item_id) % 1024 = bucket
          WHERE changed_at IS NULL) i
    JOIN (SELECT item_id, class_id FROM latest_predictions SEMI JOIN sampled ON hash(item_id) % 1024 = bucket) p
        ON p.item_id = i.item_id
), days AS (
    SELECT day, class_id, count(*) AS n FROM labelled GROUP BY day, class_id
), whole AS (
    SELECT class_id, sum(n) / sum(sum(n)) OVER () AS share FROM days GROUP BY class_id
), totals AS (
    SELECT day, sum(n) AS n FROM days GROUP BY day
)
SELECT t.day, max(t.n)::BIGINT AS items, sum(abs(coalesce(d.n, 0) / t.n - w.share)) / 2 AS distance,
       max_by(c.name, coalesce(d.n, 0) / t.n - w.share) AS grew_most
FROM totals t CROSS JOIN whole w
LEFT JOIN days d ON d.day = t.day AND d.class_id = w.class_id
LEFT JOIN classes c ON c.class_id = w.class_id
GROUP BY t.day ORDER BY t.day
