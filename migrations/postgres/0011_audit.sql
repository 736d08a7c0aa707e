-- Who changed what (docs/audit.md). Entries refer to nothing, since they outlast what they are about, and revisions too.
-- `at` is milliseconds of the database's clock. `before` and `after` are JSON without secrets: of what was changed, the members that
-- differ. `times` is more than 1 where refusals of one kind are counted together.
CREATE TABLE audit (
    id         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         BIGINT NOT NULL DEFAULT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT),
    actor_kind TEXT COLLATE "C" NOT NULL,
    actor      TEXT COLLATE "C" NOT NULL,
    actor_id   TEXT COLLATE "C" NOT NULL,
    address    TEXT COLLATE "C",
    request    TEXT COLLATE "C",
    group_id   TEXT COLLATE "C",
    kind       TEXT COLLATE "C" NOT NULL,
    object     TEXT COLLATE "C" NOT NULL,
    action     TEXT COLLATE "C" NOT NULL,
    outcome    TEXT COLLATE "C" NOT NULL,
    revision   BIGINT,
    before     TEXT,
    after      TEXT,
    times      BIGINT NOT NULL DEFAULT 1
);
CREATE INDEX audit_at ON audit (at);
CREATE INDEX audit_actor ON audit (actor, id);
CREATE INDEX audit_object ON audit (kind, object, id);
