-- Question: Which labeling functions have become less accurate?
-- How to read: Accuracy of each function on the older and on the newer half of people's answers. z is the fall in
--     standard errors, with a right and a wrong vote added to each half (Agresti and Caffo), since a few votes say
--     little: above 2 it is hardly chance, and the function should be read again beside its newest wrong votes. Where
--     most functions fall, people are rather asked about harder items than before.
WITH halves AS (
    SELECT item_id, class_ids, ntile(2) OVER (ORDER BY updated_at, item_id) AS half FROM gold_labels
), hits AS (
    SELECT v.lf_name, h.half, list_contains(h.class_ids, v.vote)::INT AS hit
    FROM lf_votes v JOIN halves h ON h.item_id = v.item_id WHERE v.vote >= 0
), scored AS (
    SELECT lf_name, count(*) FILTER (WHERE half = 1) AS older, count(*) FILTER (WHERE half = 2) AS newer,
           avg(hit) FILTER (WHERE half = 1) AS older_accuracy, avg(hit) FILTER (WHERE half = 2) AS newer_accuracy
    FROM hits GROUP BY lf_name
), moderated AS (
    SELECT *, (older * older_accuracy + 1) / (older + 2) AS p, (newer * newer_accuracy + 1) / (newer + 2) AS q
    FROM scored WHERE older > 0 AND newer > 0
)
SELECT lf_name, older, newer, older_accuracy, newer_accuracy,
       (p - q) / sqrt(p * (1 - p) / (older + 2) + q * (1 - q) / (newer + 2)) AS z
FROM moderated
ORDER BY z DESC, lf_name
