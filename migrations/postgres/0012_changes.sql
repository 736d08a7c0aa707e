-- The past and the future of a group (docs/changes.md): what objects were at any revision that is kept, and change sets that are
-- being prepared.

-- What objects were at the floor of the history that are others since, or gone: the history alone does not tell it any more. What is
-- as it was at the floor is in `resource`.
CREATE TABLE base (
    group_id TEXT COLLATE "C" NOT NULL REFERENCES gateway_group (id) ON DELETE CASCADE,
    kind     TEXT COLLATE "C" NOT NULL,
    id       TEXT COLLATE "C" NOT NULL,
    body     BYTEA   NOT NULL,
    sealed   BOOLEAN NOT NULL,
    created  BIGINT  NOT NULL,
    modified BIGINT  NOT NULL,
    PRIMARY KEY (group_id, kind, id)
);

-- The changes of one object.
CREATE INDEX change_object ON change (group_id, kind, id, revision);

-- Change sets that are being prepared. `version` grows with each edit; `author` began it, and `touched_at` (Unix time in seconds) is
-- when somebody edited it last.
CREATE TABLE draft (
    group_id   TEXT COLLATE "C" NOT NULL REFERENCES gateway_group (id) ON DELETE CASCADE,
    id         TEXT COLLATE "C" NOT NULL,
    name       TEXT   NOT NULL,
    message    TEXT   NOT NULL,
    author     TEXT   NOT NULL,
    version    BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    touched_at BIGINT NOT NULL,
    PRIMARY KEY (group_id, id)
);
CREATE INDEX draft_age ON draft (touched_at);

-- What a draft makes of each object, always sealed; a NULL body deletes it. `seen` is the revision of the form that it was edited from; NULL: there
-- was no such object.
CREATE TABLE draft_change (
    group_id TEXT COLLATE "C" NOT NULL,
    draft_id TEXT COLLATE "C" NOT NULL,
    kind     TEXT COLLATE "C" NOT NULL,
    id       TEXT COLLATE "C" NOT NULL,
    body     BYTEA,
    seen     BIGINT,
    PRIMARY KEY (group_id, draft_id, kind, id),
    FOREIGN KEY (group_id, draft_id) REFERENCES draft (group_id, id) ON DELETE CASCADE
);
