-- Progressive rollout (docs/rollout.md): new revisions go to a group's canaries first.

-- `staged` says whether they do. While a rollout is on, `base` is the revision that every node may have, and `candidate` the one that
-- the canaries may have; both are NULL otherwise, and every node may have the head.
ALTER TABLE gateway_group ADD COLUMN staged BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE gateway_group ADD COLUMN base BIGINT;
ALTER TABLE gateway_group ADD COLUMN candidate BIGINT;

-- `policy`, `stage` and `record` are JSON, written by crate `control`. `stage` is NULL where no rollout is on, and where nobody has
-- looked at the one that is: its candidate still follows the head. `version` grows with each change of the row.
CREATE TABLE rollout (
    group_id TEXT COLLATE "C" PRIMARY KEY REFERENCES gateway_group (id) ON DELETE CASCADE,
    version  BIGINT NOT NULL,
    policy   TEXT   NOT NULL,
    stage    TEXT,
    record   TEXT   NOT NULL
);

-- What a node has counted of its traffic, as JSON written by crate `control`; NULL: it has not told.
ALTER TABLE node ADD COLUMN traffic TEXT;
