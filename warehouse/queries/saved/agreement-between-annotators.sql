-- Question: Which two annotators disagree beyond chance?
-- How to read: kappa is Cohen's: 1 is full agreement, 0 is what chance gives. Read it only where items is at least
--     about 30; below 0.6 talk to the two, or sharpen the guidelines for the classes they mix up. Empty while no item
--     was answered twice. Items that were asked again because people disagree or a label looked wrong count too, and
--     so do those that a reviewer looked at, so with many of them kappa is too low. In a multi-label project two
--     answers agree when they name the same classes.
WITH answers AS (
    SELECT item_id, annotator, coalesce(class_ids, [class_id]) AS class_ids
    FROM opinions WHERE annotator NOT IN ('', 'unknown')
), pairs AS (
    SELECT a.annotator AS one, b.annotator AS other, a.class_ids AS said, b.class_ids AS heard
    FROM answers a JOIN answers b ON b.item_id = a.item_id AND b.annotator > a.annotator
), totals AS (
    SELECT one, other, count(*) AS items, avg((said = heard)::INT) AS agreed FROM pairs GROUP BY one, other
), chance AS (
    SELECT x.one, x.other, sum(x.share * y.share) AS agreed
    FROM (SELECT one, other, said, count(*) / sum(count(*)) OVER (PARTITION BY one, other) AS share
          FROM pairs GROUP BY one, other, said) x
    JOIN (SELECT one, other, heard, count(*) / sum(count(*)) OVER (PARTITION BY one, other) AS share
          FROM pairs GROUP BY one, other, heard) y
        ON y.one = x.one AND y.other = x.other AND y.heard = x.said
    GROUP BY x.one, x.other
)
SELECT t.one, t.other, t.items, t.agreed,
       (t.agreed - coalesce(c.agreed, 0)) / nullif(1 - coalesce(c.agreed, 0), 0) AS kappa
FROM totals t LEFT JOIN chance c ON c.one = t.one AND c.other = t.other
ORDER BY kappa, t.items DESC
