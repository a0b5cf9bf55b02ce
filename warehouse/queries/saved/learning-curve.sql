-- Question: What did each batch of labels buy?
-- How to read: One row per end model. gain is the accuracy won since the model before, on the split that is scored
--     (test_accuracy is of that one), per_100_labels the same per hundred answers. When it stays near 0 the budget is
--     better spent on another class or on better functions. Both are empty after a class was added: the models before
--     did not know it.
WITH models AS (
    SELECT *, (SELECT count(*) FROM classes k WHERE k.committed_at <= c.committed_at) AS known FROM cycle_summary c
)
SELECT cycle, gold_labels, trained_on, test_accuracy, random_accuracy,
       test_accuracy - lag(test_accuracy) OVER same AS gain,
       100 * (test_accuracy - lag(test_accuracy) OVER same)
           / nullif(gold_labels - lag(gold_labels) OVER same, 0) AS per_100_labels
FROM models WINDOW same AS (PARTITION BY known ORDER BY cycle) ORDER BY cycle
