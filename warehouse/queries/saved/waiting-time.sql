-- Question: How long do tasks wait for people?
-- How to read: Hours from the selection of a task to its first answer, per cycle, and the tasks that still wait.
--     Long waits mean that answers arrive after the model that asked for them has been replaced: take smaller
--     batches. Hours are without the tasks that ask again, which nothing says the beginning of, and without answers
--     that are older than the selection by the clock, since one of the two was wrong.
WITH chosen AS (
    SELECT (detail->>'$.cycle')::INTEGER AS cycle, min(committed_at) AS at FROM runs WHERE stage = 'select' GROUP BY 1
), first_answer AS (
    SELECT item_id, project, min(created_at) AS at FROM annotations
    WHERE item_id NOT IN (SELECT item_id FROM asked_before WHERE why <> 'imported') GROUP BY item_id, project
)
SELECT q.cycle, count(*) AS tasks, count(*) FILTER (WHERE q.state IN ('planned', 'sent', 'confirmed')) AS waiting,
       median(epoch(a.at - c.at)) / 3600 AS median_hours, quantile_cont(epoch(a.at - c.at), 0.9) / 3600 AS p90_hours
FROM queue q
LEFT JOIN chosen c ON c.cycle = q.cycle
LEFT JOIN first_answer a ON a.item_id = q.item_id AND a.project = q.project AND a.at >= c.at
GROUP BY q.cycle ORDER BY q.cycle
