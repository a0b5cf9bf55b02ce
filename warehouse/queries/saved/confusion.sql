-- Question: Which classes are taken for which?
-- How to read: Gold label against prediction, only where they differ, with the share of the gold class. A pair that
--     leads in both directions is one class in two words, or a rule the guidelines lack. In a multi-label project a set
--     of classes counts as one label.
WITH pairs AS (
    SELECT g.label AS gold, p.label AS predicted, count(*) AS items
    FROM gold_labels g JOIN latest_predictions p ON p.item_id = g.item_id GROUP BY g.label, p.label
), sized AS (
    SELECT *, items / sum(items) OVER (PARTITION BY gold) AS share_of_gold FROM pairs
)
SELECT * FROM sized WHERE gold <> predicted ORDER BY items DESC, gold, predicted
