-- The past and the future of a group (docs/changes.md): what objects were at any revision that is kept, and change sets that are
-- being prepared.

-- What objects were at the floor of the history that are others since, or gone: the history alone does not tell it any more. What is
-- as it was at the floor is in `resource`.
CREATE TABLE base (
    group_id TEXT NOT NULL REFERENCES gateway_group (id) ON DELETE CASCADE,
    kind     TEXT NOT NULL,
    id       TEXT NOT NULL,
    body     BLOB    NOT NULL,
    sealed   INTEGER NOT NULL,
    created  INTEGER NOT NULL,
    modified INTEGER NOT NULL,
    PRIMARY KEY (group_id, kind, id)
) STRICT;

-- The changes of one object.
CREATE INDEX change_object ON change (group_id, kind, id, revision);

-- Change sets that are being prepared. `version` grows with each edit; `author` began it, and `touched_at` (Unix time in seconds) is
-- when somebody edited it last.
CREATE TABLE draft (
    group_id   TEXT NOT NULL REFERENCES gateway_group (id) ON DELETE CASCADE,
    id         TEXT NOT NULL,
    name       TEXT    NOT NULL,
    message    TEXT    NOT NULL,
    author     TEXT    NOT NULL,
    version    INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    touched_at INTEGER NOT NULL,
    PRIMARY KEY (group_id, id)
) STRICT;
CREATE INDEX draft_age ON draft (touched_at);

-- What a draft makes of each object, always sealed; a NULL body deletes it. `seen` is the revision of the form that it was edited from; NULL: there
-- was no such object.
CREATE TABLE draft_change (
    group_id TEXT NOT NULL,
    draft_id TEXT NOT NULL,
    kind     TEXT NOT NULL,
    id       TEXT NOT NULL,
    body     BLOB,
    seen     INTEGER,
    PRIMARY KEY (group_id, draft_id, kind, id),
    FOREIGN KEY (group_id, draft_id) REFERENCES draft (group_id, id) ON DELETE CASCADE
) STRICT;

-- As in the first migration: what the planner must know before the tables fill.
INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES
    ('base', 'sqlite_autoindex_base_1', '1000000 1000000 100000 1'),
    ('change', 'change_object', '1000000 1000000 100000 10 1'),
    ('draft_change', 'sqlite_autoindex_draft_change_1', '1000000 1000000 10000 1000 1');
ANALYZE sqlite_schema;
