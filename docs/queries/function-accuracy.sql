-- Question: How accurate is each labeling function where people answered?
-- How to read: lowest and highest bound the accuracy at 95% (Wilson's interval). A function whose highest lies
--     below that of the end model does harm; one with few gold_votes is not known yet. Where gold items were
--     chosen because they are hard, the accuracy on all items is likely higher.
WITH scored AS (
    SELECT v.lf_name, count(*) AS n, avg(list_contains(g.class_ids, v.vote)::INT) AS p
    FROM lf_votes v JOIN gold_labels g ON g.item_id = v.item_id WHERE v.vote >= 0 GROUP BY v.lf_name
)
SELECT lf_name, n AS gold_votes, p AS accuracy,
       greatest(0, round((p + 1.9208 / n - 1.96 * sqrt(p * (1 - p) / n + 0.9604 / (n * n))) / (1 + 3.8416 / n), 9))
           AS lowest,
       least(1, round((p + 1.9208 / n + 1.96 * sqrt(p * (1 - p) / n + 0.9604 / (n * n))) / (1 + 3.8416 / n), 9))
           AS highest
FROM scored ORDER BY accuracy, gold_votes DESC
