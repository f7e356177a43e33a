-- Version 1 of the journal. Never edit a released version: add a migration.
-- Times are UTC microseconds. `events` is the truth, `runs` an index over it.

CREATE TABLE runs (
    pk           INTEGER PRIMARY KEY,
    run_id       TEXT    NOT NULL UNIQUE,
    workflow     TEXT    NOT NULL,
    status       TEXT    NOT NULL CHECK (status IN (
                     'pending', 'running', 'blocked', 'completed', 'failed', 'cancelled',
                     'continued')),
    created_at   INTEGER NOT NULL,
    started_at   INTEGER,
    completed_at INTEGER,
    wake_at      INTEGER,
    deadline     INTEGER,
    expires_at   INTEGER,
    retention_us INTEGER,
    parent_id    TEXT,
    root_id      TEXT,
    deployment_id TEXT,
    attributes   TEXT,
    blocked      TEXT,
    behaviour    INTEGER NOT NULL,
    first_id     TEXT,  -- of a run that continues another one: the first of the chain
    bound_to     TEXT,  -- of a child that ends with its parent: the first of the parent's chain
    origin       TEXT,  -- of a run made from another one: a JSON object
    -- Checksums of what was said at its creation (and the deadline), of its state, of its
    -- attributes (NULL with them); see row_checksums.py.
    crc          INTEGER NOT NULL,
    state_sum    INTEGER NOT NULL,
    attributes_crc INTEGER
) STRICT;

CREATE INDEX runs_by_wake ON runs (wake_at, pk) WHERE wake_at IS NOT NULL;
CREATE INDEX runs_by_expiry ON runs (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX runs_blocked ON runs (pk) WHERE status = 'blocked';

-- What listings go by; rows with one status lie in the order of their creation.
CREATE INDEX runs_by_status ON runs (status, created_at);
CREATE INDEX runs_by_workflow ON runs (workflow, status, created_at);
CREATE INDEX runs_by_parent ON runs (parent_id, created_at) WHERE parent_id IS NOT NULL;
CREATE INDEX runs_by_root ON runs (root_id, created_at) WHERE root_id IS NOT NULL;

-- An index over runs.attributes. New runs are entered with them; then triggers keep it. (A
-- trigger on INSERT would make each new run dearer, though few have attributes.)
CREATE TABLE attributes (
    key        TEXT    NOT NULL,
    value      TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    run        INTEGER NOT NULL,
    PRIMARY KEY (key, value, created_at, run)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER attributes_changed AFTER UPDATE OF attributes ON runs
BEGIN
    DELETE FROM attributes WHERE (key, value, created_at, run) IN (
        SELECT key, value, OLD.created_at, OLD.pk FROM json_each(OLD.attributes));
    INSERT INTO attributes (key, value, created_at, run)
    SELECT key, value, NEW.created_at, NEW.pk FROM json_each(NEW.attributes);
END;

CREATE TRIGGER attributes_of_deleted_run AFTER DELETE ON runs WHEN OLD.attributes IS NOT NULL
BEGIN
    DELETE FROM attributes WHERE (key, value, created_at, run) IN (
        SELECT key, value, OLD.created_at, OLD.pk FROM json_each(OLD.attributes));
END;
CREATE INDEX runs_of_chain ON runs (first_id) WHERE first_id IS NOT NULL;
CREATE INDEX runs_bound ON runs (bound_to)
    WHERE bound_to IS NOT NULL AND completed_at IS NULL;

CREATE TABLE events (
    run     INTEGER NOT NULL,
    seq     INTEGER NOT NULL CHECK (seq > 0),
    kind    INTEGER NOT NULL,
    ref     INTEGER NOT NULL,
    name    TEXT    NOT NULL,
    at      INTEGER NOT NULL,
    due     INTEGER,
    payload BLOB,
    crc     INTEGER NOT NULL,
    PRIMARY KEY (run, seq)
) STRICT, WITHOUT ROWID;

-- Who holds which hook token, by its SHA-256; what else a hook is stands in its hook_created,
-- the event `seq`. 0: the token is kept for a run that has yet to create the hook.
CREATE TABLE hooks (
    token_hash BLOB PRIMARY KEY,
    run        INTEGER NOT NULL,
    seq        INTEGER NOT NULL,
    crc        INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX hooks_by_run ON hooks (run, seq);

-- What runs emit, in the order of `idx`, which is dense per stream; '' is the default stream.
-- `kind` is one of chunks.py. `step` is the seq of the step that wrote the row, or a negative
-- number for a writer outside of the run; then `attempt` counts that writer's chunks.
CREATE TABLE chunks (
    run     INTEGER NOT NULL,
    stream  TEXT    NOT NULL,
    idx     INTEGER NOT NULL CHECK (idx >= 0),
    kind    INTEGER NOT NULL,
    step    INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    payload BLOB,
    crc     INTEGER NOT NULL,
    PRIMARY KEY (run, stream, idx)
) STRICT, WITHOUT ROWID;

CREATE INDEX chunks_reset ON chunks (run, stream, idx, step) WHERE kind = 2;
CREATE INDEX chunks_from_outside ON chunks (run, stream, step, attempt) WHERE step < 0;

-- What was asked of runs while no process executed them. The next owner does it and deletes the
-- row. `seq` was the newest event of the run then: what it has begun since is not meant.
CREATE TABLE requests (
    run     INTEGER NOT NULL,
    kind    TEXT    NOT NULL CHECK (kind IN ('cancel', 'wake')),
    seq     INTEGER NOT NULL,
    payload BLOB,
    crc     INTEGER NOT NULL,
    PRIMARY KEY (run, kind)
) STRICT, WITHOUT ROWID;

-- Runs whose row is gone and whose events and chunks are being deleted, a few at a time.
CREATE TABLE trash (
    run INTEGER PRIMARY KEY
) STRICT;

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value ANY NOT NULL,
    crc   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
