-- Samples of what connected nodes have counted since their processes started, for charts: one row for each node and step. `at` is the
-- step, `reported_at` when the node said it, in Unix seconds by the database's clock; `traffic` is that of the node then.
CREATE TABLE node_sample (
    at          INTEGER NOT NULL,
    group_id    TEXT NOT NULL,
    node_id     TEXT NOT NULL,
    boot        TEXT NOT NULL,
    reported_at INTEGER NOT NULL,
    traffic     TEXT NOT NULL,
    PRIMARY KEY (at, group_id, node_id)
) STRICT;
