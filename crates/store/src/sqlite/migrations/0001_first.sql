-- Files, uploads, batches, chunks and workers. Moments are milliseconds since 1970, lengths are bytes.
-- What a query looks at is a column; small values that are only ever read whole are JSON, and what a query needs
-- of them is a generated column, so that nothing is stored twice by hand.

CREATE TABLE files (
    id         TEXT PRIMARY KEY,
    tenant     TEXT NOT NULL,
    filename   TEXT NOT NULL,
    purpose    TEXT NOT NULL,
    len        INTEGER NOT NULL CHECK (len >= 0),
    lines      INTEGER NOT NULL CHECK (lines >= 0),
    sha256     TEXT NOT NULL CHECK (length(sha256) = 64),
    blob       TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    large      INTEGER NOT NULL CHECK (large IN (0, 1)),
    -- Hidden from its tenant since then; the bytes may still be there.
    deleted_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX files_by_tenant ON files (tenant, id);
CREATE INDEX files_by_blob ON files (blob);
CREATE INDEX files_deleted ON files (deleted_at) WHERE deleted_at IS NOT NULL;
CREATE INDEX files_expiring ON files (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE uploads (
    id               TEXT PRIMARY KEY,
    tenant           TEXT NOT NULL,
    filename         TEXT NOT NULL,
    mime_type        TEXT NOT NULL,
    purpose          TEXT NOT NULL,
    len              INTEGER NOT NULL CHECK (len >= 0),
    status           TEXT NOT NULL CHECK (status IN ('pending', 'completed', 'cancelled', 'expired')),
    created_at       INTEGER NOT NULL,
    expires_at       INTEGER NOT NULL,
    file_ttl_seconds INTEGER,
    large            INTEGER NOT NULL CHECK (large IN (0, 1)),
    file             TEXT,
    completed_parts  TEXT NOT NULL,
    CHECK ((status = 'completed') = (file IS NOT NULL))
) STRICT, WITHOUT ROWID;
CREATE INDEX uploads_pending ON uploads (expires_at) WHERE status = 'pending';

CREATE TABLE parts (
    id         TEXT PRIMARY KEY,
    upload     TEXT NOT NULL REFERENCES uploads (id),
    len        INTEGER NOT NULL CHECK (len >= 0),
    blob       TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX parts_by_upload ON parts (upload, id);
CREATE INDEX parts_by_blob ON parts (blob);

CREATE TABLE batches (
    id                TEXT PRIMARY KEY,
    tenant            TEXT NOT NULL,
    state             TEXT NOT NULL CHECK (state IN ('validating', 'in_progress', 'finalizing', 'expiring',
                          'cancelling', 'completed', 'failed', 'expired', 'cancelled')),
    route             TEXT NOT NULL,
    -- No foreign key: a terminal batch outlives its input file.
    input_file        TEXT NOT NULL,
    input_blob        TEXT NOT NULL,
    input_len         INTEGER NOT NULL CHECK (input_len >= 0),
    completion_window TEXT NOT NULL,
    metadata          TEXT,
    options           TEXT NOT NULL,
    parent            TEXT,
    model             TEXT,
    moments           TEXT NOT NULL,
    pause             TEXT,
    errors            TEXT NOT NULL,
    plan_blob         TEXT,
    total             INTEGER NOT NULL CHECK (total >= 0),
    -- What the creator of a batch that is still validating announced.
    expected_requests INTEGER NOT NULL CHECK (expected_requests >= 0),
    reserved_len      INTEGER NOT NULL CHECK (reserved_len >= 0),
    -- The sum over the chunks that are done, kept by the transaction that completes each of them.
    completed         INTEGER NOT NULL CHECK (completed >= 0),
    failed            INTEGER NOT NULL CHECK (failed >= 0),
    usage             TEXT NOT NULL,
    output_file       TEXT,
    error_file        TEXT,
    priority          INTEGER NOT NULL GENERATED ALWAYS AS (options ->> 'priority') STORED,
    large             INTEGER NOT NULL GENERATED ALWAYS AS (options ->> 'large') STORED,
    hard_expiry       INTEGER NOT NULL GENERATED ALWAYS AS (options ->> 'hard_expiry') STORED,
    created_at        INTEGER NOT NULL GENERATED ALWAYS AS (moments ->> 'created_at') STORED,
    expires_at        INTEGER NOT NULL GENERATED ALWAYS AS (moments ->> 'expires_at') STORED,
    CHECK (state NOT IN ('in_progress', 'finalizing', 'expiring', 'completed', 'expired')
        OR (plan_blob IS NOT NULL AND total > 0)),
    CHECK (state IN ('completed', 'expired', 'cancelled') OR (output_file IS NULL AND error_file IS NULL))
) STRICT;
CREATE INDEX batches_by_tenant ON batches (tenant, id);
CREATE INDEX batches_in_order ON batches (state, priority DESC, created_at, id);
CREATE INDEX batches_by_parent ON batches (parent, id) WHERE parent IS NOT NULL;
CREATE INDEX batches_by_input_file ON batches (input_file);
CREATE INDEX batches_by_input_blob ON batches (input_blob);
CREATE INDEX batches_by_plan_blob ON batches (plan_blob) WHERE plan_blob IS NOT NULL;

CREATE TABLE creation_keys (
    tenant     TEXT NOT NULL,
    key        TEXT NOT NULL,
    batch      TEXT NOT NULL REFERENCES batches (id) ON DELETE CASCADE,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX creation_keys_by_batch ON creation_keys (batch);

CREATE TABLE chunks (
    batch               TEXT NOT NULL REFERENCES batches (id) ON DELETE CASCADE,
    number              INTEGER NOT NULL CHECK (number >= 0),
    state               TEXT NOT NULL CHECK (state IN ('ready', 'leased', 'parked', 'done', 'dropped')),
    first_entry         INTEGER NOT NULL CHECK (first_entry >= 0),
    entry_count         INTEGER NOT NULL CHECK (entry_count > 0),
    len                 INTEGER NOT NULL CHECK (len >= 0),
    log_segment         INTEGER,
    log_offset          INTEGER,
    log_sequence        INTEGER,
    fruitless_takeovers INTEGER NOT NULL CHECK (fruitless_takeovers >= 0),
    completed           INTEGER NOT NULL CHECK (completed >= 0),
    failed              INTEGER NOT NULL CHECK (failed >= 0),
    usage               TEXT NOT NULL,
    -- The 64 bits of the token, read as a signed number.
    lease_token         INTEGER,
    lease_worker        TEXT,
    lease_expires_at    INTEGER,
    PRIMARY KEY (batch, number),
    CHECK ((log_segment IS NULL) = (log_offset IS NULL) AND (log_segment IS NULL) = (log_sequence IS NULL)),
    CHECK ((state = 'leased') = (lease_token IS NOT NULL)
        AND (state = 'leased') = (lease_worker IS NOT NULL)
        AND (state = 'leased') = (lease_expires_at IS NOT NULL)),
    CHECK (state = 'done' OR (completed = 0 AND failed = 0))
) STRICT, WITHOUT ROWID;
-- `parked` sorts before `ready`, which is the order in which chunks are claimed.
CREATE INDEX chunks_waiting ON chunks (batch, state, number) WHERE state IN ('parked', 'ready');
CREATE INDEX chunks_leased ON chunks (batch, number) WHERE state = 'leased';
CREATE INDEX chunks_open ON chunks (batch, number) WHERE log_segment IS NOT NULL AND state <> 'done';

CREATE TABLE workers (
    id         TEXT PRIMARY KEY,
    host       TEXT NOT NULL,
    process    INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    seen_at    INTEGER NOT NULL,
    activity   TEXT NOT NULL,
    batch      TEXT
) STRICT, WITHOUT ROWID;
