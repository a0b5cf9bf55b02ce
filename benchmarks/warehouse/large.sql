-- Makes a large warehouse of a small one, attached as base; see large.py. What stands above "each commit" runs once, the
-- rest with each commit, where $stamp, $batch, $first, $last and $count are filled in.

INSERT INTO classes BY NAME FROM base.classes;
INSERT INTO models BY NAME FROM base.models;
INSERT INTO metrics BY NAME FROM base.metrics;
INSERT INTO lf_reach BY NAME FROM base.lf_reach;
INSERT INTO quarantine BY NAME FROM base.quarantine;
INSERT INTO lf_faults BY NAME FROM base.lf_faults;
INSERT INTO runs BY NAME FROM base.runs;
CREATE TEMP TABLE known AS
    SELECT row_number() OVER (ORDER BY i.item_id) - 1 AS r, i.item_id AS base_id, i.content, i.source, i.split,
    p.end_model_id, p.probs, p.class_id, p.confidence, w.label_model_id, w.probs AS weak, w.votes
    FROM base.items i
    JOIN base.latest_predictions p ON p.item_id = i.item_id
    JOIN base.latest_weak_labels w ON w.item_id = i.item_id;
CREATE TEMP TABLE voted AS SELECT k.r, v.lf_name, v.lf_version, v.vote
    FROM base.lf_votes v JOIN known k ON k.base_id = v.item_id WHERE v.vote >= 0;
-- each commit
CREATE OR REPLACE TEMP TABLE part AS
    SELECT 'r' || lpad(k::VARCHAR, 9, '0') AS item_id, k,
    -- Equal texts stand in several splits, so that there is leakage to find.
    b.* REPLACE (if(hash(k) % 5000 = 0, if(hash(k, 3) % 2 = 0, 'train', 'test'), b.split) AS split)
    FROM range($first, $last) t(k) JOIN known b ON b.r = k % $count ORDER BY k;
INSERT INTO "items" BY NAME
    SELECT item_id, left(content, 120) || ' ' || k AS content,
    sha256(left(content, 120) || ' ' || if(hash(k) % 5000 = 0, 0, k)) AS content_hash, 'text' AS modality,
    source, k + 1 AS position, '{}' AS metadata, split, $stamp FROM part;
INSERT INTO "lf_inputs" BY NAME
    SELECT item_id, 'text' AS input, left(md5(item_id), 16) AS input_hash, $batch AS batch, $stamp
    FROM part;
INSERT INTO "lf_votes" BY NAME
    SELECT item_id, lf_name, lf_version, left(md5(item_id), 16) AS input_hash, vote, $stamp
    FROM part JOIN voted USING (r) ORDER BY item_id, lf_name;
INSERT INTO "weak_labels" BY NAME
    SELECT item_id, label_model_id, weak AS probs, votes, $stamp FROM part;
INSERT INTO "predictions" BY NAME
    SELECT item_id, end_model_id, probs, class_id, confidence, $stamp FROM part;
INSERT INTO "values" BY NAME
    SELECT item_id, $batch AS cycle, hash(k, 0) % 10000 / 10000.0 AS value, hash(k, 1) % 10000 / 10000.0 AS representativeness, hash(k, 2) % 10000 / 10000.0 AS uncertainty, hash(k, 3) % 10000 / 10000.0 AS disagreement, hash(k, 4) % 10000 / 10000.0 AS redundancy, 'reason ' || hash(k) % 20 AS reason, $stamp
    FROM part WHERE split = 'train';
INSERT INTO "queue" BY NAME
    SELECT item_id, 'big' AS project, 'answered' AS state, $batch AS cycle,
    row_number() OVER (ORDER BY k) AS rank, hash(k, 0) % 10000 / 10000.0 AS value, 'reason' AS reason,
    class_id AS prediction, confidence, sha256(left(content, 120) || ' ' || if(hash(k) % 5000 = 0, 0, k))
    AS content_hash, 't' || k AS task_id, $stamp FROM part WHERE split = 'train' AND hash(k) % 100 = 0;
INSERT INTO "annotations" BY NAME
    SELECT 'a' || k || '-' || turn AS annotation_id, item_id, 'big' AS project, 't' || k AS task_id,
    'annotator ' || (hash(k, 7) + turn) % 6 AS annotator,
    if(hash(k, turn + 10) % 1000 / 1000.0 < 0.03, 'skipped', 'labelled') AS action,
    if(hash(k, turn + 10) % 1000 / 1000.0 < 0.03, -1, if(hash(k, turn + 20) % 1000 / 1000.0 < 0.1,
    (class_id + 1) % (SELECT count(*) FROM classes), class_id)) AS class_id, true AS simulated,
    TIMESTAMPTZ '2026-01-01 06:00:00+00' + INTERVAL (k % 2000000) SECOND AS created_at, created_at AS updated_at,
    4.0 + hash(k, turn) % 300 / 10 AS seconds, $stamp
    FROM (SELECT * FROM part WHERE split = 'train' AND hash(k) % 100 = 0), range(0, 2) s(turn) WHERE turn = 0 OR hash(k, 5) % 5 = 0;
