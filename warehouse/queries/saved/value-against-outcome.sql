-- Question: Did the items that were said to be valuable teach us something?
-- How to read: Answered items in five groups by the value they had when they were chosen, 1 the most valuable.
--     surprise: the answer was not what the model suggested. If surprise does not fall from group 1 to 5, the value
--     estimate does not tell much. Left out are the fair sample, which was drawn whatever its value, and items that
--     people were asked about again: what was suggested when they were chosen is no longer known.
WITH answered AS (
    SELECT q.item_id, q.value, g.class_ids, g.seconds,
           coalesce(q.predictions, CASE WHEN q.prediction >= 0 THEN [q.prediction] END) AS suggested,
           ntile(5) OVER (ORDER BY q.value DESC, q.item_id) AS value_group
    FROM queue q JOIN gold_labels g ON g.item_id = q.item_id
    WHERE q.reason NOT LIKE 'Drawn at random, whatever its value:%'
      AND (q.item_id, q.project) NOT IN (SELECT (item_id, project) FROM asked_before)
)
SELECT value_group, count(*) AS items, min(value) AS lowest_value, max(value) AS highest_value,
       avg((suggested <> class_ids)::INT) AS surprise, avg(seconds) FILTER (WHERE seconds > 0) AS seconds
FROM answered GROUP BY value_group ORDER BY value_group
