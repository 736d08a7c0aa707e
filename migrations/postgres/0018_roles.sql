-- Roles beside the built-in ones, and people whom a provider of OpenID Connect knows (docs/access.md). Times are Unix seconds.

-- `allows` is JSON: lists of resources by action. `version` grows with each change.
CREATE TABLE role (
    name        TEXT COLLATE "C" PRIMARY KEY,
    description TEXT   NOT NULL,
    allows      TEXT   NOT NULL,
    version     BIGINT NOT NULL,
    created_at  BIGINT NOT NULL,
    changed_at  BIGINT NOT NULL
);

-- Whom `issuer` calls `subject`; both NULL: nobody it knows. The `password` of such an account is empty, which no password matches.
ALTER TABLE account ADD COLUMN issuer TEXT COLLATE "C";
ALTER TABLE account ADD COLUMN subject TEXT COLLATE "C";
CREATE UNIQUE INDEX account_subject ON account (issuer, subject);

-- Logins through a provider that have come to their end, by the hash of what names them: none does so twice.
CREATE TABLE login_done (
    hash BYTEA  PRIMARY KEY,
    at   BIGINT NOT NULL
);
