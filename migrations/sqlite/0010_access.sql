-- People and machines that may use the API (docs/access.md). Of passwords, sessions and tokens there are only hashes.
-- Times are Unix seconds, but those of `login_failure`, which are milliseconds.

-- `password` is a PHC string; `grants` a JSON list of {"role", "groups"}.
CREATE TABLE account (
    name        TEXT PRIMARY KEY,
    password    TEXT    NOT NULL,
    password_at INTEGER  NOT NULL,
    must_change INTEGER NOT NULL,
    grants      TEXT    NOT NULL,
    disabled_at INTEGER,
    created_at  INTEGER  NOT NULL
) STRICT;

-- A browser that somebody has logged in with; `address` is where from.
CREATE TABLE session (
    hash       BLOB  PRIMARY KEY,
    account    TEXT NOT NULL REFERENCES account (name) ON DELETE CASCADE,
    address    TEXT   NOT NULL,
    created_at INTEGER NOT NULL,
    used_at    INTEGER NOT NULL
) STRICT;
CREATE INDEX session_account ON session (account);

-- Logins that failed, by the name of the account and by the address, since the last success or long silence.
CREATE TABLE login_failure (
    subject  TEXT PRIMARY KEY,
    failures INTEGER NOT NULL,
    last_at  INTEGER NOT NULL
) STRICT;

-- Tokens of machines.
CREATE TABLE api_token (
    id         TEXT PRIMARY KEY,
    name       TEXT   NOT NULL,
    hash       BLOB  NOT NULL UNIQUE,
    grants     TEXT   NOT NULL,
    created_by TEXT   NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER,
    used_at    INTEGER,
    used_from  TEXT
) STRICT;
