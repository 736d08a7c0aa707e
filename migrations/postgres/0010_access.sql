-- People and machines that may use the API (docs/access.md). Of passwords, sessions and tokens there are only hashes.
-- Times are Unix seconds, but those of `login_failure`, which are milliseconds.

-- `password` is a PHC string; `grants` a JSON list of {"role", "groups"}.
CREATE TABLE account (
    name        TEXT COLLATE "C" PRIMARY KEY,
    password    TEXT    NOT NULL,
    password_at BIGINT  NOT NULL,
    must_change BOOLEAN NOT NULL,
    grants      TEXT    NOT NULL,
    disabled_at BIGINT,
    created_at  BIGINT  NOT NULL
);

-- A browser that somebody has logged in with; `address` is where from.
CREATE TABLE session (
    hash       BYTEA  PRIMARY KEY,
    account    TEXT COLLATE "C" NOT NULL REFERENCES account (name) ON DELETE CASCADE,
    address    TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    used_at    BIGINT NOT NULL
);
CREATE INDEX session_account ON session (account);

-- Logins that failed, by the name of the account and by the address, since the last success or long silence.
CREATE TABLE login_failure (
    subject  TEXT COLLATE "C" PRIMARY KEY,
    failures BIGINT NOT NULL,
    last_at  BIGINT NOT NULL
);

-- Tokens of machines.
CREATE TABLE api_token (
    id         TEXT COLLATE "C" PRIMARY KEY,
    name       TEXT   NOT NULL,
    hash       BYTEA  NOT NULL UNIQUE,
    grants     TEXT   NOT NULL,
    created_by TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    revoked_at BIGINT,
    used_at    BIGINT,
    used_from  TEXT
);
