-- Question: How well does each annotator agree with the others, how fast and how willing are they?
-- How to read: agree: share of answers equal to the majority label, on items that at least two people answered
--     (shared); NULL where there is none. Only answers about what an item shows now are compared. skipped: share of
--     tasks passed over. median_seconds: of a label. An annotator who is fast and disagrees reads too quickly; one
--     who is slow and skips may need better guidelines.
SELECT annotator, labelled + skipped AS answers, skipped / (labelled + skipped) AS skipped, median_seconds,
       compared AS shared, agreement AS agree
FROM annotators ORDER BY agree NULLS LAST, answers DESC
