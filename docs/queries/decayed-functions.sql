-- Question: Which labeling functions have become less accurate?
-- How to read: Accuracy of each function on the older and on the newer half of people's answers. z is the fall in
--     standard errors: above 2 it is hardly chance, and the function should be read again beside its newest wrong
--     votes.
WITH halves AS (
    SELECT item_id, class_ids, ntile(2) OVER (ORDER BY updated_at, item_id) AS half FROM gold_labels
), hits AS (
    SELECT v.lf_name, h.half, list_contains(h.class_ids, v.vote)::INT AS hit
    FROM lf_votes v JOIN halves h ON h.item_id = v.item_id WHERE v.vote >= 0
), scored AS (
    SELECT lf_name, count(*) FILTER (WHERE half = 1) AS older, count(*) FILTER (WHERE half = 2) AS newer,
           avg(hit) FILTER (WHERE half = 1) AS older_accuracy, avg(hit) FILTER (WHERE half = 2) AS newer_accuracy,
           avg(hit) AS accuracy
    FROM hits GROUP BY lf_name
)
SELECT lf_name, older, newer, older_accuracy, newer_accuracy,
       (older_accuracy - newer_accuracy) / nullif(sqrt(accuracy * (1 - accuracy) * (1 / older + 1 / newer)), 0) AS z
FROM scored WHERE older > 0 AND newer > 0
ORDER BY z DESC NULLS LAST, lf_name
