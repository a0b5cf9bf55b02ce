-- Question: When the model says 0.9, is it right nine times out of ten?
-- How to read: Items with people's labels by the model's confidence. gap = confidence - accuracy: above 0 the model
--     is too sure. The model has learned from these labels and they were chosen hard, so use a held-out gold file
--     (siftline report) for a figure to publish. In a multi-label project each class of an item counts as one yes or no.
WITH scored AS (
    SELECT unnest(CASE
               WHEN g.class_id >= 0 THEN [{'confidence': p.confidence, 'hit': (p.class_id = g.class_id)::INT}]
               ELSE list_transform(p.probs, lambda prob, n: {
                   'confidence': greatest(prob, 1 - prob),
                   'hit': ((prob >= 0.5) = list_contains(g.class_ids, (n - 1)::INTEGER))::INT
               })
           END, recursive := true)
    FROM latest_predictions p JOIN gold_labels g ON g.item_id = p.item_id
), binned AS (
    SELECT least(floor(confidence * 10), 9) / 10 AS bin, confidence, hit FROM scored
)
SELECT bin AS confidence_from, count(*) AS items, avg(confidence) AS confidence, avg(hit) AS accuracy,
       avg(confidence) - avg(hit) AS gap
FROM binned GROUP BY bin ORDER BY bin
