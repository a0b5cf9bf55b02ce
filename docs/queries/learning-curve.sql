-- Question: What did each batch of labels buy?
-- How to read: One row per end model. gain is the accuracy won since the model before, on the split that is scored
--     (test_accuracy is of that one), per_100_labels the same per hundred answers. When it stays near 0 the budget is
--     better spent on another class or on better functions.
SELECT cycle, gold_labels, trained_on, test_accuracy, random_accuracy,
       test_accuracy - lag(test_accuracy) OVER (ORDER BY cycle) AS gain,
       100 * (test_accuracy - lag(test_accuracy) OVER (ORDER BY cycle))
           / nullif(gold_labels - lag(gold_labels) OVER (ORDER BY cycle), 0) AS per_100_labels
FROM cycle_summary ORDER BY cycle
