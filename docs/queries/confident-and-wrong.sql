-- Question: Where is the model sure and people say otherwise?
-- How to read: The 50 surest contradictions. Read the texts: they are wrong answers of people, classes that
--     overlap, or something no function and no label has shown the model yet.
SELECT p.item_id, p.confidence, p.label AS predicted, g.label AS gold, g.annotations, g.agreeing, i.content
FROM gold_labels g
JOIN latest_predictions p ON p.item_id = g.item_id AND p.class_id <> g.class_id
JOIN items i ON i.item_id = g.item_id
ORDER BY p.confidence DESC, p.item_id LIMIT 50
