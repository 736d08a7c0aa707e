-- What each group was last declared to be as a whole (`PUT /configs`). `number` counts the declarations of a group, `revision` is
-- where the group stood after this one, `digest` is the client's word for it; `body`, always sealed, is what only the client reads.
CREATE TABLE declaration (
    group_id TEXT PRIMARY KEY REFERENCES gateway_group (id) ON DELETE CASCADE,
    number   INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    digest   TEXT    NOT NULL,
    at       INTEGER NOT NULL,
    body     BLOB    NOT NULL
) STRICT;
