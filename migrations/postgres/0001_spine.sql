-- The base of everything: groups, their objects, history, keys and nodes (crate `store`).
-- Ids compare in byte order whatever the locale of the cluster, hence COLLATE "C".

-- Data-encryption keys, each wrapped by the sealing key whose fingerprint `master` names. The greatest id seals.
CREATE TABLE data_key (
    id         BIGINT PRIMARY KEY,
    wrapped    BYTEA  NOT NULL,
    master     TEXT   NOT NULL,
    created_at BIGINT NOT NULL
);

-- Named blobs, sealed by a data key: the certificate authority, the key of lookup digests.
CREATE TABLE secret (
    name       TEXT COLLATE "C" PRIMARY KEY,
    value      BYTEA  NOT NULL,
    created_at BIGINT NOT NULL
);

-- `head` is the newest revision, `floor` the oldest from which a delta can be made; `epoch` grows with every change to the
-- group besides its objects (settings, revoked tokens and nodes); `lineage` names the history that the revisions count.
CREATE TABLE gateway_group (
    id         TEXT COLLATE "C" PRIMARY KEY,
    name       TEXT   NOT NULL,
    labels     TEXT   NOT NULL,
    settings   TEXT   NOT NULL,
    lineage    TEXT   NOT NULL,
    head       BIGINT NOT NULL,
    floor      BIGINT NOT NULL,
    epoch      BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    CHECK (0 <= floor AND floor <= head)
);

-- The objects as they stand. `body` is sealed where `sealed` says so; `created` and `modified` are revisions.
CREATE TABLE resource (
    group_id   TEXT COLLATE "C" NOT NULL REFERENCES gateway_group (id) ON DELETE CASCADE,
    kind       TEXT COLLATE "C" NOT NULL,
    id         TEXT COLLATE "C" NOT NULL,
    body       BYTEA   NOT NULL,
    sealed     BOOLEAN NOT NULL,
    created    BIGINT  NOT NULL,
    modified   BIGINT  NOT NULL,
    expires_at BIGINT,
    PRIMARY KEY (group_id, kind, id)
);
CREATE INDEX resource_expiry ON resource (expires_at) WHERE expires_at IS NOT NULL;

-- Which object names which. No key on the target: references may dangle (forced deletion, expiry).
CREATE TABLE reference (
    group_id  TEXT COLLATE "C" NOT NULL,
    from_kind TEXT COLLATE "C" NOT NULL,
    from_id   TEXT COLLATE "C" NOT NULL,
    plugin    TEXT COLLATE "C" NOT NULL,
    to_kind   TEXT COLLATE "C" NOT NULL,
    to_id     TEXT COLLATE "C" NOT NULL,
    hinders   BOOLEAN NOT NULL,
    PRIMARY KEY (group_id, from_kind, from_id, plugin, to_kind, to_id),
    FOREIGN KEY (group_id, from_kind, from_id) REFERENCES resource (group_id, kind, id) ON DELETE CASCADE
);
CREATE INDEX reference_target ON reference (group_id, to_kind, to_id);

-- Keyed hashes of lookup keys (an API key, a user name). One digest belongs to one owner: a consumer and its credentials
-- are one owner and may repeat it, which no unique index can say; writers of a group check it while they hold its row.
CREATE TABLE key_digest (
    group_id TEXT COLLATE "C" NOT NULL,
    plugin   TEXT COLLATE "C" NOT NULL,
    digest   BYTEA NOT NULL,
    kind     TEXT COLLATE "C" NOT NULL,
    id       TEXT COLLATE "C" NOT NULL,
    owner    TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (group_id, plugin, digest, kind, id),
    FOREIGN KEY (group_id, kind, id) REFERENCES resource (group_id, kind, id) ON DELETE CASCADE
);
CREATE INDEX key_digest_holder ON key_digest (group_id, kind, id);

-- One atomic publish each; append-only above the floor.
CREATE TABLE change_set (
    group_id TEXT COLLATE "C" NOT NULL REFERENCES gateway_group (id) ON DELETE CASCADE,
    revision BIGINT NOT NULL,
    author   TEXT   NOT NULL,
    message  TEXT   NOT NULL,
    source   TEXT   NOT NULL,
    at       BIGINT NOT NULL,
    puts     BIGINT NOT NULL,
    deletes  BIGINT NOT NULL,
    PRIMARY KEY (group_id, revision)
);

-- What each change set did to each object; a NULL body is a deletion. `created` as in `resource`.
CREATE TABLE change (
    group_id TEXT COLLATE "C" NOT NULL,
    revision BIGINT NOT NULL,
    kind     TEXT COLLATE "C" NOT NULL,
    id       TEXT COLLATE "C" NOT NULL,
    body     BYTEA,
    sealed   BOOLEAN NOT NULL,
    created  BIGINT  NOT NULL,
    PRIMARY KEY (group_id, revision, kind, id),
    FOREIGN KEY (group_id, revision) REFERENCES change_set (group_id, revision) ON DELETE CASCADE
);

-- Join tokens; only their hashes.
CREATE TABLE token (
    id         TEXT COLLATE "C" PRIMARY KEY,
    group_id   TEXT COLLATE "C" NOT NULL REFERENCES gateway_group (id) ON DELETE CASCADE,
    name       TEXT   NOT NULL,
    hash       BYTEA  NOT NULL UNIQUE,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    revoked_at BIGINT
);
CREATE INDEX token_group ON token (group_id);

-- Keys of the Admin API; only their hashes.
CREATE TABLE admin_key (
    name       TEXT COLLATE "C" PRIMARY KEY,
    role       TEXT   NOT NULL,
    hash       BYTEA  NOT NULL UNIQUE,
    created_at BIGINT NOT NULL
);

-- Gateway nodes: who they are, and what they last reported.
CREATE TABLE node (
    group_id    TEXT COLLATE "C" NOT NULL REFERENCES gateway_group (id) ON DELETE CASCADE,
    id          TEXT COLLATE "C" NOT NULL,
    token_id    TEXT COLLATE "C" NOT NULL REFERENCES token (id) ON DELETE CASCADE,
    certificate TEXT   NOT NULL,
    host        TEXT   NOT NULL,
    version     TEXT   NOT NULL,
    joined_at   BIGINT NOT NULL,
    revoked_at  BIGINT,
    boot        TEXT,
    reported_at BIGINT,
    lineage     TEXT,
    revision    BIGINT,
    digest      BYTEA,
    rejected    TEXT,
    PRIMARY KEY (group_id, id)
);
CREATE INDEX node_token ON node (token_id);
