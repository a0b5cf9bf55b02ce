-- Question: Where is the model sure and people say otherwise?
-- How to read: The 50 surest contradictions. Read the texts: they are wrong answers of people, classes that
--     overlap, or something no function and no label has shown the model yet.
WITH surest AS (
    SELECT p.item_id, p.confidence, p.label AS predicted, g.label AS gold, g.annotations, g.agreeing
    FROM gold_labels g JOIN latest_predictions p ON p.item_id = g.item_id
    WHERE (p.class_ids <> g.class_ids) IS TRUE  -- not a condition of the join, so that its ids reach the scan
    ORDER BY p.confidence DESC, p.item_id LIMIT 50
)
SELECT s.*, i.content FROM surest s JOIN items i ON i.item_id = s.item_id
ORDER BY s.confidence DESC, s.item_id
