-- Question: What do the labeling functions not reach?
-- How to read: Items by how many functions voted on them, and the model's mean confidence there. votes = 0 is the
--     part that only the model's generalisation covers: read some of those texts and write a function for what they
--     share. Over 500,000 items a fixed sample is read.
WITH step AS (
    SELECT greatest(1, count(*) // 500000) AS n FROM items
), sampled AS (
    SELECT b::UBIGINT AS bucket FROM range(1024) t(b), step WHERE b % n = 0
)
SELECT w.votes, count(*) AS items, count(*) / sum(count(*)) OVER () AS share,
       avg(p.confidence) AS confidence, avg((p.confidence < 0.6)::INT) AS unsure
FROM (SELECT item_id, votes FROM latest_weak_labels SEMI JOIN sampled ON hash(item_id) % 1024 = bucket) w
LEFT JOIN (SELECT item_id, confidence FROM latest_predictions SEMI JOIN sampled ON hash(item_id) % 1024 = bucket) p
    ON p.item_id = w.item_id
GROUP BY w.votes ORDER BY w.votes
