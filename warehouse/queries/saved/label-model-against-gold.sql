-- Question: How good are the labels from votes alone, class by class?
-- How to read: recall: of people's labels of a class, the share that the label model gives it too; precision: the
--     other way round. no_votes: items where no function voted, so that the label is only the prior. Where these items
--     were selected, they are mostly hard ones, and on all items both are mostly higher, of some classes much: read a few
--     texts of a class with low recall before you write a function of its own for it.
WITH scored AS (
    SELECT g.class_ids AS truth, w.votes,
           CASE WHEN g.class_id >= 0 THEN [list_position(w.probs, list_max(w.probs)) - 1]
                ELSE list_filter(range(len(w.probs)), lambda c: w.probs[c + 1] >= 0.5)::INTEGER[] END AS said
    FROM latest_weak_labels w JOIN gold_labels g ON g.item_id = w.item_id
)
SELECT c.name AS label, count(*) FILTER (WHERE list_contains(truth, c.class_id)) AS gold,
       count(*) FILTER (WHERE list_contains(truth, c.class_id) AND list_contains(said, c.class_id))
           / nullif(count(*) FILTER (WHERE list_contains(truth, c.class_id)), 0) AS recall,
       count(*) FILTER (WHERE list_contains(truth, c.class_id) AND list_contains(said, c.class_id))
           / nullif(count(*) FILTER (WHERE list_contains(said, c.class_id)), 0) AS precision,
       count(*) FILTER (WHERE list_contains(truth, c.class_id) AND votes = 0) AS no_votes
FROM classes c LEFT JOIN scored s ON true GROUP BY c.name, c.class_id ORDER BY recall NULLS LAST, label
