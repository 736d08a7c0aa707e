-- What happened, for whoever follows (docs/events.md). An id is the database's clock in milliseconds, or the id before and one more
-- where that is greater. Each transaction that adds events holds the row of `event_log`, so that ids grow in the order of commits:
-- whoever has read up to an id misses nothing that comes later. `data` is JSON without secrets.
CREATE TABLE event (
    id       INTEGER PRIMARY KEY,
    kind     TEXT NOT NULL,
    group_id TEXT,
    subject  TEXT NOT NULL,
    data     TEXT NOT NULL
) STRICT;

-- One row. `last` is the newest id, `floor` the newest one that is not kept any more.
CREATE TABLE event_log (
    one   INTEGER PRIMARY KEY CHECK (one = 1),
    last  INTEGER NOT NULL,
    floor INTEGER NOT NULL
) STRICT;
INSERT INTO event_log (one, last, floor) VALUES (1, 0, 0);

-- What was told last of each thing: an event is the difference from it. `group_id` is empty for what belongs to no group; `state` is
-- JSON.
CREATE TABLE event_told (
    kind     TEXT NOT NULL,
    group_id TEXT NOT NULL,
    subject  TEXT NOT NULL,
    state    TEXT NOT NULL,
    PRIMARY KEY (kind, group_id, subject)
) STRICT;
