-- What `verify`, `doctor` and `repair` read: whole tables, in the order in which they lie.

-- name: runs
SELECT pk, run_id, workflow, status, created_at, started_at, completed_at, wake_at, deadline,
    expires_at, retention_us, parent_id, root_id, deployment_id, attributes, blocked, behaviour,
    first_id, bound_to, origin, crc, state_sum, attributes_crc
FROM runs WHERE pk > ? ORDER BY pk;

-- name: run
SELECT pk, run_id, workflow, status, created_at, started_at, completed_at, wake_at, deadline,
    expires_at, retention_us, parent_id, root_id, deployment_id, attributes, blocked, behaviour,
    first_id, bound_to, origin, crc, state_sum, attributes_crc
FROM runs WHERE pk = ?;

-- name: run_ids
SELECT pk, run_id FROM runs ORDER BY run_id;

-- name: events
SELECT run, seq, kind, ref, name, at, due, payload, crc FROM events
WHERE (run, seq) > (?, ?) ORDER BY run, seq;

-- name: event
SELECT run, seq, kind, ref, name, at, due, payload, crc FROM events WHERE run = ? AND seq = ?;

-- name: chunks
SELECT run, stream, idx, kind, step, attempt, payload, crc FROM chunks
WHERE (run, stream, idx) > (?, ?, ?) ORDER BY run, stream, idx;

-- name: hooks
SELECT token_hash, run, seq, crc FROM hooks ORDER BY token_hash;

-- name: requests
SELECT run, kind, seq, payload, crc FROM requests ORDER BY run, kind;

-- name: trash
SELECT run FROM trash ORDER BY run;

-- name: meta
SELECT key, value, crc FROM meta ORDER BY key;

-- name: not_indexed
SELECT runs.pk, runs.run_id, each.key
FROM runs JOIN json_each(iif(json_valid(runs.attributes), runs.attributes, '{}')) AS each
WHERE NOT EXISTS (
    SELECT 1 FROM attributes
    WHERE key = each.key AND value = each.value AND created_at = runs.created_at
        AND run = runs.pk)
LIMIT 100;

-- name: indexed_wrongly
SELECT attributes.run, runs.run_id, attributes.key
FROM attributes LEFT JOIN runs ON runs.pk = attributes.run
WHERE runs.pk IS NULL OR runs.created_at <> attributes.created_at OR NOT EXISTS (
    SELECT 1 FROM json_each(iif(json_valid(runs.attributes), runs.attributes, '{}')) AS each
    WHERE each.key = attributes.key AND each.value = attributes.value)
LIMIT 100;
