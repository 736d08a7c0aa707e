-- What nodes have told of their routes, for charts: one row for each gateway group, step and DP manager. `at` is the end of the step and
-- `span` its length, in seconds; `nodes` have told and still had a stream at the end, all that told did so over `covered_ms`
-- together; `routes` is what, by route.
CREATE TABLE route_sample (
    span       INTEGER NOT NULL,
    at         INTEGER NOT NULL,
    group_id   TEXT NOT NULL,
    member     TEXT NOT NULL,
    nodes      INTEGER NOT NULL,
    covered_ms INTEGER NOT NULL,
    routes     TEXT NOT NULL,
    PRIMARY KEY (span, at, group_id, member)
) STRICT;
