-- What availability is probed of beside the cluster's own parts: addresses that operators have given.
CREATE TABLE probe (
    id   TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    url  TEXT NOT NULL
) STRICT;

-- What was seen of the cluster, its replicas, nodes and probes: one row for as long as nothing changed. `group_id` is '' where there is
-- no group. Times are Unix seconds of the database's clock: the first and the last look at which it was so.
CREATE TABLE availability (
    kind     TEXT NOT NULL,
    group_id TEXT NOT NULL,
    name     TEXT NOT NULL,
    began_at INTEGER NOT NULL,
    seen_at  INTEGER NOT NULL,
    is_up    INTEGER NOT NULL,
    detail   TEXT NOT NULL,
    PRIMARY KEY (kind, group_id, name, began_at)
) STRICT;
CREATE INDEX availability_seen ON availability (seen_at);
