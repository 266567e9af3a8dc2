-- Notices that wait to be delivered: one row for each receiver, so that each is settled on its own.

-- Who is told of what, as the configuration of the last start says it. While nobody is, no notice is kept.
CREATE TABLE receivers (
    name   TEXT PRIMARY KEY,
    -- The names of the events, a JSON list.
    events TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE notices (
    -- In the order in which they were put.
    number   INTEGER PRIMARY KEY,
    receiver TEXT NOT NULL REFERENCES receivers (name) ON DELETE CASCADE,
    id       TEXT NOT NULL,
    at       INTEGER NOT NULL,
    news     TEXT NOT NULL,
    attempts INTEGER NOT NULL CHECK (attempts >= 0),
    due_at   INTEGER NOT NULL,
    UNIQUE (receiver, id)
) STRICT;
CREATE INDEX notices_due ON notices (receiver, due_at, number);
