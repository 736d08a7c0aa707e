-- Writes that clients have named (docs/api.md): such a write is done once, however often it is asked for. A row is made in the
-- transaction of its write. `request` is a keyed hash of what was asked for; `status` and `answer` (sealed) are what was answered, null
-- where the process ended before it knew. `at` is Unix time in seconds.
CREATE TABLE idempotency (
    actor_kind TEXT COLLATE "C" NOT NULL,
    actor_id   TEXT COLLATE "C" NOT NULL,
    key        TEXT COLLATE "C" NOT NULL,
    request    BYTEA  NOT NULL,
    status     BIGINT,
    answer     BYTEA,
    at         BIGINT NOT NULL,
    PRIMARY KEY (actor_kind, actor_id, key)
);
CREATE INDEX idempotency_at ON idempotency (at);
