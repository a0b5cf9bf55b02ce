-- Question: Where does the time of a run go?
-- How to read: Committed runs per stage: seconds in all, of the slowest run, and rows worked on per second. A stage
--     whose rows_per_second falls from week to week does work that is not new.
SELECT stage, count(*) AS runs, sum(seconds) AS seconds, max(seconds) AS slowest,
       sum(rows_read) / nullif(sum(seconds), 0) AS rows_per_second, max(committed_at) AS last_at
FROM runs GROUP BY stage ORDER BY seconds DESC
