-- Question: Does a text of the test or valid split also stand in train?
-- How to read: No row is the answer to hope for. Each row counts texts of a split that stand word for word in train
--     too, and how many of those train rows carry a label from people: the test score is too good by about share.
WITH shared AS MATERIALIZED (
    SELECT DISTINCT content_hash FROM items
    WHERE split = 'train' AND content_hash IN (SELECT content_hash FROM items WHERE split <> 'train')
), twins AS MATERIALIZED (
    SELECT i.item_id, i.split, i.content_hash FROM items i JOIN shared s ON s.content_hash = i.content_hash
), texts AS (
    SELECT t.content_hash, count(g.item_id) AS with_gold
    FROM twins t LEFT JOIN gold_labels g ON g.item_id = t.item_id WHERE t.split = 'train' GROUP BY t.content_hash
), sizes AS (
    SELECT split, count(*) AS n FROM items WHERE split <> 'train' GROUP BY split
)
SELECT h.split, count(*) AS texts_also_in_train, count(*) / max(s.n) AS share, sum(t.with_gold) AS their_gold_labels,
       min(h.item_id) AS example
FROM twins h JOIN texts t ON t.content_hash = h.content_hash JOIN sizes s ON s.split = h.split
GROUP BY h.split ORDER BY share DESC
