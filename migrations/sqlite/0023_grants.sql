-- Of accounts of a provider of OpenID Connect: which of `grants` were given by hand (docs/access.md). The others come of the provider's
-- groups, and go with them.
ALTER TABLE account ADD COLUMN by_hand TEXT NOT NULL DEFAULT '[]';

-- Keys of the Admin API with a role of any name, in all gateway groups. Programs of before know nothing of them, and let none in.
CREATE TABLE role_key (
    name       TEXT PRIMARY KEY,
    role       TEXT NOT NULL,
    hash       BLOB   NOT NULL UNIQUE,
    created_at INTEGER NOT NULL
) STRICT;

-- The entity tag that was told with the answer, if there was one.
ALTER TABLE idempotency ADD COLUMN etag TEXT;
