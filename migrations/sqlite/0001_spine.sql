-- The base of everything: groups, their objects, history, keys and nodes (crate `store`).
-- The same tables as of PostgreSQL, in SQLite's types: booleans are 0 and 1, text compares in byte order by itself.

-- Data-encryption keys, each wrapped by the sealing key whose fingerprint `master` names. The greatest id seals.
CREATE TABLE data_key (
    id         INTEGER PRIMARY KEY,
    wrapped    BLOB  NOT NULL,
    master     TEXT   NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

-- Named blobs, sealed by a data key: the certificate authority, the key of lookup digests.
CREATE TABLE secret (
    name       TEXT PRIMARY KEY,
    value      BLOB  NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

-- `head` is the newest revision, `floor` the oldest from which a delta can be made; `epoch` grows with every change to the
-- group besides its objects (settings, revoked tokens and nodes); `lineage` names the history that the revisions count.
CREATE TABLE gateway_group (
    id         TEXT PRIMARY KEY,
    name       TEXT   NOT NULL,
    labels     TEXT   NOT NULL,
    settings   TEXT   NOT NULL,
    lineage    TEXT   NOT NULL,
    head       INTEGER NOT NULL,
    floor      INTEGER NOT NULL,
    epoch      INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    CHECK (0 <= floor AND floor <= head)
) STRICT;

-- The objects as they stand. `body` is sealed where `sealed` says so; `created` and `modified` are revisions.
CREATE TABLE resource (
    group_id   TEXT NOT NULL REFERENCES gateway_group (id) ON DELETE CASCADE,
    kind       TEXT NOT NULL,
    id         TEXT NOT NULL,
    body       BLOB   NOT NULL,
    sealed     INTEGER NOT NULL,
    created    INTEGER  NOT NULL,
    modified   INTEGER  NOT NULL,
    expires_at INTEGER,
    PRIMARY KEY (group_id, kind, id)
) STRICT;
CREATE INDEX resource_expiry ON resource (expires_at) WHERE expires_at IS NOT NULL;

-- Which object names which. No key on the target: references may dangle (forced deletion, expiry).
CREATE TABLE reference (
    group_id  TEXT NOT NULL,
    from_kind TEXT NOT NULL,
    from_id   TEXT NOT NULL,
    plugin    TEXT NOT NULL,
    to_kind   TEXT NOT NULL,
    to_id     TEXT NOT NULL,
    hinders   INTEGER NOT NULL,
    PRIMARY KEY (group_id, from_kind, from_id, plugin, to_kind, to_id),
    FOREIGN KEY (group_id, from_kind, from_id) REFERENCES resource (group_id, kind, id) ON DELETE CASCADE
) STRICT;
CREATE INDEX reference_target ON reference (group_id, to_kind, to_id);

-- Keyed hashes of lookup keys (an API key, a user name). One digest belongs to one owner: a consumer and its credentials
-- are one owner and may repeat it, which no unique index can say; writers of a group check it while they hold its row.
CREATE TABLE key_digest (
    group_id TEXT NOT NULL,
    plugin   TEXT NOT NULL,
    digest   BLOB NOT NULL,
    kind     TEXT NOT NULL,
    id       TEXT NOT NULL,
    owner    TEXT NOT NULL,
    PRIMARY KEY (group_id, plugin, digest, kind, id),
    FOREIGN KEY (group_id, kind, id) REFERENCES resource (group_id, kind, id) ON DELETE CASCADE
) STRICT;
CREATE INDEX key_digest_holder ON key_digest (group_id, kind, id);

-- One atomic publish each; append-only above the floor.
CREATE TABLE change_set (
    group_id TEXT NOT NULL REFERENCES gateway_group (id) ON DELETE CASCADE,
    revision INTEGER NOT NULL,
    author   TEXT   NOT NULL,
    message  TEXT   NOT NULL,
    source   TEXT   NOT NULL,
    at       INTEGER NOT NULL,
    puts     INTEGER NOT NULL,
    deletes  INTEGER NOT NULL,
    PRIMARY KEY (group_id, revision)
) STRICT;

-- What each change set did to each object; a NULL body is a deletion. `created` as in `resource`.
CREATE TABLE change (
    group_id TEXT NOT NULL,
    revision INTEGER NOT NULL,
    kind     TEXT NOT NULL,
    id       TEXT NOT NULL,
    body     BLOB,
    sealed   INTEGER NOT NULL,
    created  INTEGER  NOT NULL,
    PRIMARY KEY (group_id, revision, kind, id),
    FOREIGN KEY (group_id, revision) REFERENCES change_set (group_id, revision) ON DELETE CASCADE
) STRICT;

-- Join tokens; only their hashes.
CREATE TABLE token (
    id         TEXT PRIMARY KEY,
    group_id   TEXT NOT NULL REFERENCES gateway_group (id) ON DELETE CASCADE,
    name       TEXT   NOT NULL,
    hash       BLOB  NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER
) STRICT;
CREATE INDEX token_group ON token (group_id);

-- Keys of the Admin API; only their hashes.
CREATE TABLE admin_key (
    name       TEXT PRIMARY KEY,
    role       TEXT   NOT NULL,
    hash       BLOB  NOT NULL UNIQUE,
    created_at INTEGER NOT NULL
) STRICT;

-- Gateway nodes: who they are, and what they last reported.
CREATE TABLE node (
    group_id    TEXT NOT NULL REFERENCES gateway_group (id) ON DELETE CASCADE,
    id          TEXT NOT NULL,
    token_id    TEXT NOT NULL REFERENCES token (id) ON DELETE CASCADE,
    certificate TEXT   NOT NULL,
    host        TEXT   NOT NULL,
    version     TEXT   NOT NULL,
    joined_at   INTEGER NOT NULL,
    revoked_at  INTEGER,
    boot        TEXT,
    reported_at INTEGER,
    lineage     TEXT,
    revision    INTEGER,
    digest      BLOB,
    rejected    TEXT,
    PRIMARY KEY (group_id, id)
) STRICT;
CREATE INDEX node_token ON node (token_id);

-- What the planner cannot know of empty tables, and must know before they fill: groups, kinds and plugins are few, what lies
-- within them is much. Without it, it would search a whole group for a single object. (Rows, then rows for each value of the
-- first column of the index, of the first two, and so on.)
ANALYZE;
INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES
    ('resource', 'sqlite_autoindex_resource_1', '1000000 1000000 100000 1'),
    ('reference', 'sqlite_autoindex_reference_1', '1000000 1000000 100000 2 2 1 1'),
    ('reference', 'reference_target', '1000000 1000000 100000 10'),
    ('key_digest', 'sqlite_autoindex_key_digest_1', '1000000 1000000 500000 1 1 1'),
    ('key_digest', 'key_digest_holder', '1000000 1000000 500000 1'),
    ('change', 'sqlite_autoindex_change_1', '1000000 1000000 1 1 1');
ANALYZE sqlite_schema;
