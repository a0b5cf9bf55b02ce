-- Question: What does a label of each class cost in people's time?
-- How to read: Seconds per answer and hours in all, by the label that came out; skipped answers are the row without
--     a label. Classes that take long are those whose definition people have to think about. In a multi-label project
--     an answer counts for each of its classes, or as (none). Answers without a time are in answers alone.
WITH answers AS (
    SELECT seconds, unnest(CASE WHEN class_ids = [] THEN [-2] ELSE coalesce(class_ids, [class_id]) END) AS class_id
    FROM current_annotations WHERE action <> 'deleted'
)
SELECT CASE a.class_id WHEN -2 THEN '(none)' ELSE c.name END AS label, count(*) AS answers,
       median(a.seconds) FILTER (WHERE a.seconds > 0) AS median_seconds,
       quantile_cont(a.seconds, 0.9) FILTER (WHERE a.seconds > 0) AS p90_seconds, sum(a.seconds) / 3600 AS hours,
       sum(a.seconds) / nullif(sum(sum(a.seconds)) OVER (), 0) AS share_of_time
FROM answers a LEFT JOIN classes c ON c.class_id = a.class_id
GROUP BY a.class_id, c.name ORDER BY hours DESC
