-- What happened, for whoever follows (docs/events.md). An id is the database's clock in milliseconds, or the id before and one more
-- where that is greater. Each transaction that adds events holds the row of `event_log`, so that ids grow in the order of commits:
-- whoever has read up to an id misses nothing that comes later. `data` is JSON without secrets.
CREATE TABLE event (
    id       BIGINT PRIMARY KEY,
    kind     TEXT COLLATE "C" NOT NULL,
    group_id TEXT COLLATE "C",
    subject  TEXT COLLATE "C" NOT NULL,
    data     TEXT NOT NULL
);

-- One row. `last` is the newest id, `floor` the newest one that is not kept any more.
CREATE TABLE event_log (
    one   BIGINT PRIMARY KEY CHECK (one = 1),
    last  BIGINT NOT NULL,
    floor BIGINT NOT NULL
);
INSERT INTO event_log (one, last, floor) VALUES (1, 0, 0);

-- What was told last of each thing: an event is the difference from it. `group_id` is empty for what belongs to no group; `state` is
-- JSON.
CREATE TABLE event_told (
    kind     TEXT COLLATE "C" NOT NULL,
    group_id TEXT COLLATE "C" NOT NULL,
    subject  TEXT COLLATE "C" NOT NULL,
    state    TEXT NOT NULL,
    PRIMARY KEY (kind, group_id, subject)
);
