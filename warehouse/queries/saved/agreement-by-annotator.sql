-- Question: How well does each annotator agree with the others, how fast and how willing are they?
-- How to read: agree: on the items that others answered too (shared), the mean share of those others who gave the
--     same label; NULL where there is none. Two who differ on an item have 0 there, both. Who answers second looks,
--     at labels that seem wrong, agrees less for that alone, and so do a reviewer and those whom one corrects. Only
--     answers about what an item shows now are compared. skipped: share of tasks passed over. median_seconds: of a
--     label. An annotator who is fast and disagrees reads too quickly; one who is slow and skips may need better
--     guidelines.
SELECT annotator, labelled + skipped AS answers, skipped / (labelled + skipped) AS skipped, median_seconds,
       compared AS shared, agreement AS agree
FROM annotators ORDER BY agree NULLS LAST, answers DESC
