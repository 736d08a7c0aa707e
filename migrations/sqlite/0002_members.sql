-- The replicas of the control plane, what one of them alone does, and how far revisions have come.
-- Times of `member` and `lease` are milliseconds of the database's clock, so that replicas need not agree on the time.

-- Each process of the control plane, as long as its heart beats. `roles` are names with commas between them.
CREATE TABLE member (
    id         TEXT PRIMARY KEY,
    roles      TEXT   NOT NULL,
    host       TEXT   NOT NULL,
    version    TEXT   NOT NULL,
    address    TEXT   NOT NULL,
    started_at INTEGER NOT NULL,
    beat_at    INTEGER NOT NULL
) STRICT;

-- What one member at a time holds. `epoch` grows with each term of office: work done under an older one is refused.
CREATE TABLE lease (
    name    TEXT PRIMARY KEY,
    holder  TEXT NOT NULL,
    epoch   INTEGER NOT NULL,
    ends_at INTEGER NOT NULL
) STRICT;

-- For each gateway group and DP manager: what its connected nodes run. `standing` is JSON, written by crate `control`.
CREATE TABLE receipt (
    group_id TEXT NOT NULL REFERENCES gateway_group (id) ON DELETE CASCADE,
    member   TEXT NOT NULL REFERENCES member (id) ON DELETE CASCADE,
    standing TEXT NOT NULL,
    PRIMARY KEY (group_id, member)
) STRICT;
CREATE INDEX receipt_member ON receipt (member);

-- `member` is the DP manager that reported last; `connected` whether the node had a stream to it then.
ALTER TABLE node ADD COLUMN connected INTEGER NOT NULL DEFAULT 0;
ALTER TABLE node ADD COLUMN member TEXT;
