-- Question: What sets the chosen items apart from those that were left?
-- How to read: Mean components of the value per cycle, for the items sent to people and for the rest of the pool.
--     Chosen items should be more representative and more uncertain, and less redundant; where a component does not
--     differ, it plays no part.
WITH chosen AS (
    SELECT item_id, cycle FROM queue
), parts AS (
    SELECT v.cycle, 'pool' AS part, v.value, v.representativeness, v.uncertainty, v.disagreement, v.redundancy
    FROM "values" v
    UNION ALL
    SELECT v.cycle, 'chosen', v.value, v.representativeness, v.uncertainty, v.disagreement, v.redundancy
    FROM "values" v JOIN chosen q ON q.item_id = v.item_id AND q.cycle = v.cycle
)
SELECT cycle, part, count(*) AS items, avg(value) AS value, avg(representativeness) AS representativeness,
       avg(uncertainty) AS uncertainty, avg(disagreement) AS disagreement, avg(redundancy) AS redundancy
FROM parts GROUP BY cycle, part ORDER BY cycle, part
