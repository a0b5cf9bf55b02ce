-- Question: Does a text of the test or valid split also stand in train?
-- How to read: No row is the answer to hope for. Each row counts texts of a split that stand word for word in train
--     too, and how many of those train rows carry a label from people: the test score is too good by about share.
WITH held AS (
    SELECT item_id, split, content_hash FROM items WHERE split <> 'train'
), sizes AS (
    SELECT split, count(*) AS n FROM held GROUP BY split
), twins AS (
    SELECT h.split, h.item_id, count(*) AS in_train, count(g.item_id) AS with_gold
    FROM (SELECT item_id, content_hash FROM items WHERE split = 'train') t
    JOIN held h ON h.content_hash = t.content_hash
    LEFT JOIN gold_labels g ON g.item_id = t.item_id
    GROUP BY h.split, h.item_id
)
SELECT w.split, count(*) AS texts_also_in_train, count(*) / max(s.n) AS share, sum(w.with_gold) AS their_gold_labels,
       min(w.item_id) AS example
FROM twins w JOIN sizes s ON s.split = w.split GROUP BY w.split ORDER BY share DESC
