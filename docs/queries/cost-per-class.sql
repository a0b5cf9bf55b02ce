-- Question: What does a label of each class cost in people's time?
-- How to read: Seconds per answer and hours in all, by the label that came out; skipped answers are the row without
--     a label. Classes that take long are those whose definition people have to think about.
SELECT c.name AS label, count(*) AS answers, median(a.seconds) AS median_seconds,
       quantile_cont(a.seconds, 0.9) AS p90_seconds, sum(a.seconds) / 3600 AS hours,
       sum(a.seconds) / sum(sum(a.seconds)) OVER () AS share_of_time
FROM current_annotations a LEFT JOIN classes c ON c.class_id = a.class_id
WHERE a.action <> 'deleted'
GROUP BY c.name ORDER BY hours DESC
