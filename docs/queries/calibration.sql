-- Question: When the model says 0.9, is it right nine times out of ten?
-- How to read: Items with people's labels by the model's confidence. gap = confidence - accuracy: above 0 the model
--     is too sure. The model has learned from these labels and they were chosen hard, so use a held-out gold file
--     (siftline report) for a figure to publish.
WITH scored AS (
    SELECT least(floor(p.confidence * 10), 9) / 10 AS bin, p.confidence, (p.class_id = g.class_id)::INT AS hit
    FROM latest_predictions p JOIN gold_labels g ON g.item_id = p.item_id
)
SELECT bin AS confidence_from, count(*) AS items, avg(confidence) AS confidence, avg(hit) AS accuracy,
       avg(confidence) - avg(hit) AS gap
FROM scored GROUP BY bin ORDER BY bin
