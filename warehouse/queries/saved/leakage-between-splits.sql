-- Question: Does a text of the test or valid split also stand in train?
-- How to read: No row is the answer to hope for. Each row counts texts of a split that stand word for word in train
--     too, and how many of those train rows carry a label from people: what the model knows by heart it gets right, so
--     its errors are up to this share too few. Texts that differ by a letter are not counted:
--     siftline docs querying 'Near-duplicates and odd texts' finds those.
WITH tested AS MATERIALIZED (
    SELECT split, content_hash, count(*) AS n, min(item_id) AS example FROM items
    WHERE split <> 'train' GROUP BY split, content_hash
), twins AS MATERIALIZED (
    SELECT item_id, content_hash FROM items
    WHERE split = 'train' AND content_hash IN (SELECT content_hash FROM tested)
), labelled AS (
    SELECT DISTINCT item_id FROM opinions WHERE item_id IN (SELECT item_id FROM twins)
), texts AS (
    SELECT t.content_hash, count(g.item_id) AS with_gold
    FROM twins t LEFT JOIN labelled g ON g.item_id = t.item_id GROUP BY t.content_hash
), sizes AS (
    SELECT split, sum(n) AS n FROM tested GROUP BY split
)
SELECT h.split, sum(h.n)::BIGINT AS texts_also_in_train, sum(h.n) / max(s.n) AS share,
       sum(t.with_gold)::BIGINT AS their_gold_labels, min(h.example) AS example
FROM tested h JOIN texts t ON t.content_hash = h.content_hash JOIN sizes s ON s.split = h.split
GROUP BY h.split ORDER BY share DESC
