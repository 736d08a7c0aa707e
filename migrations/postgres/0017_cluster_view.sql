-- Lines of the logs of nodes, of level WARN and ERROR: one row for each line that a node wrote, however often it did. `times` is the
-- number of times in all runs of its process; `in_boot` that of the run `boot`. Times are Unix seconds of the database's clock.
CREATE TABLE node_warning (
    group_id TEXT COLLATE "C" NOT NULL,
    node_id  TEXT COLLATE "C" NOT NULL,
    is_error BOOLEAN NOT NULL,
    target   TEXT COLLATE "C" NOT NULL,
    text     TEXT COLLATE "C" NOT NULL,
    boot     TEXT COLLATE "C" NOT NULL,
    times    BIGINT NOT NULL,
    in_boot  BIGINT NOT NULL,
    first_at BIGINT NOT NULL,
    last_at  BIGINT NOT NULL,
    PRIMARY KEY (group_id, node_id, is_error, target, text),
    FOREIGN KEY (group_id, node_id) REFERENCES node (group_id, id) ON DELETE CASCADE
);
CREATE INDEX node_warning_last ON node_warning (last_at);

-- Links to other systems (docs/api.md), for people.
CREATE TABLE link (
    id          TEXT COLLATE "C" PRIMARY KEY,
    name        TEXT COLLATE "C" NOT NULL,
    url         TEXT NOT NULL,
    description TEXT NOT NULL
);
