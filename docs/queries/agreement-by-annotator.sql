-- Question: How well does each annotator agree with the others, how fast and how willing are they?
-- How to read: agree: share of answers equal to the majority label, on items that at least two people answered
--     (shared); NULL where there is none. skipped: share of tasks passed over. An annotator who is fast and
--     disagrees reads too quickly; one who is slow and skips may need better guidelines.
WITH answers AS (
    SELECT item_id, annotator, action, coalesce(class_ids, [class_id]) AS class_ids, seconds FROM current_annotations WHERE action <> 'deleted'
), shared AS (
    SELECT item_id FROM answers WHERE action = 'labelled' GROUP BY item_id HAVING count(DISTINCT annotator) > 1
)
SELECT a.annotator, count(*) AS answers,
       avg((a.action = 'skipped')::INT) AS skipped,
       median(a.seconds) AS median_seconds,
       count(s.item_id) FILTER (WHERE a.action = 'labelled') AS shared,
       avg((a.class_ids = g.class_ids)::INT) FILTER (WHERE a.action = 'labelled' AND s.item_id IS NOT NULL) AS agree
FROM answers a
LEFT JOIN shared s ON s.item_id = a.item_id
LEFT JOIN gold_labels g ON g.item_id = a.item_id
GROUP BY a.annotator
ORDER BY agree NULLS LAST, answers DESC
