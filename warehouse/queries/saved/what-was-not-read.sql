-- Question: What was refused, and why?
-- How to read: Records that did not become items in any read so far, also of sources that are gone, and calls of
--     labeling functions that failed, by reason. A reason that grows from day to day is a source that changed under you.
--     example says of one of them what is wrong with it, and of a record on which line, or row of Parquet, it is.
SELECT 'quarantine' AS what, source AS origin, reason, count(*) AS n, max(committed_at) AS last_at,
       arg_min(left(detail, 200), position) || if(min(position) > 0, ' (at ' || min(position) || ')', '') AS example
FROM quarantine GROUP BY source, reason
UNION ALL
SELECT 'fault', lf_name, fault, count(*), max(committed_at), min(left(detail, 200))
FROM lf_faults GROUP BY lf_name, fault
ORDER BY n DESC, what, origin
