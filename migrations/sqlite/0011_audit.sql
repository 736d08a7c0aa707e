-- Who changed what (docs/audit.md). Entries refer to nothing, since they outlast what they are about, and revisions too.
-- `at` is milliseconds of the database's clock. `before` and `after` are JSON without secrets: of what was changed, the members that
-- differ. `times` is more than 1 where refusals of one kind are counted together.
CREATE TABLE audit (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    at         INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS INTEGER)),
    actor_kind TEXT NOT NULL,
    actor      TEXT NOT NULL,
    actor_id   TEXT NOT NULL,
    address    TEXT,
    request    TEXT,
    group_id   TEXT,
    kind       TEXT NOT NULL,
    object     TEXT NOT NULL,
    action     TEXT NOT NULL,
    outcome    TEXT NOT NULL,
    revision   INTEGER,
    before     TEXT,
    after      TEXT,
    times      INTEGER NOT NULL DEFAULT 1
) STRICT;
CREATE INDEX audit_at ON audit (at);
CREATE INDEX audit_actor ON audit (actor, id);
CREATE INDEX audit_object ON audit (kind, object, id);
