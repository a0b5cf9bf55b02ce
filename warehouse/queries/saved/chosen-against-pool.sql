-- Question: What sets the chosen items apart from those that were left?
-- How to read: Mean components of the value per cycle, for the items sent to people for their value (chosen) and for
--     those that were not sent (left). Chosen items should be more representative and more uncertain, and less
--     redundant; where a component does not differ, it plays no part. The fair sample, drawn whatever the value, is in
--     neither, nor are items that people were asked about again: for what they were chosen first is no longer known.
--     Where expire_days is set, read the selections of these days only: of older ones left has what was sent
--     later, and nothing else.
WITH sent AS (
    SELECT item_id, cycle, bool_and(reason LIKE 'Drawn at random, whatever its value:%') AS fair
    FROM queue GROUP BY item_id, cycle
)
SELECT v.cycle, CASE WHEN q.item_id IS NULL THEN 'left' ELSE 'chosen' END AS part, count(*) AS items,
       avg(v.value) AS value, avg(v.representativeness) AS representativeness, avg(v.uncertainty) AS uncertainty,
       avg(v.disagreement) AS disagreement, avg(v.redundancy) AS redundancy
FROM "values" v LEFT JOIN sent q ON q.item_id = v.item_id AND q.cycle = v.cycle
WHERE NOT coalesce(q.fair, false)
  AND v.item_id NOT IN (SELECT item_id FROM asked_before WHERE why <> 'imported')
GROUP BY ALL ORDER BY 1, 2
