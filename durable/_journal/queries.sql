-- Every statement that the journal runs on its tables. Parameters only, never pasted values.
-- Columns of `runs` are always written and read in the order of records.RunRow, then the three
-- checksums of the row (row_checksums.py).

-- name: insert_run
INSERT INTO runs (pk, run_id, workflow, status, created_at, started_at, completed_at, wake_at,
    deadline, expires_at, retention_us, parent_id, root_id, deployment_id, attributes, blocked,
    behaviour, first_id, bound_to, origin, crc, state_sum, attributes_crc)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING;

-- name: index_attributes
INSERT INTO attributes (key, value, created_at, run)
SELECT each.key, each.value, runs.created_at, runs.pk
FROM runs JOIN json_each(runs.attributes) AS each WHERE runs.pk = ?
ON CONFLICT DO NOTHING;

-- name: insert_plain_run
-- The same for runs of which nothing else is to be said: Python's sqlite3 binds nulls slowly.
INSERT INTO runs (pk, run_id, workflow, status, created_at, wake_at, behaviour, crc, state_sum)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING;

-- name: insert_event
-- A due time of -2^62, ages ago, stands for none: Python's sqlite3 binds a null more slowly.
INSERT INTO events (run, seq, kind, ref, name, at, due, payload, crc)
VALUES (?, ?, ?, ?, ?, ?, nullif(?, -4611686018427387904), ?, ?);

-- name: insert_event_again
INSERT INTO events (run, seq, kind, ref, name, at, due, payload, crc)
VALUES (?, ?, ?, ?, ?, ?, nullif(?, -4611686018427387904), ?, ?)
ON CONFLICT (run, seq) DO NOTHING;

-- name: update_state
UPDATE runs SET status = ?, started_at = ?, completed_at = ?, wake_at = ?, expires_at = ?,
    blocked = ?, state_sum = ?
WHERE pk = ?;

-- name: set_run_attributes
UPDATE runs SET attributes = ?, attributes_crc = ? WHERE pk = ?;

-- name: set_deadline
-- The deadline is added to the checksum, so that it can be exchanged without the other columns.
UPDATE runs SET deadline = ?, crc = crc - ifnull(deadline, -1) + ? WHERE pk = ?;

-- name: event_crc
SELECT crc FROM events WHERE run = ? AND seq = ?;

-- name: state_of
SELECT status, started_at, completed_at, wake_at, expires_at, blocked, pk FROM runs WHERE pk = ?;

-- name: set_meta
INSERT INTO meta (key, value, crc) VALUES (?, ?, ?)
ON CONFLICT (key) DO UPDATE SET value = excluded.value, crc = excluded.crc;

-- name: set_meta_once
INSERT INTO meta (key, value, crc) VALUES (?, ?, ?) ON CONFLICT (key) DO NOTHING;

-- name: delete_meta
DELETE FROM meta WHERE key = ?;

-- name: all_meta
SELECT key, value, crc FROM meta;

-- name: max_pk
SELECT max(coalesce((SELECT max(pk) FROM runs), 0), coalesce((SELECT max(run) FROM trash), 0));

-- name: max_event_pk
SELECT coalesce(max(run), 0) FROM events;

-- name: run_by_id
SELECT pk, run_id, workflow, status, created_at, started_at, completed_at, wake_at, deadline,
    expires_at, retention_us, parent_id, root_id, deployment_id, attributes, blocked, behaviour,
    first_id, bound_to, origin, crc, state_sum, attributes_crc
FROM runs WHERE run_id = ?;

-- name: run_by_pk
SELECT pk, run_id, workflow, status, created_at, started_at, completed_at, wake_at, deadline,
    expires_at, retention_us, parent_id, root_id, deployment_id, attributes, blocked, behaviour,
    first_id, bound_to, origin, crc, state_sum, attributes_crc
FROM runs WHERE pk = ?;

-- name: due_runs
SELECT pk, run_id, workflow, status, created_at, started_at, completed_at, wake_at, deadline,
    expires_at, retention_us, parent_id, root_id, deployment_id, attributes, blocked, behaviour,
    first_id, bound_to, origin, crc, state_sum, attributes_crc
FROM runs
WHERE wake_at IS NOT NULL AND wake_at > 0 AND (wake_at, pk) > (?, ?) AND wake_at <= ?
ORDER BY wake_at, pk LIMIT ?;

-- name: interrupted_runs
SELECT pk, run_id, workflow, status, created_at, started_at, completed_at, wake_at, deadline,
    expires_at, retention_us, parent_id, root_id, deployment_id, attributes, blocked, behaviour,
    first_id, bound_to, origin, crc, state_sum, attributes_crc
FROM runs WHERE wake_at = 0 AND pk > ? ORDER BY pk LIMIT ?;

-- name: blocked_runs
SELECT pk, run_id, workflow, status, created_at, started_at, completed_at, wake_at, deadline,
    expires_at, retention_us, parent_id, root_id, deployment_id, attributes, blocked, behaviour,
    first_id, bound_to, origin, crc, state_sum, attributes_crc
FROM runs INDEXED BY runs_blocked WHERE status = 'blocked' AND pk > ? ORDER BY pk LIMIT ?;

-- name: children
SELECT pk, run_id, workflow, status, created_at, started_at, completed_at, wake_at, deadline,
    expires_at, retention_us, parent_id, root_id, deployment_id, attributes, blocked, behaviour,
    first_id, bound_to, origin, crc, state_sum, attributes_crc
FROM runs WHERE parent_id = ? ORDER BY pk;

-- name: not_going_on
SELECT wanted.value FROM json_each(?) AS wanted LEFT JOIN runs ON runs.run_id = wanted.value
WHERE runs.run_id IS NULL OR runs.completed_at IS NOT NULL OR runs.status = 'blocked';

-- name: open_bound_runs
SELECT run_id FROM runs WHERE bound_to = ? AND completed_at IS NULL ORDER BY pk;

-- name: orphans
SELECT DISTINCT bound_to FROM runs AS child
WHERE bound_to IS NOT NULL AND completed_at IS NULL
    AND NOT EXISTS (
        SELECT 1 FROM runs WHERE run_id = child.bound_to AND completed_at IS NULL)
    AND NOT EXISTS (
        SELECT 1 FROM runs WHERE first_id = child.bound_to AND completed_at IS NULL);

-- name: next_wake
SELECT min(wake_at) FROM runs WHERE wake_at IS NOT NULL AND wake_at > ?;

-- name: next_expiry
SELECT min(expires_at) FROM runs WHERE expires_at IS NOT NULL;

-- name: counts
SELECT status, count(*) FROM runs GROUP BY status;

-- name: history
SELECT seq, kind, ref, name, at, due, payload, crc FROM events
WHERE run = ? AND seq > ? ORDER BY seq LIMIT ?;

-- name: next_in_file
SELECT run, seq, EXISTS (SELECT 1 FROM trash WHERE trash.run = events.run) FROM events
WHERE (run, seq) > (?, ?) ORDER BY run, seq LIMIT 1;

-- name: last_event
SELECT seq, kind, ref, name, at, due, payload, crc FROM events
WHERE run = ? ORDER BY seq DESC LIMIT 1;

-- name: insert_chunk
INSERT INTO chunks (run, stream, idx, kind, step, attempt, payload, crc)
SELECT * FROM (SELECT ? AS given, ?, ?, ?, ?, ?, ?, ?)
WHERE EXISTS (SELECT 1 FROM runs WHERE pk = given)
ON CONFLICT (run, stream, idx) DO NOTHING;

-- name: chunks_from
SELECT idx, kind, step, attempt, payload, crc FROM chunks
WHERE run = ? AND stream = ? AND idx >= ? ORDER BY idx LIMIT ?;

-- name: last_chunk
SELECT idx, kind, step, attempt, payload, crc FROM chunks
WHERE run = ? AND stream = ? ORDER BY idx DESC LIMIT 1;

-- name: resets_after
SELECT step, idx FROM chunks INDEXED BY chunks_reset
WHERE run = ? AND stream = ? AND kind = 2 AND idx > ? ORDER BY idx;

-- name: first_of_step
SELECT idx FROM chunks
WHERE run = ? AND stream = ? AND step = ? AND kind = 1 ORDER BY idx LIMIT 1;

-- name: count_of_step
SELECT count(*) FROM chunks WHERE run = ? AND stream = ? AND step = ? AND kind = 1;

-- name: count_from_outside
SELECT coalesce(max(attempt), 0) FROM chunks INDEXED BY chunks_from_outside
WHERE run = ? AND stream = ? AND step < 0 AND step = ?;

-- name: next_stream
SELECT min(stream) FROM chunks WHERE run = ? AND stream > ?;

-- name: has_stream
SELECT EXISTS (SELECT 1 FROM chunks WHERE run = ? AND stream = ?);

-- name: delete_some_chunks
DELETE FROM chunks
WHERE run = :run AND stream = (SELECT min(stream) FROM chunks WHERE run = :run)
    AND idx < :count + (
        SELECT min(idx) FROM chunks
        WHERE run = :run AND stream = (SELECT min(stream) FROM chunks WHERE run = :run));

-- name: has_chunks
SELECT EXISTS (SELECT 1 FROM chunks WHERE run = :run);
-- name: last_seq
SELECT max(seq) FROM events WHERE run = ?;

-- name: expired_runs
SELECT pk, run_id, workflow, status, created_at, started_at, completed_at, wake_at, deadline,
    expires_at, retention_us, parent_id, root_id, deployment_id, attributes, blocked, behaviour,
    first_id, bound_to, origin, crc, state_sum, attributes_crc
FROM runs INDEXED BY runs_by_expiry
WHERE expires_at IS NOT NULL AND expires_at <= ?
    AND status IN ('completed', 'failed', 'cancelled', 'continued')
ORDER BY expires_at LIMIT ?;

-- name: keep_run
-- Its checksum stays as it is: nobody is to believe that the row is sound again.
UPDATE runs SET expires_at = NULL WHERE pk = ?;

-- name: doom
INSERT INTO trash (run) VALUES (?);

-- name: delete_doomed_runs
DELETE FROM runs WHERE pk IN (SELECT run FROM trash);

-- name: doomed
SELECT run FROM trash ORDER BY run LIMIT 1;

-- name: delete_some_events
DELETE FROM events
WHERE run = :run AND seq < (SELECT min(seq) FROM events WHERE run = :run) + :count;

-- name: has_events
SELECT EXISTS (SELECT 1 FROM events WHERE run = :run);

-- name: delete_requests
DELETE FROM requests WHERE run = :run;

-- name: has_requests
SELECT EXISTS (SELECT 1 FROM requests WHERE run = :run);

-- name: delete_hooks
DELETE FROM hooks WHERE run = :run;

-- name: has_hooks
SELECT EXISTS (SELECT 1 FROM hooks WHERE run = :run);

-- name: is_run
SELECT EXISTS (SELECT 1 FROM runs WHERE pk = ?);

-- name: undoom
DELETE FROM trash WHERE run = ?;

-- name: claim_hook
INSERT INTO hooks (token_hash, run, seq, crc) VALUES (?, ?, ?, ?)
ON CONFLICT (token_hash) DO UPDATE SET seq = excluded.seq, crc = excluded.crc
WHERE hooks.run = excluded.run AND hooks.seq = 0;

-- name: keep_hook
UPDATE hooks SET run = ?, seq = 0, crc = ? WHERE token_hash = ? AND run = ?;

-- name: mark_unclaimed
-- The due time is added to the checksum of the state, so that it can be exchanged alone.
UPDATE runs SET wake_at = 0, state_sum = state_sum - ifnull(wake_at, -1)
WHERE pk = ? AND status IN ('pending', 'running') AND NOT EXISTS (
    SELECT 1 FROM hooks WHERE token_hash = ? AND run = ? AND seq = ?);

-- name: release_hook
DELETE FROM hooks WHERE token_hash = ? AND run = ? AND seq = ?;

-- name: release_hooks
DELETE FROM hooks WHERE run = ?;

-- name: hook_by_token
SELECT hooks.run, runs.run_id, hooks.seq, hooks.crc
FROM hooks JOIN runs ON runs.pk = hooks.run WHERE token_hash = ?;

-- name: hooks_of_run
SELECT token_hash, seq, crc FROM hooks WHERE run = ? AND seq > 0 ORDER BY seq;

-- name: received_under
-- Looks at all events: it is asked after a crash, for many names at once.
SELECT runs.run_id, events.name FROM events JOIN runs ON runs.pk = events.run
WHERE events.kind = ? AND events.name IN (SELECT value FROM json_each(?));

-- name: answers_of
SELECT count(*) FROM events WHERE run = ? AND kind = ? AND ref = ?;

-- name: reseal_event
UPDATE events SET payload = ?, crc = ? WHERE run = ? AND seq = ?;

-- name: reseal_chunk
UPDATE chunks SET payload = ?, crc = ? WHERE run = ? AND stream = ? AND idx = ?;

-- name: forget_reason
UPDATE requests SET payload = NULL, crc = ? WHERE run = ? AND kind = ?;

-- name: add_request
INSERT INTO requests (run, kind, seq, payload, crc) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (run, kind) DO UPDATE SET seq = excluded.seq,
    crc = requests.crc - requests.seq + excluded.seq;

-- name: drop_request
DELETE FROM requests WHERE run = ? AND kind = ?;

-- name: requests
SELECT run, kind, seq, payload, crc FROM requests ORDER BY run, kind;
-- name: schema_objects
SELECT type, name, tbl_name, sql FROM sqlite_schema;

-- name: count_runs
SELECT count(*) FROM runs;

-- name: run_without_events
SELECT run_id FROM runs WHERE NOT EXISTS (SELECT 1 FROM events WHERE run = runs.pk) LIMIT 1;

-- name: all_events
SELECT events.run, runs.run_id, trash.run IS NOT NULL, events.seq, events.kind, events.ref,
    events.name, events.at, events.due, events.payload, events.crc
FROM events LEFT JOIN runs ON runs.pk = events.run LEFT JOIN trash ON trash.run = events.run
WHERE (events.run, events.seq) > (?, ?) ORDER BY events.run, events.seq LIMIT ?;

-- name: all_chunks
SELECT chunks.run, chunks.stream, runs.run_id, trash.run IS NOT NULL, chunks.idx, chunks.kind,
    chunks.step, chunks.attempt, chunks.payload, chunks.crc
FROM chunks LEFT JOIN runs ON runs.pk = chunks.run LEFT JOIN trash ON trash.run = chunks.run
WHERE (chunks.run, chunks.stream, chunks.idx) > (?, ?, ?)
ORDER BY chunks.run, chunks.stream, chunks.idx LIMIT ?;

-- name: restore_event
INSERT INTO events (run, seq, kind, ref, name, at, due, payload, crc)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: restore_chunk
INSERT INTO chunks (run, stream, idx, kind, step, attempt, payload, crc)
VALUES (?, ?, ?, ?, ?, ?, ?, ?);
