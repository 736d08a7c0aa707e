-- What availability is probed of beside the cluster's own parts: addresses that operators have given.
CREATE TABLE probe (
    id   TEXT COLLATE "C" PRIMARY KEY,
    name TEXT NOT NULL,
    url  TEXT NOT NULL
);

-- What was seen of the cluster, its replicas, nodes and probes: one row for as long as nothing changed. `group_id` is '' where there is
-- no group. Times are Unix seconds of the database's clock: the first and the last look at which it was so.
CREATE TABLE availability (
    kind     TEXT COLLATE "C" NOT NULL,
    group_id TEXT COLLATE "C" NOT NULL,
    name     TEXT COLLATE "C" NOT NULL,
    began_at BIGINT NOT NULL,
    seen_at  BIGINT NOT NULL,
    is_up    BOOLEAN NOT NULL,
    detail   TEXT NOT NULL,
    PRIMARY KEY (kind, group_id, name, began_at)
);
CREATE INDEX availability_seen ON availability (seen_at);
