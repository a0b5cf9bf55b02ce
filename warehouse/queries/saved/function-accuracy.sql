-- Question: How accurate is each labeling function where people answered?
-- How to read: lowest and highest bound the accuracy on items like those that people labelled at 95% (Wilson's
--     interval); a function with few gold_votes is not known yet. Where these items were selected, they are mostly
--     hard ones, and on all items a function may be right far more often than highest says. So a low figure alone is no
--     reason to remove it: read its wrong votes first. Votes of all splits count; siftline lf report and lf_summary
--     count those of train.
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
