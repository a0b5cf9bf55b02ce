-- Question: When the model says 0.9, is it right nine times out of ten?
-- How to read: Items with people's labels by what the model said of them before anybody had answered, so of labels that
--     it had not learned from. gap = confidence - accuracy: above 0 the model is too sure, below 0 it is right more
--     often than it says. Most of these items were chosen because they are hard. The last two columns are of those that
--     `[select] explore` drew at random from the records that nobody had been asked about: so right is the model on
--     such records, and from which confidence on they need no person. Left out are items that no model had spoken of by
--     then, or whose text was edited since. In a multi-label project each class of an item counts as one yes or no.
WITH answered AS (
    SELECT item_id, min(committed_at) AS first FROM annotations WHERE action = 'labelled'
      AND item_id NOT IN (SELECT item_id FROM asked_before WHERE why = 'edited')
    GROUP BY item_id
), said AS (
    SELECT p.item_id, unnest(max_by({'class_id': p.class_id, 'confidence': p.confidence, 'probs': p.probs},
                                    p.committed_at))
    FROM predictions p JOIN answered a ON a.item_id = p.item_id AND p.committed_at < a.first GROUP BY p.item_id
), scored AS (
    SELECT q.item_id IS NOT NULL AS drawn, unnest(CASE
               WHEN g.class_id >= 0 THEN [{'confidence': p.confidence, 'hit': (p.class_id = g.class_id)::INT}]
               ELSE list_transform(p.probs, lambda prob, n: {
                   'confidence': greatest(prob, 1 - prob),
                   'hit': ((prob >= 0.5) = list_contains(g.class_ids, (n - 1)::INTEGER))::INT
               })
           END, recursive := true)
    FROM said p JOIN gold_labels g ON g.item_id = p.item_id
    LEFT JOIN (
        SELECT DISTINCT item_id FROM queue WHERE reason LIKE 'Drawn at random, whatever its value:%'
    ) q ON q.item_id = p.item_id
), binned AS (
    SELECT least(floor(confidence * 10), 9)::INTEGER / 10 AS bin, confidence, hit, drawn FROM scored
)
SELECT bin AS confidence_from, count(*) AS items, avg(confidence) AS confidence, avg(hit) AS accuracy,
       avg(confidence) - avg(hit) AS gap, count(*) FILTER (drawn) AS at_random,
       avg(hit) FILTER (drawn) AS accuracy_at_random
FROM binned GROUP BY bin ORDER BY bin
