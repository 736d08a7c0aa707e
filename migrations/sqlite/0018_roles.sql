-- Roles beside the built-in ones, and people whom a provider of OpenID Connect knows (docs/access.md). Times are Unix seconds.

-- `allows` is JSON: lists of resources by action. `version` grows with each change.
CREATE TABLE role (
    name        TEXT PRIMARY KEY,
    description TEXT   NOT NULL,
    allows      TEXT   NOT NULL,
    version     INTEGER NOT NULL,
    created_at  INTEGER NOT NULL,
    changed_at  INTEGER NOT NULL
) STRICT;

-- Whom `issuer` calls `subject`; both NULL: nobody it knows. The `password` of such an account is empty, which no password matches.
ALTER TABLE account ADD COLUMN issuer TEXT;
ALTER TABLE account ADD COLUMN subject TEXT;
CREATE UNIQUE INDEX account_subject ON account (issuer, subject);

-- Logins through a provider that have come to their end, by the hash of what names them: none does so twice.
CREATE TABLE login_done (
    hash BLOB   PRIMARY KEY,
    at   INTEGER NOT NULL
) STRICT;
