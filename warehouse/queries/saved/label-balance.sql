-- Question: How many labels does each class have, and how many of them did people give?
-- How to read: One row per class. gold: people's labels in force; predicted: the end model's for all other items;
--     share: of all labels (in a multi-label project a label counts for each of its classes). A class with few gold
--     labels is where the next hours of annotation pay.
WITH gold AS MATERIALIZED (
    SELECT item_id, class_ids FROM gold_labels
), said AS (
    SELECT class_id, count(*) AS n FROM (SELECT unnest(class_ids) AS class_id FROM gold) GROUP BY class_id
), guessed AS (
    SELECT class_id, count(*) AS n FROM (
        SELECT unnest(class_ids) AS class_id FROM latest_predictions WHERE item_id NOT IN (SELECT item_id FROM gold)
    ) GROUP BY class_id
)
SELECT c.name AS label, coalesce(g.n, 0) AS gold, coalesce(p.n, 0) AS predicted,
       (coalesce(g.n, 0) + coalesce(p.n, 0)) / nullif(sum(coalesce(g.n, 0) + coalesce(p.n, 0)) OVER (), 0) AS share
FROM classes c LEFT JOIN said g ON g.class_id = c.class_id LEFT JOIN guessed p ON p.class_id = c.class_id
ORDER BY share DESC
