-- Samples of what connected nodes have counted since their processes started, for charts: one row for each node and step. `at` is the
-- step, `reported_at` when the node said it, in Unix seconds by the database's clock; `traffic` is that of the node then.
CREATE TABLE node_sample (
    at          BIGINT NOT NULL,
    group_id    TEXT COLLATE "C" NOT NULL,
    node_id     TEXT COLLATE "C" NOT NULL,
    boot        TEXT NOT NULL,
    reported_at BIGINT NOT NULL,
    traffic     TEXT NOT NULL,
    PRIMARY KEY (at, group_id, node_id)
);
