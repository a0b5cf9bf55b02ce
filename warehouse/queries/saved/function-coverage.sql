-- Question: How much of the stream does each labeling function reach, and for which classes?
-- How to read: votes: items it did not abstain on; coverage: their share of the items it was applied to. Items of all
--     splits count; siftline lf report and lf_summary count those of train. A function of low coverage and high accuracy
--     is worth keeping; low in both is worth deleting.
SELECT r.lf_name, r.items AS applied_to, coalesce(v.votes, 0) AS votes,
       coalesce(v.votes, 0) / nullif(r.items, 0) AS coverage, v.classes
FROM lf_reach r
LEFT JOIN (
    SELECT x.lf_name, sum(x.n)::BIGINT AS votes, list(c.name ORDER BY x.n DESC) AS classes
    FROM (SELECT lf_name, vote, count(*) AS n FROM lf_votes WHERE vote >= 0 GROUP BY lf_name, vote) x
    LEFT JOIN classes c ON c.class_id = x.vote GROUP BY x.lf_name
) v ON v.lf_name = r.lf_name
ORDER BY coverage DESC NULLS LAST, r.lf_name
